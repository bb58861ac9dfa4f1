/* Rows of an epoch as batches of tokens. */
#include "data/loader.h"

#include "base/rng.h"
#include "data/epoch.h"
#include "data/render.h"

#include <stdlib.h>
#include <string.h>

/* Two epochs are kept, so that a look ahead across the border does not draw the same one again and again. */
enum { N_KEPT = 2 };

struct Loader {
    const Dataset *data;
    Packing packing;
    int64_t max_length, batch_rows;
    bool shuffle;
    uint64_t seed;
    int32_t pad;
    Epoch epochs[N_KEPT];
    int last; /* used most recently */
};

Loader *loader_new(const Dataset *d, const DataOpts *opts, uint64_t seed, int64_t batch_rows)
{
    ASSERT(batch_rows > 0, "batch_rows %lld", (long long)batch_rows);
    Loader *l = xcalloc(1, sizeof *l);
    l->data = d;
    l->packing = opts->packing;
    l->max_length = opts->max_length;
    l->batch_rows = batch_rows;
    l->shuffle = opts->shuffle;
    l->seed = seed;
    l->pad = d->pad;
    for (int i = 0; i < N_KEPT; i++)
        l->epochs[i].number = -1;
    return l;
}

void loader_free(Loader *l)
{
    if (!l) return;
    for (int i = 0; i < N_KEPT; i++)
        epoch_clear(&l->epochs[i]);
    free(l);
}

static const Epoch *epoch_of(Loader *l, int64_t number)
{
    for (int i = 0; i < N_KEPT; i++)
        if (l->epochs[i].number == number) {
            l->last = i;
            return &l->epochs[i];
        }
    l->last = (l->last + 1) % N_KEPT;
    Epoch *e = &l->epochs[l->last];
    epoch_make(e, l->data, l->packing, l->max_length, l->shuffle, l->seed, number);
    return e;
}

int64_t loader_rows(Loader *l, int64_t epoch)
{
    return epoch_of(l, epoch)->n_rows;
}

int64_t loader_tokens(Loader *l, int64_t epoch)
{
    return epoch_of(l, epoch)->n_text;
}

int64_t loader_steps(Loader *l, int64_t epoch)
{
    return (loader_rows(l, epoch) + l->batch_rows - 1) / l->batch_rows;
}

StepInfo loader_step(Loader *l, int64_t epoch, int64_t step)
{
    const Epoch *e = epoch_of(l, epoch);
    int64_t from = step * l->batch_rows;
    ASSERT(step >= 0 && from < e->n_rows, "step %lld of %lld rows", (long long)step,
           (long long)e->n_rows);
    int64_t to = from + l->batch_rows < e->n_rows ? from + l->batch_rows : e->n_rows;
    return (StepInfo){.first_row = from,
                      .n_rows = to - from,
                      .n_tokens = e->tokens[to] - e->tokens[from],
                      .n_trained = e->trained[to] - e->trained[from],
                      .n_docs = e->docs[to] - e->docs[from]};
}

/* The largest longest[] of every window of n rows goes to most[its first row]. */
static void window_longest(const Epoch *e, int64_t n, int64_t *most)
{
    int64_t *queue =
        xmalloc((size_t)e->n_rows * sizeof *queue); /* rows, from longest to shortest */
    int64_t head = 0, tail = 0;
    for (int64_t r = 0; r < e->n_rows; r++) {
        while (tail > head && e->longest[queue[tail - 1]] <= e->longest[r])
            tail--;
        queue[tail++] = r;
        if (queue[head] <= r - n) head++;
        if (r >= n - 1) most[r - n + 1] = e->longest[queue[head]];
    }
    free(queue);
}

