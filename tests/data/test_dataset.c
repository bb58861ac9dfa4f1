/* Opening data sets: forms of files, lengths, validation, cache, damage. */
#include "tests/data/data_support.h"

#include "data/jsonl.h"
#include "data/report.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const DataOpts OPTS = {.packing = PACK_BEST_FIT, .max_length = 64};

/* What opening one source gave. */
typedef struct Opened {
    Dataset *train, *eval;
    char *problems; /* lines, dir cut out */
    char *warnings;
} Opened;

static Opened open_set(const DataOpts *opts, const Tokenizer *t, Pool *pool, const char *dir)
{
    Opened o = {0};
    Problems p = {0};
    char *text = NULL;
    size_t n = 0;
    Log log = {.to = open_memstream(&text, &n), .level = LOG_WARN};
    Status s = dataset_open(&o.train, &o.eval, opts, t, pool, &log, &p);
    fclose(log.to);
    cr_expect_eq(s == OK, p.n == 0);
    o.problems = problem_lines(&p, dir);
    o.warnings = text;
    problems_clear(&p);
    return o;
}

static void opened_clear(Opened *o)
{
    dataset_free(o->train);
    dataset_free(o->eval);
    free(o->problems);
    free(o->warnings);
}

/* As lines "{"text":...}". */
static DataSource text_source(char *path)
{
    return (DataSource){.path = path, .format = DATA_TEXT, .weight = 1};
}

