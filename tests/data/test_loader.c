/* Epochs and batches: every document in its turn, the same rows however they are taken. */
#include "tests/data/data_support.h"

#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LENGTH = 64 };

/* Prompt/completion rows of all lengths; row i's prompt begins with its number. */
static char *rows_file(const char *dir, const char *name, int n)
{
    StrBuf b = {0};
    for (int i = 0; i < n; i++) {
        strbuf_printf(&b, "{\"prompt\":\"%d:", i);
        for (uint64_t k = rng_below(1, (uint64_t)i, 30); k > 0; k--)
            strbuf_putc(&b, 'p');
        strbuf_puts(&b, "\",\"completion\":\"");
        for (uint64_t k = rng_below(2, (uint64_t)i, 20); k > 0; k--)
            strbuf_putc(&b, 'a');
        strbuf_puts(&b, "\"}\n");
    }
    char *path = put_file(dir, name, b.data);
    strbuf_clear(&b);
    return path;
}

static Dataset *open_rows(DataOpts *opts, const Tokenizer *t)
{
    Dataset *d = NULL, *eval = NULL;
    Log log = {0};
    Problems p = {0};
    cr_assert(dataset_open(&d, &eval, opts, t, NULL, &log, &p) == OK, "%s", p.n ? p.lines[0] : "");
    return d;
}

typedef struct Set {
    char *dir;
    Tokenizer *t;
    DataSource src[2];
    DataOpts opts;
    Dataset *d;
} Set;

static Set set_open(int n, Packing packing, double weight)
{
    Set s = {.dir = tmp_dir()};
    s.t = byte_tokenizer(s.dir, 0);
    s.src[0] =
        (DataSource){.path = rows_file(s.dir, "a", n), .format = DATA_COMPLETION, .weight = weight};
    s.opts =
        (DataOpts){.n_train = 1, .packing = packing, .max_length = MAX_LENGTH, .shuffle = true};
    s.opts.train = s.src;
    s.d = open_rows(&s.opts, s.t);
    return s;
}

static void set_close(Set *s)
{
    dataset_free(s->d);
    free(s->src[0].path);
    tokenizer_free(s->t);
    tmp_dir_remove(s->dir);
}

/* All of a batch agrees with the data set and with itself. */
static void check_batch(const Set *s, const HostBatch *b, int64_t *uses)
{
    int64_t trained = 0, real = 0, longest = 0;
    cr_assert_eq(b->cu_docs[0], 0);
    cr_assert_eq(b->cu_docs[b->n_docs], b->n_tokens);
    for (int k = 0; k < b->n_docs; k++) {
        int64_t from = b->cu_docs[k], n = b->cu_docs[k + 1] - from;
        int64_t id = b->samples[from] & (((int64_t)1 << 40) - 1);
        Document doc = dataset_document(s->d, id); /* one source: ids are indices */
        cr_assert_eq(doc.id, id);
        cr_assert(doc.n <= n);
        cr_assert(s->opts.packing == PACK_OFF || doc.n == n);
        for (int64_t i = 0; i < n; i++) {
            cr_assert_eq(b->positions[from + i], i);
            cr_assert_eq(b->samples[from + i], b->samples[from]);
            cr_assert_eq(b->ids[from + i], i < doc.n ? doc.ids[i] : BYTE_PAD);
            int32_t want = i + 1 < doc.n && doc.labels[i + 1] != -100 ? doc.ids[i + 1] : -1;
            cr_assert_eq(b->targets[from + i], want);
            trained += want >= 0;
        }
        real += doc.n;
        longest = n > longest ? n : longest;
        uses[id]++;
    }
    cr_assert_eq(b->n_trained, trained);
    cr_assert_eq(b->n_real, real);
    cr_assert_eq(b->max_doc, longest);
}

Test(loader, an_epoch_has_every_document_once)
{
    for (int packing = PACK_BEST_FIT; packing <= PACK_OFF; packing++) {
        Set s = set_open(500, (Packing)packing, 1);
        Loader *l = loader_new(s.d, &s.opts, 7, 6);
        HostBatch b = {0};
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            int64_t *uses = xcalloc(500, sizeof *uses), rows = 0;
            for (int64_t step = 0; step < loader_steps(l, epoch); step++) {
                StepInfo info = loader_step(l, epoch, step);
                cr_assert_eq(info.first_row, rows);
                loader_rows_fill(l, epoch, info.first_row, info.n_rows, &b);
                check_batch(&s, &b, uses);
                cr_assert_eq(info.n_trained, b.n_trained);
                cr_assert_eq(info.n_tokens, b.n_real);
                cr_assert_eq(info.n_docs, b.n_docs);
                StepInfo most = loader_max(l, epoch, info.n_rows);
                cr_assert(b.n_tokens <= most.n_tokens && b.n_trained <= most.n_trained &&
                          b.n_docs <= most.n_docs);
                rows += info.n_rows;
            }
            cr_assert_eq(rows, loader_rows(l, epoch));
            for (int i = 0; i < 500; i++)
                cr_assert_eq(uses[i], 1, "epoch %d document %d", (int)epoch, i);
            free(uses);
        }
        const DataReport *r = dataset_report(s.d);
        cr_expect_eq(r->packed_rows, loader_rows(l, 0));
        if (packing == PACK_BEST_FIT) cr_expect(r->fill > 0.9, "fill %.3f", r->fill);
        loader_rows_fill(l, 0, 3, 0, &b);
        cr_expect(b.n_tokens == 0 && b.n_docs == 0 && b.cu_docs[0] == 0 && b.n_trained == 0);
        host_batch_clear(&b);
        loader_free(l);
        set_close(&s);
    }
}