StepInfo loader_max(Loader *l, int64_t epoch, int64_t n_rows)
{
    const Epoch *e = epoch_of(l, epoch);
    StepInfo most = {.n_rows = n_rows < e->n_rows ? n_rows : e->n_rows};
    int64_t n = most.n_rows;
    if (n <= 0) return most;
    int64_t *longest = xcalloc((size_t)e->n_rows, sizeof *longest);
    window_longest(e, n, longest);
    for (int64_t r = 0; r + n <= e->n_rows; r++) {
        int64_t tokens = l->packing == PACK_OFF ? n * longest[r] : e->tokens[r + n] - e->tokens[r];
        int64_t trained = e->trained[r + n] - e->trained[r], docs = e->docs[r + n] - e->docs[r];
        if (tokens > most.n_tokens) most.n_tokens = tokens;
        if (trained > most.n_trained) most.n_trained = trained;
        if (docs > most.n_docs) most.n_docs = docs;
    }
    free(longest);
    return most;
}

StepInfo loader_rows_info(Loader *l, int64_t epoch, int64_t first_row, int64_t n_rows)
{
    const Epoch *e = epoch_of(l, epoch);
    int64_t from = first_row, to = first_row + n_rows, longest = 0;
    ASSERT(from >= 0 && n_rows >= 0 && to <= e->n_rows, "rows %lld to %lld of %lld",
           (long long)from, (long long)to, (long long)e->n_rows);
    for (int64_t r = from; r < to; r++)
        longest = e->longest[r] > longest ? e->longest[r] : longest;
    return (StepInfo){.first_row = from,
                      .n_rows = n_rows,
                      .n_tokens = l->packing == PACK_OFF ? n_rows * longest
                                                         : e->tokens[to] - e->tokens[from],
                      .n_trained = e->trained[to] - e->trained[from],
                      .n_docs = e->docs[to] - e->docs[from]};
}

/* --- batches ------------------------------------------------------------------------------- */

void host_batch_clear(HostBatch *b)
{
    free(b->memory);
    memset(b, 0, sizeof *b);
}

static void batch_reserve(HostBatch *b, int64_t n_tokens, int64_t n_docs)
{
    ASSERT(n_tokens <= INT32_MAX && n_docs <= INT32_MAX, "%lld tokens in a batch",
           (long long)n_tokens);
    size_t n = (size_t)n_tokens;
    size_t need =
        n * (sizeof(int64_t) + 3 * sizeof(int32_t)) + ((size_t)n_docs + 1) * sizeof(int32_t);
    if (need > b->memory_bytes) {
        free(b->memory); /* nothing in it is kept */
        b->memory_bytes = need + need / 4;
        b->memory = xmalloc(b->memory_bytes);
    }
    b->samples = b->memory;
    b->ids = (int32_t *)(b->samples + n);
    b->targets = b->ids + n;
    b->positions = b->targets + n;
    b->cu_docs = b->positions + n;
    b->n_tokens = n_tokens;
    b->n_docs = (int)n_docs;
    b->max_doc = b->n_trained = b->n_real = 0;
    b->cu_docs[0] = 0;
}

void host_batch_random(HostBatch *b, int64_t n_docs, const int32_t *lens, int64_t vocab,
                       uint64_t seed)
{
    int64_t n = 0, at = 0;
    for (int64_t k = 0; k < n_docs; k++)
        n += lens[k];
    batch_reserve(b, n, n_docs);
    for (int64_t k = 0; k < n_docs; k++) {
        for (int32_t i = 0; i < lens[k]; i++, at++) {
            b->ids[at] = (int32_t)rng_below(seed, (uint64_t)at, (uint64_t)vocab);
            b->targets[at] = (int32_t)rng_below(seed, (uint64_t)(n + at), (uint64_t)vocab);
            b->positions[at] = i;
            b->samples[at] = k;
        }
        b->cu_docs[k + 1] = (int32_t)at;
        if (lens[k] > b->max_doc) b->max_doc = lens[k];
    }
    b->n_trained = b->n_real = n;
}