Test(dataset, forms_of_files)
{
    static const char lines[] = "{\"text\":\"one\"}\n\n{\"text\":\"two\"}\n{\"text\":\"three\"}\n";
    static const char array[] =
        "\n[{\"text\":\"one\"}, {\"text\":\n\"two\"},\n{\"text\":\"three\"}]";
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    char *many = path_join(dir, "many");
    Err err = {0};
    cr_assert(dir_make(many, &err) == OK);
    free(put_file(many, "a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}"));
    free(put_gzip(many, "b.json.gz", "[{\"text\":\"three\"}]"));
    free(put_file(many, "notes.txt", "not data"));
    struct {
        char *path;
        int lines[3];
    } forms[] = {
        {put_file(dir, "l.jsonl", lines), {1, 3, 4}},
        {put_gzip(dir, "l.gz", lines), {1, 3, 4}},
        {put_file(dir, "a.json", array), {2, 2, 4}},
        {put_gzip(dir, "a.gz", array), {2, 2, 4}},
        {many, {1, 2, 1}},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        DataSource src = text_source(forms[i].path);
        DataOpts opts = OPTS;
        opts.train = &src, opts.n_train = 1;
        Opened o = open_set(&opts, t, NULL, dir);
        cr_assert(o.train != NULL, "%s", o.problems);
        char *got = marked_set(t, o.train);
        cr_expect_str_eq(got, "<s>«one</s>»\n<s>«two</s>»\n<s>«three</s>»\n");
        for (int k = 0; k < 3; k++)
            cr_expect_eq(dataset_document(o.train, k).at.line, forms[i].lines[k], "%s row %d",
                         forms[i].path, k);
        const DataReport *r = dataset_report(o.train);
        cr_expect(r->rows == 3 && r->tokens == 17 && r->trained_tokens == 14 && r->longest == 7 &&
                  r->packed_rows == 1 && r->max_documents == 3 && r->duplicates == 0);
        free(got);
        opened_clear(&o);
        free(forms[i].path);
    }
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

Test(dataset, every_problem_is_told)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    StrBuf text = {0};
    for (int i = 0; i < 150; i++)
        strbuf_puts(&text, i % 2 ? "{\"text\":1}\n" : "{\"text\":\"good\"}\n");
    strbuf_puts(&text, "{\"text\":\n");
    DataSource src[3] = {text_source(put_file(dir, "a", text.data)),
                         text_source(put_file(dir, "b", "[{\"text\":\"x\"}, 3, {")),
                         text_source(path_join(dir, "gone"))};
    DataOpts opts = OPTS;
    opts.train = src, opts.n_train = 3;
    Pool *pool = pool_new(3);
    Opened o = open_set(&opts, t, pool, dir);
    const char *want[] = {"a:2: text: must be a string, found integer",
                          "a:150: text: must be a string, found integer",
                          "a:151: invalid JSON",
                          "; each line must be one whole object (or the file one array of",
                          "b:1: row 2: the row must be an object {...}, found integer",
                          "b:1: row 3: the file ends inside the row that starts here",
                          "gone: cannot open: No such file or directory"};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        cr_expect(strstr(o.problems, want[i]) != NULL, "%s not in\n%s", want[i], o.problems);
    opened_clear(&o);

    /* a hundred and no more */
    strbuf_reset(&text);
    for (int i = 0; i < 250; i++)
        strbuf_puts(&text, "{\"text\":\"0123456789012345678901234567890123456789\"}\n");
    free(put_file(dir, "a", text.data));
    opts.n_train = 1, opts.max_length = 20;
    o = open_set(&opts, t, pool, dir);
    int n = 0;
    for (const char *p = o.problems; (p = strchr(p, '\n')) != NULL; p++)
        n++;
    cr_expect_eq(n, 100);
    cr_expect(
        strncmp(o.problems,
                "a:1: the document has 42 tokens, max_length is 20; raise it, or set overlong to "
                "truncate or split\na:2: the",
                60) == 0,
        "%s", o.problems);
    opened_clear(&o);
    for (int i = 0; i < 3; i++)
        free(src[i].path);
    strbuf_clear(&text);
    pool_free(pool);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

/* NUL bytes: written out they are not JSON, escaped they are text like any other. */
Test(dataset, nul_bytes)
{
    static const char bytes[] = "{\"text\":\"a\\u0000b\"}\n{\"text\":\"a\0b\"}\n";
    char *dir = tmp_dir(), *path = path_join(dir, "a");
    Tokenizer *t = byte_tokenizer(dir, 0);
    Err err = {0};
    cr_assert(file_write_atomic(path, bytes, sizeof bytes - 1, &err) == OK);
    DataSource src = text_source(path);
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1;
    Opened o = open_set(&opts, t, NULL, dir);
    cr_expect(strncmp(o.problems, "a:2: invalid JSON: ", 19) == 0, "%s", o.problems);
    opened_clear(&o);
    cr_assert(file_write_atomic(path, bytes, strchr(bytes, '\n') - bytes, &err) == OK);
    o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train != NULL, "%s", o.problems);
    Document doc = dataset_document(o.train, 0);
    cr_assert_eq(doc.n, 5);
    cr_expect(doc.ids[1] == 'a' && doc.ids[2] == 0 && doc.ids[3] == 'b');
    opened_clear(&o);
    free(path);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

Test(dataset, options)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    DataSource src = text_source(put_file(dir, "a", "{\"text\":\"x\"}\n{\"text\":\"y\"}"));
    struct {
        DataOpts opts;
        double weight;
        const char *want;
    } cases[] = {
        {{.max_length = 1}, 1, "max_length: must be from 2 to 1073741823, is 1\n"},
        {{.max_length = 9}, 0, "a: weight: must be above 0 and at most 1000, is 0\n"},
        {{.max_length = 9, .eval_count = 1, .eval_share = 0.5},
         1,
         "validation is asked for in more than one way: give a file, a count or a share\n"},
        {{.max_length = 9, .eval_share = 1},
         1,
         "the share for validation must be from 0 to below 1, is 1\n"},
        {{.max_length = 9, .eval_count = 2},
         1,
         "data.eval.count: takes 2 of 2 rows and leaves none to train on; ask for fewer\n"},
        {{.max_length = 9}, 1, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        src.weight = cases[i].weight;
        cases[i].opts.train = &src;
        cases[i].opts.n_train = 1;
        Opened o = open_set(&cases[i].opts, t, NULL, dir);
        cr_expect_str_eq(o.problems, cases[i].want);
        opened_clear(&o);
    }
    DataOpts none = OPTS;
    Opened o = open_set(&none, t, NULL, dir);
    cr_expect_str_eq(o.problems, "no data set is given\n");
    opened_clear(&o);
    free(src.path);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

Test(dataset, longer_than_max_length)
{
    static const struct {
        const char *name;
        Overlong overlong;
        int flags;
        const char *row, *want;
        int truncated, dropped, split;
    } cases[] = {
        {"truncate", OVERLONG_TRUNCATE, 0, "{\"prompt\":\"ab\",\"completion\":\"cdefghij\"}",
         "<s>ab«cde»\n", 1, 6, 0},
        {"just fits", OVERLONG_TRUNCATE, 0, "{\"prompt\":\"ab\",\"completion\":\"cd\"}",
         "<s>ab«cd</s>»\n", 0, 0, 0},
        {"split", OVERLONG_SPLIT, 0, "{\"prompt\":\"ab\",\"completion\":\"cdefghij\"}",
         "<s>ab«cde»\n<s>«fghij»\n<s>«</s>»\n", 0, 0, 1},
        {"split, no BOS", OVERLONG_SPLIT, BYTE_NO_BOS,
         "{\"prompt\":\"ab\",\"completion\":\"cdefghij\"}", "ab«cdef»\nf«ghij</s>»\n", 0, 0, 1},
        {"split, a long prompt", OVERLONG_SPLIT, 0,
         "{\"prompt\":\"abcdefgh\",\"completion\":\"i\"}", "<s>fgh«i</s>»\n", 0, 6, 1},
    };
    char *dir = tmp_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *t = byte_tokenizer(dir, cases[i].flags);
        DataSource src = text_source(put_file(dir, "a", cases[i].row));
        src.format = DATA_COMPLETION;
        DataOpts opts = {.train = &src,
                         .n_train = 1,
                         .packing = PACK_OFF,
                         .max_length = 6,
                         .overlong = cases[i].overlong};
        Opened o = open_set(&opts, t, NULL, dir);
        cr_assert(o.train != NULL, "%s: %s", cases[i].name, o.problems);
        char *got = marked_set(t, o.train);
        cr_expect_str_eq(got, cases[i].want, "%s: %s", cases[i].name, got);
        const DataReport *r = dataset_report(o.train);
        cr_expect_eq(r->truncated, cases[i].truncated, "%s", cases[i].name);
        cr_expect_eq(r->dropped_tokens, cases[i].dropped, "%s", cases[i].name);
        cr_expect_eq(r->split, cases[i].split, "%s", cases[i].name);
        cr_expect_eq(r->rows, 1, "%s", cases[i].name);
        free(got);
        opened_clear(&o);
        free(src.path);
        tokenizer_free(t);
    }
    tmp_dir_remove(dir);
}

Test(dataset, rows_that_train_on_nothing)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    DataSource src = text_source(put_file(
        dir, "a",
        "{\"prompt\":\"abcdefgh\",\"completion\":\"i\"}\n{\"prompt\":\"a\",\"completion\":\"\"}\n"
        "{\"prompt\":\"abcdefgh\",\"completion\":\"j\"}\n"));
    src.format = DATA_COMPLETION;
    DataOpts opts = {.train = &src,
                     .n_train = 1,
                     .packing = PACK_OFF,
                     .max_length = 6,
                     .overlong = OVERLONG_TRUNCATE};
    Opened o = open_set(&opts, t, NULL, dir);
    cr_expect_str_eq(o.problems,
                     "a:1: the row trains on nothing: its prompt alone fills max_length; leave it "
                     "out, or skip such rows with allow_untrained\n"
                     "a:3: the row trains on nothing: its prompt alone fills max_length; leave it "
                     "out, or skip such rows with allow_untrained\n");
    opened_clear(&o);
    opts.allow_untrained = true;
    o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train != NULL, "%s", o.problems);
    char *got = marked_set(t, o.train);
    cr_expect_str_eq(got, "<s>a«</s>»\n");
    const DataReport *r = dataset_report(o.train);
    cr_expect(r->rows == 3 && r->untrained == 2 && r->first_untrained.line == 1 &&
              r->empty_answers == 1);
    char *warned = str_format(
        "warning: 2 rows train on nothing and are left out (the first: %s:1)\n", src.path);
    cr_expect_str_eq(o.warnings, warned);
    free(warned);
    free(got);
    opened_clear(&o);
    free(src.path);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