/* The real tokens of rows [from, to), taken `micro` rows at a time. */
static char *taken(Loader *l, int64_t epoch, int64_t from, int64_t to, int64_t micro)
{
    StrBuf text = {0};
    HostBatch b = {0};
    for (int64_t r = from; r < to; r += micro) {
        loader_rows_fill(l, epoch, r, to - r < micro ? to - r : micro, &b);
        for (int64_t i = 0; i < b.n_tokens; i++)
            if (b.ids[i] != BYTE_PAD)
                strbuf_printf(&text, "%d,%d,%d,%lld ", b.ids[i], b.targets[i], b.positions[i],
                              (long long)b.samples[i]);
    }
    host_batch_clear(&b);
    return strbuf_take(&text);
}

Test(loader, rows_do_not_depend_on_how_they_are_taken)
{
    for (int packing = PACK_BEST_FIT; packing <= PACK_CONCAT; packing++) {
        Set s = set_open(200, (Packing)packing, 1);
        Loader *a = loader_new(s.d, &s.opts, 3, 8), *b = loader_new(s.d, &s.opts, 3, 5);
        int64_t rows = loader_rows(a, 2);
        char *want = taken(a, 2, 0, rows, rows);
        for (int64_t micro = 1; micro < 9; micro += 3) {
            char *c = taken(a, 1, 0, 4, micro); /* another epoch between changes nothing */
            char *got = taken(b, 2, 0, rows, micro);
            cr_expect(strcmp(got, want) == 0, "packing %d, %d rows", packing, (int)micro);
            free(c);
            free(got);
        }
        Loader *other = loader_new(s.d, &s.opts, 4, 8);
        char *seed = taken(other, 2, 0, loader_rows(other, 2), rows);
        char *epoch = taken(a, 3, 0, loader_rows(a, 3), rows);
        cr_expect(strcmp(seed, want) != 0 && strcmp(epoch, want) != 0);
        free(want), free(seed), free(epoch);
        loader_free(a);
        loader_free(b);
        loader_free(other);
        set_close(&s);
    }
}

Test(loader, unshuffled_rows_keep_the_order)
{
    Set s = set_open(100, PACK_OFF, 1);
    s.opts.shuffle = false;
    Loader *l = loader_new(s.d, &s.opts, 3, 1);
    HostBatch b = {0};
    for (int64_t r = 0; r < 100; r++) {
        loader_rows_fill(l, 5, r, 1, &b);
        cr_assert_eq(b.samples[0], r);
    }
    host_batch_clear(&b);
    loader_free(l);
    set_close(&s);
}

/* Best fit works from long to short documents: that must not be seen in the rows' order.  Also nearby rows
 * of one epoch lie apart in the next. */
Test(loader, rows_are_well_shuffled)
{
    Set s = set_open(3000, PACK_BEST_FIT, 1);
    Loader *l = loader_new(s.d, &s.opts, 11, 1);
    int64_t n = loader_rows(l, 0);
    double mx = (double)(n - 1) / 2, md = 0, sxx = 0, sxy = 0, sdd = 0;
    for (int64_t r = 0; r < n; r++)
        md += (double)loader_step(l, 0, r).n_docs / (double)n;
    for (int64_t r = 0; r < n; r++) {
        double x = (double)r - mx, d = (double)loader_step(l, 0, r).n_docs - md;
        sxx += x * x, sdd += d * d, sxy += x * d;
    }
    cr_expect(fabs(sxy / sqrt(sxx * sdd)) < 4 / sqrt((double)n), "correlation %g",
              sxy / sqrt(sxx * sdd));
    HostBatch b = {0};
    int64_t *row_of = xcalloc(3000, sizeof *row_of), near = 0;
    for (int64_t epoch = 0; epoch < 2; epoch++)
        for (int64_t r = 0; r < loader_rows(l, epoch); r++) {
            loader_rows_fill(l, epoch, r, 1, &b);
            for (int k = 0; k < b.n_docs; k++) {
                int64_t id = b.samples[b.cu_docs[k]];
                if (epoch == 1) near += llabs(row_of[id] - r) < n / 20;
                row_of[id] = r;
            }
        }
    cr_expect(near > 150 && near < 450, "%d of 3000 stay near (a tenth is chance)", (int)near);
    host_batch_clear(&b);
    free(row_of);
    loader_free(l);
    set_close(&s);
}