/* A second copy of a document in an epoch is a sample of its own (its dropout differs). */
static int64_t sample_of(const Document *doc, const DocUse *u)
{
    return doc->id + (u->copy << 40);
}

/* Writes one document at token `at`, filled up with pads to `width`. */
static void put_document(HostBatch *b, int64_t at, const Document *doc, int64_t sample,
                         int64_t width, int32_t pad)
{
    for (int64_t i = 0; i < width; i++) {
        bool real = i < doc->n;
        bool trained = i + 1 < doc->n && doc->labels[i + 1] != UNTRAINED;
        b->ids[at + i] = real ? doc->ids[i] : pad;
        b->targets[at + i] = trained ? doc->labels[i + 1] : -1;
        b->positions[at + i] = (int32_t)i;
        b->samples[at + i] = sample;
        b->n_trained += trained;
    }
    b->n_real += doc->n;
    if (width > b->max_doc) b->max_doc = width;
}

static void fill_documents(const Loader *l, const Epoch *e, int64_t from, int64_t to, HostBatch *b)
{
    int64_t first = e->row_uses[from], last = e->row_uses[to];
    int64_t width = 0; /* PACK_OFF: of every document */
    if (l->packing == PACK_OFF)
        for (int64_t r = from; r < to; r++)
            width = e->longest[r] > width ? e->longest[r] : width;
    int64_t tokens = width ? width * (to - from) : e->tokens[to] - e->tokens[from];
    batch_reserve(b, tokens, last - first);
    int64_t at = 0;
    for (int64_t u = first; u < last; u++) {
        Document doc = dataset_document(l->data, e->uses[u].doc);
        int64_t n = width ? width : doc.n;
        put_document(b, at, &doc, sample_of(&doc, &e->uses[u]), n, l->pad);
        at += n;
        b->cu_docs[u - first + 1] = (int32_t)at;
    }
}

/* Tokens [begin, end) of the one long text; a row's targets do not look beyond the row. */
static void fill_concat(const Loader *l, const Epoch *e, int64_t from, int64_t to, HostBatch *b)
{
    int64_t width = l->max_length, begin = from * width, end = to * width;
    batch_reserve(b, end - begin, to - from);
    int64_t lo = 0, hi = e->n_uses; /* the use that holds `begin` */
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (e->use_start[mid] <= begin)
            lo = mid;
        else
            hi = mid;
    }
    for (int64_t u = lo, at = begin; at < end; u++) {
        Document doc = dataset_document(l->data, e->uses[u].doc);
        int64_t sample = sample_of(&doc, &e->uses[u]);
        for (int64_t i = at - e->use_start[u]; i < doc.n && at < end; i++, at++) {
            int64_t k = at - begin;
            b->ids[k] = doc.ids[i];
            b->positions[k] = (int32_t)(at % width);
            b->samples[k] = sample;
            b->targets[k] = -1;
            if (at % width == 0 || doc.labels[i] == UNTRAINED) continue;
            b->targets[k - 1] = doc.labels[i];
            b->n_trained++;
        }
    }
    for (int64_t r = 0; r < to - from; r++)
        b->cu_docs[r + 1] = (int32_t)((r + 1) * width);
    b->n_real = end - begin;
    b->max_doc = width;
}

void loader_rows_fill(Loader *l, int64_t epoch, int64_t first_row, int64_t n_rows, HostBatch *b)
{
    const Epoch *e = epoch_of(l, epoch);
    ASSERT(first_row >= 0 && n_rows >= 0 && first_row + n_rows <= e->n_rows,
           "rows %lld + %lld of %lld", (long long)first_row, (long long)n_rows,
           (long long)e->n_rows);
    if (n_rows == 0)
        batch_reserve(b, 0, 0);
    else if (l->packing == PACK_CONCAT)
        fill_concat(l, e, first_row, first_row + n_rows, b);
    else
        fill_documents(l, e, first_row, first_row + n_rows, b);
}