/* n rows "r0".."rN", of which each `every`-th is a copy of r0. */
static char *numbered(int n, int every)
{
    StrBuf b = {0};
    for (int i = 0; i < n; i++)
        strbuf_printf(&b, "{\"text\":\"r%d\"}\n", every && i % every == 0 ? 0 : i);
    return strbuf_take(&b);
}

Test(dataset, validation)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0), *other = byte_tokenizer(dir, BYTE_NO_BOS);
    char *text = numbered(200, 0);
    DataSource src = text_source(put_file(dir, "a", text));
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1;
    char *first = NULL;
    for (int round = 0; round < 3; round++) { /* by count, by share, with another tokenizer */
        opts.eval_count = round == 0 ? 30 : 0;
        opts.eval_share = round == 0 ? 0 : 0.15;
        Opened o = open_set(&opts, round == 2 ? other : t, NULL, dir);
        cr_assert(o.train && o.eval, "%s", o.problems);
        cr_expect_eq(dataset_size(o.eval), 30);
        cr_expect_eq(dataset_size(o.train), 170);
        bool seen[200] = {false};
        StrBuf chosen = {0};
        for (int e = 0; e < 2; e++) {
            const Dataset *d = e ? o.eval : o.train;
            for (int64_t i = 0; i < dataset_size(d); i++) {
                Document doc = dataset_document(d, i);
                cr_expect(!seen[doc.at.line - 1]);
                cr_expect_eq(doc.id, doc.at.line - 1);
                seen[doc.at.line - 1] = true;
                if (e) strbuf_printf(&chosen, "%d ", (int)doc.at.line);
            }
        }
        if (!first)
            first = strbuf_take(&chosen);
        else
            cr_expect_str_eq(chosen.data, first);
        strbuf_clear(&chosen);
        opened_clear(&o);
    }
    free(first);
    free(text);
    free(src.path);

    text = numbered(100, 2); /* half of them alike: they fall on both sides */
    src = text_source(put_file(dir, "a", text));
    opts.eval_share = 0, opts.eval_count = 20;
    Opened o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train && o.eval, "%s", o.problems);
    const DataReport *r = dataset_report(o.train);
    cr_expect(r->eval_duplicates > 20 && r->duplicates == r->eval_duplicates - 1);
    cr_expect(strstr(o.warnings, "training documents are equal to validation documents") != NULL);
    opened_clear(&o);

    DataSource eval = text_source(put_file(dir, "e", "{\"text\":\"r1\"}\n{\"text\":\"new\"}"));
    opts.eval_count = 0, opts.eval = &eval, opts.n_eval = 1;
    o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train && o.eval, "%s", o.problems);
    cr_expect_eq(dataset_size(o.eval), 2);
    cr_expect_eq(dataset_size(o.train), 100);
    cr_expect_eq(dataset_report(o.train)->eval_duplicates, 1);
    opened_clear(&o);
    free(eval.path);
    free(text);
    free(src.path);
    tokenizer_free(t);
    tokenizer_free(other);
    tmp_dir_remove(dir);
}