Test(loader, weights)
{
    static const struct {
        double weight;
        int epochs, total; /* after so many epochs every document was used so often */
    } cases[] = {{2, 1, 2}, {0.5, 2, 1}, {1.25, 4, 5}, {0.3, 10, 3}, {3.1, 10, 31}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Set s = set_open(101, PACK_OFF, cases[c].weight);
        Loader *l = loader_new(s.d, &s.opts, 5, 1);
        HostBatch b = {0};
        int64_t uses[101] = {0};
        for (int64_t e = 0; e < cases[c].epochs; e++) {
            int64_t rows = loader_rows(l, e);
            cr_expect(llabs(rows - (int64_t)(101 * cases[c].weight)) <= 1);
            bool seen[101][8] = {{false}};
            for (int64_t r = 0; r < rows; r++) {
                loader_rows_fill(l, e, r, 1, &b);
                int64_t id = b.samples[0] & 0xFFFFFFFFFF, copy = b.samples[0] >> 40;
                cr_assert(copy < 8 && !seen[id][copy]);
                seen[id][copy] = true;
                uses[id]++;
            }
        }
        for (int i = 0; i < 101; i++)
            cr_expect_eq(uses[i], cases[c].total, "weight %g, document %d: %d", cases[c].weight, i,
                         (int)uses[i]);
        host_batch_clear(&b);
        loader_free(l);
        set_close(&s);
    }
}

/* llama-recipes' ConcatDataset, as it is written there: a buffer of columns. */
Test(loader, concat_as_llama_recipes)
{
    Set s = set_open(60, PACK_CONCAT, 1);
    s.opts.shuffle = false;
    Loader *l = loader_new(s.d, &s.opts, 0, 1);
    int32_t ids[4096], labels[4096];
    int64_t n = 0, row = 0, total = 0;
    HostBatch b = {0};
    for (int64_t i = 0; i < dataset_size(s.d); i++) {
        Document doc = dataset_document(s.d, i);
        memcpy(ids + n, doc.ids, (size_t)doc.n * 4);
        memcpy(labels + n, doc.labels, (size_t)doc.n * 4);
        n += doc.n;
        total += doc.n;
        while (n > MAX_LENGTH) {
            loader_rows_fill(l, 0, row, 1, &b);
            cr_assert_eq(b.n_tokens, MAX_LENGTH);
            cr_assert_eq(b.n_docs, 1);
            int64_t trained = 0;
            for (int64_t k = 0; k < MAX_LENGTH; k++) {
                int32_t want = k + 1 < MAX_LENGTH && labels[k + 1] != -100 ? labels[k + 1] : -1;
                cr_assert_eq(b.ids[k], ids[k]);
                cr_assert_eq(b.targets[k], want);
                cr_assert_eq(b.positions[k], k);
                trained += want >= 0;
            }
            cr_assert_eq(b.n_trained, trained);
            cr_assert_eq(loader_step(l, 0, row).n_trained, trained);
            row++;
            n -= MAX_LENGTH;
            memmove(ids, ids + MAX_LENGTH, (size_t)n * 4);
            memmove(labels, labels + MAX_LENGTH, (size_t)n * 4);
        }
    }
    cr_expect_eq(loader_rows(l, 0), row);
    cr_expect_eq(dataset_report(s.d)->remainder_tokens, total - row * MAX_LENGTH);
    host_batch_clear(&b);
    loader_free(l);
    set_close(&s);
}

/* An exactly full buffer waits for more: 2 rows of tokens make 1 row, one token more makes 2. */
Test(loader, concat_is_strict)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    for (int extra = 0; extra < 2; extra++) {
        StrBuf text = {0};
        strbuf_puts(&text, "{\"input_ids\":[1");
        for (int i = 1; i < 2 * MAX_LENGTH + extra; i++)
            strbuf_puts(&text, ",1");
        strbuf_puts(&text, "]}");
        DataSource src = {
            .path = put_file(dir, "a", text.data), .format = DATA_TOKENS, .weight = 1};
        DataOpts opts = {
            .train = &src, .n_train = 1, .packing = PACK_CONCAT, .max_length = MAX_LENGTH};
        Dataset *d = open_rows(&opts, t);
        Loader *l = loader_new(d, &opts, 0, 1);
        cr_expect_eq(loader_rows(l, 0), 1 + extra);
        loader_free(l);
        dataset_free(d);
        free(src.path);
        strbuf_clear(&text);
    }
    tokenizer_free(t);
    tmp_dir_remove(dir);
}