/* Two sources by weight; text that was rendered elsewhere. */
Test(dataset, two_sources)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    char *text = numbered(20, 0);
    DataSource src[2] = {
        text_source(put_file(dir, "a", text)),
        text_source(put_file(dir, "b", "{\"text\":\"x\"}\n{\"text\":\"<s>[INST] y\"}\n"))};
    src[1].weight = 2.5;
    DataOpts opts = OPTS;
    opts.train = src, opts.n_train = 2, opts.packing = PACK_OFF;
    Opened o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train != NULL, "%s", o.problems);
    cr_expect_eq(dataset_size(o.train), 22);
    cr_expect_eq(dataset_report(o.train)->packed_rows, 25);
    cr_expect_eq(dataset_report(o.train)->spelled_tokens, 1);
    cr_expect(strstr(o.warnings, "1 rows spell special tokens such as") != NULL);
    for (int64_t i = 0; i < 22; i++) {
        Document doc = dataset_document(o.train, i);
        cr_expect(doc.id == i && doc.at.line == (i < 20 ? i : i - 20) + 1);
        cr_expect_str_eq(path_base(doc.at.file), i < 20 ? "a" : "b");
    }
    opened_clear(&o);
    free(text);
    free(src[0].path);
    free(src[1].path);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

/* Ready tokens need no tokenizer. */
Test(dataset, tokens_without_a_tokenizer)
{
    char *dir = tmp_dir(), *cache = path_join(dir, "cache");
    DataSource src = text_source(put_file(
        dir, "a",
        "{\"input_ids\":[9,1,2,3,4,5,6],\"labels\":[-100,1,2,3,4,5,6]}\n{\"input_ids\":[7,8]}"));
    src.format = DATA_TOKENS;
    DataOpts opts = {.train = &src,
                     .n_train = 1,
                     .overlong = OVERLONG_SPLIT,
                     .max_length = 4,
                     .cache_dir = cache};
    for (int hit = 0; hit < 2; hit++) {
        Opened o = open_set(&opts, NULL, NULL, dir);
        cr_assert(o.train != NULL, "%s", o.problems);
        cr_expect_eq(dataset_report(o.train)->from_cache, hit);
        cr_expect_eq(dataset_size(o.train), 3);
        Document doc = dataset_document(o.train, 1);
        cr_expect(doc.n == 4 && doc.ids[0] == 3 && doc.labels[0] == -100 && doc.labels[1] == 4);
        opened_clear(&o);
    }
    free(src.path);
    free(cache);
    tmp_dir_remove(dir);
}

/* --- cache --------------------------------------------------------------------------------- */

static char *cache_file(const char *dir)
{
    char **names;
    int n;
    Err err = {0};
    cr_assert(dir_list(&names, &n, dir, &err) == OK && n == 1, "%d files in the cache", n);
    char *path = path_join(dir, names[0]);
    dir_list_free(names, n);
    return path;
}

static bool same_place(RowPlace a, RowPlace b)
{
    return a.line == b.line && a.number == b.number && str_eq(a.file, b.file);
}

static void same_documents(const Dataset *a, const Dataset *b)
{
    cr_assert_eq(dataset_size(a), dataset_size(b));
    for (int64_t i = 0; i < dataset_size(a); i++) {
        Document x = dataset_document(a, i), y = dataset_document(b, i);
        cr_assert(x.n == y.n && x.id == y.id && same_place(x.at, y.at));
        cr_assert(memcmp(x.ids, y.ids, (size_t)x.n * 4) == 0);
        cr_assert(memcmp(x.labels, y.labels, (size_t)x.n * 4) == 0);
    }
    DataReport p = *dataset_report(a), q = *dataset_report(b);
    p.from_cache = q.from_cache = false;
    cr_assert(p.rows == q.rows && p.tokens == q.tokens && p.trained_tokens == q.trained_tokens &&
              p.truncated == q.truncated && p.dropped_tokens == q.dropped_tokens &&
              p.split == q.split && p.untrained == q.untrained && p.duplicates == q.duplicates &&
              p.empty_answers == q.empty_answers && p.packed_rows == q.packed_rows);
    cr_assert(p.untrained == 0 || same_place(p.first_untrained, q.first_untrained));
    cr_assert(p.spelled_tokens == 0 || same_place(p.first_spelled, q.first_spelled));
}

Test(cache, hit_equals_miss)
{
    char *dir = tmp_dir(), *cache = path_join(dir, "deep/cache");
    Tokenizer *t = byte_tokenizer(dir, 0);
    char *text = numbered(300, 7);
    DataSource src = text_source(put_file(dir, "a", text));
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1, opts.cache_dir = cache;
    Pool *pool = pool_new(2);
    Opened miss = open_set(&opts, t, pool, dir);
    cr_assert(miss.train != NULL, "%s", miss.problems);
    cr_expect(!dataset_report(miss.train)->from_cache);
    char *file = cache_file(cache);
    Opened hit = open_set(&opts, t, pool, dir);
    cr_expect(dataset_report(hit.train)->from_cache);
    same_documents(miss.train, hit.train);
    opened_clear(&hit);

    /* damage here and there, and lengths that are too short */
    char *bytes;
    size_t n;
    Err err = {0};
    cr_assert(file_read(&bytes, &n, file, &err) == OK);
    for (size_t i = 0; i < n; i += i < 200 ? 19 : 997) {
        bytes[i] ^= 0x10;
        cr_assert(file_write_atomic(file, bytes, n, &err) == OK);
        bytes[i] ^= 0x10;
        hit = open_set(&opts, t, pool, dir);
        cr_expect(strstr(hit.warnings, "the cached tokens cannot be used (") != NULL, "byte %zu",
                  i);
        cr_expect(!dataset_report(hit.train)->from_cache);
        same_documents(miss.train, hit.train);
        opened_clear(&hit);
    }
    for (size_t len = 0; len < n; len += len < 200 ? 29 : 1999) {
        cr_assert(file_write_atomic(file, bytes, len, &err) == OK);
        hit = open_set(&opts, t, pool, dir);
        cr_expect(strstr(hit.warnings, "they are made anew") != NULL, "length %zu", len);
        same_documents(miss.train, hit.train);
        opened_clear(&hit);
    }
    hit = open_set(&opts, t, pool, dir); /* written anew, it is whole again */
    cr_expect(dataset_report(hit.train)->from_cache);
    cr_expect_str_eq(hit.warnings, "");
    opened_clear(&hit);
    free(bytes);
    free(file);
    opened_clear(&miss);
    pool_free(pool);
    free(text);
    free(src.path);
    free(cache);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

/* Rows that share a line keep their numbers, through the cache, too: whoever looks at a document later can say which row it is. */
Test(cache, rows_keep_their_place)
{
    char *dir = tmp_dir(), *cache = path_join(dir, "cache"), *many = path_join(dir, "many");
    Tokenizer *t = byte_tokenizer(dir, 0);
    Err err = {0};
    cr_assert(dir_make(many, &err) == OK);
    free(put_file(many, "a.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n"));
    free(put_file(many, "b.json",
                  "[{\"prompt\":\"c\",\"completion\":\"d\"}, {\"prompt\":\"abcdefgh\","
                  "\"completion\":\"i\"},{\"prompt\":\"<s>\",\"completion\":\"e\"},\n"
                  "{\"prompt\":\"f\",\"completion\":\"g\"}]"));
    DataSource src = text_source(many);
    src.format = DATA_COMPLETION;
    DataOpts opts = {.train = &src,
                     .n_train = 1,
                     .packing = PACK_OFF,
                     .max_length = 6,
                     .overlong = OVERLONG_TRUNCATE,
                     .allow_untrained = true,
                     .cache_dir = cache};
    static const RowPlace want[] = {
        {"a.jsonl", 1, 0}, {"b.json", 1, 1}, {"b.json", 1, 3}, {"b.json", 2, 0}};
    Opened made = open_set(&opts, t, NULL, dir), kept = open_set(&opts, t, NULL, dir);
    cr_assert(made.train && kept.train, "%s", made.problems);
    cr_expect(dataset_report(kept.train)->from_cache);
    same_documents(made.train, kept.train);
    cr_expect_str_eq(made.warnings, kept.warnings);
    cr_expect(strstr(made.warnings, "/many/b.json:1: row 2)\n"), "%s", made.warnings);
    cr_expect(strstr(made.warnings, "/many/b.json:1: row 3): they stay plain text"), "%s",
              made.warnings);
    cr_assert_eq(dataset_size(kept.train), 4);
    for (int i = 0; i < 4; i++) {
        RowPlace at = dataset_document(kept.train, i).at;
        at.file = path_base(at.file);
        cr_expect(same_place(at, want[i]), "row %d: %s:%d: %d", i, at.file, (int)at.line,
                  (int)at.number);
    }
    opened_clear(&made);
    opened_clear(&kept);
    free(many);
    free(cache);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

/* Files of other data, older ones first: those that were used last stay, the one of this run among them. */
Test(cache, keeps_what_was_used_last)
{
    char *dir = tmp_dir(), *cache = path_join(dir, "cache");
    Tokenizer *t = byte_tokenizer(dir, 0);
    DataSource src = text_source(put_file(dir, "a", "{\"text\":\"one\"}\n"));
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1, opts.cache_dir = cache;
    Err err = {0};
    cr_assert_eq(dir_make(cache, &err), OK);
    enum { OLD = 70 };
    for (int i = 0; i < OLD; i++) {
        char *path = str_format("%s/tokens-v1-%032x.bin", cache, (unsigned)i);
        cr_assert_eq(file_write_atomic(path, "x", 1, &err), OK);
        struct timespec at[2] = {{.tv_sec = 1000000 + i}, {.tv_sec = 1000000 + i}};
        cr_assert_eq(utimensat(AT_FDCWD, path, at, 0), 0);
        free(path);
    }
    char *other = path_join(cache, "mine.txt");
    cr_assert_eq(file_write_atomic(other, "x", 1, &err), OK);
    Opened o = open_set(&opts, t, NULL, dir);
    cr_assert(o.train != NULL, "%s", o.problems);
    opened_clear(&o);
    int n = 0;
    for (int i = 0; i < OLD; i++) {
        char *path = str_format("%s/tokens-v1-%032x.bin", cache, (unsigned)i);
        cr_expect_eq(path_exists(path), i >= OLD - 63, "file %d of %d", i, OLD);
        n += path_exists(path);
        free(path);
    }
    cr_expect_eq(n, 63);
    cr_expect(path_exists(other));
    o = open_set(&opts, t, NULL, dir);
    cr_expect(dataset_report(o.train)->from_cache);
    opened_clear(&o);
    free(src.path), free(cache), free(other);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

Test(cache, key)
{
    char *dir = tmp_dir(), *cache = path_join(dir, "cache");
    Tokenizer *t = byte_tokenizer(dir, 0), *merges = byte_tokenizer(dir, BYTE_MERGES);
    DataSource src = text_source(put_file(dir, "a", "{\"text\":\"one\",\"b\":\"two\"}\n"));
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1, opts.cache_dir = cache;
    FieldMap map = {.from = (char[]){"text"}, .to = (char[]){"b"}};
    char prompt[] = "p"; /* outlives the iteration that sets it */
    for (int i = 0; i < 8; i++) {
        const Tokenizer *used = t;
        if (i == 1) opts.max_length = 63;
        if (i == 2) opts.train_on = TRAIN_ON_ALL;
        if (i == 3) src.fields = &map, src.n_fields = 1;
        if (i == 4) used = merges;
        if (i == 5) opts.overlong = OVERLONG_SPLIT;
        if (i == 6) src.chat = TEMPLATE_PROMPT, src.prompt = prompt;
        if (i == 7) free(put_file(dir, "a", "{\"text\":\"one\",\"b\":\"twO\"}\n"));
        Opened o = open_set(&opts, used, NULL, dir);
        cr_assert(o.train != NULL, "%d: %s", i, o.problems);
        cr_expect(!dataset_report(o.train)->from_cache, "%d", i);
        opened_clear(&o);
        o = open_set(&opts, used, NULL, dir);
        cr_expect(dataset_report(o.train)->from_cache, "%d", i);
        opened_clear(&o);
    }
    /* A name says nothing, the bytes do; a cache that cannot be written is a warning. */
    char *moved = path_join(dir, "moved");
    cr_assert(rename(src.path, moved) == 0);
    free(src.path);
    src.path = moved;
    Opened o = open_set(&opts, t, NULL, dir);
    cr_expect(dataset_report(o.train)->from_cache);
    opened_clear(&o);
    free(put_file(dir, "file", ""));
    char *bad = path_join(dir, "file/cache");
    opts.cache_dir = bad;
    o = open_set(&opts, t, NULL, dir);
    cr_expect(o.train != NULL);
    cr_expect(strstr(o.warnings, "the tokens could not be kept for the next run") != NULL, "%s",
              o.warnings);
    opened_clear(&o);
    free(bad);
    free(moved);
    free(cache);
    tokenizer_free(t);
    tokenizer_free(merges);
    tmp_dir_remove(dir);
}

/* --- damage -------------------------------------------------------------------------------- */

/* Files cut at every byte: a data set or one line for each problem, nothing else. */
Test(dataset, cut_at_every_byte)
{
    static const char lines[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u00e9\\ud83d\\ude00\"}"
        ",{\"role\":\"assistant\",\"content\":\"b\"}]}\n"
        "{\"messages\":[{\"role\":\"user\",\"content\":\"c\"},"
        "{\"role\":\"assistant\",\"content\":\"d\"}]}\n";
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    StrBuf array = {0};
    strbuf_puts(&array, "[");
    const char *nl = strchr(lines, '\n');
    strbuf_append(&array, lines, (size_t)(nl - lines));
    strbuf_puts(&array, ",");
    strbuf_puts(&array, nl);
    strbuf_puts(&array, "]");
    for (int form = 0; form < 3; form++) {
        char *whole = form == 0   ? put_file(dir, "w", lines)
                      : form == 1 ? put_file(dir, "w", array.data)
                                  : put_gzip(dir, "w", array.data);
        char *bytes;
        size_t n;
        int good = 0;
        Err err = {0};
        cr_assert(file_read(&bytes, &n, whole, &err) == OK);
        for (size_t cut = 0; cut <= n; cut++) {
            char *path = path_join(dir, "cut");
            cr_assert(file_write_atomic(path, bytes, cut, &err) == OK);
            DataSource src = text_source(path);
            src.format = DATA_MESSAGES;
            src.chat = TEMPLATE_LLAMA3;
            DataOpts opts = OPTS;
            opts.train = &src, opts.n_train = 1;
            Opened o = open_set(&opts, t, NULL, dir);
            good += o.train != NULL;
            if (!o.train) cr_expect(strncmp(o.problems, "cut:", 4) == 0, "%s", o.problems);
            opened_clear(&o);
            free(path);
        }
        /* lines: whole after either row, with and without its line end; an array: only whole */
        cr_expect_eq(good, form == 0 ? 4 : 1, "form %d: %d", form, good);
        free(bytes);
        free(whole);
    }
    strbuf_clear(&array);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}

Test(report, prints)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    DataSource src = text_source(put_file(dir, "a", "{\"prompt\":\"a\\n\",\"completion\":\"b\"}"));
    src.format = DATA_COMPLETION;
    DataOpts opts = OPTS;
    opts.train = &src, opts.n_train = 1;
    Opened o = open_set(&opts, t, NULL, dir);
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    DataReport r = *dataset_report(o.train);
    r.rows = 1234567;
    r.untrained = 2, r.first_untrained = (RowPlace){"a", 3, 0};
    r.spelled_tokens = 1, r.first_spelled = (RowPlace){"b", 1, 5};
    dataset_report_print(f, "train", &r, &opts);
    Document doc = dataset_document(o.train, 0);
    doc.at.file = "a";
    document_print(f, &doc, t, 0);
    doc.at.number = 7;
    document_print(f, &doc, t, 1);
    fclose(f);
    cr_expect_str_eq(text, "train\n"
                           "  rows                 1,234,567\n"
                           "  tokens                       5\n"
                           "  trained tokens               2  40.0 %\n"
                           "  longest                      5  tokens\n"
                           "  truncated                    0  0 tokens dropped\n"
                           "  split                        0\n"
                           "  untrained rows               2  left out; the first: a:3\n"
                           "  EOS alone                    0  rows whose only trained token it is\n"
                           "  spelled tokens               1  the first: b:1: row 5\n"
                           "  duplicates                   0\n"
                           "  packed rows                  1  of 64 tokens, fill 7.8 %\n"
                           "  most documents               1  in one row\n"
                           "a:1: 5 tokens\n"
                           "position       id  trained  token\n"
                           "       0      256  -        <s>\n"
                           "       1       97  -        a\n"
                           "       2       10  -        Ċ\n"
                           "       3       98  yes      b\n"
                           "       4      257  yes      </s>\n"
                           "a:1: row 7: 5 tokens\n"
                           "position       id  trained  token\n"
                           "       0      256  -        <s>\n"
                           "     ... and 4 more\n");
    free(text);
    opened_clear(&o);
    free(src.path);
    tokenizer_free(t);
    tmp_dir_remove(dir);
}
