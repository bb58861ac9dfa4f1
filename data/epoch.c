/* Draws an epoch: uses by weight, their order, rows, the rows' order. */
#include "data/epoch.h"

#include "base/rng.h"
#include "data/pack.h"
#include "data/render.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One random stream per purpose. */
enum { STREAM_MIX = 1, STREAM_DOCS = 2, STREAM_ROWS = 3 };

static uint64_t stream(uint64_t seed, uint64_t purpose, uint64_t n)
{
    return rng_mix(rng_mix(seed, purpose), n);
}

/* The uses of one source's documents [from, to): each floor(weight) times, and of the rest a share that
 * walks through a fixed random order from epoch to epoch, so that all have their turn equally often. */
static void use_source(Epoch *e, int64_t from, int64_t to, double weight, uint64_t seed, int store)
{
    int64_t n = to - from, whole = (int64_t)floor(weight);
    double share = (weight - floor(weight)) * (double)n;
    int64_t first = (int64_t)floor((double)e->number * share + 1e-9);
    int64_t last = (int64_t)floor((double)(e->number + 1) * share + 1e-9);
    e->uses = xrealloc(e->uses, (size_t)(e->n_uses + n * whole + last - first) * sizeof *e->uses);
    for (int64_t i = from; i < to; i++)
        for (int64_t c = 0; c < whole; c++)
            e->uses[e->n_uses++] = (DocUse){i, c};
    if (last == first) return;
    int64_t *order = xmalloc((size_t)n * sizeof *order);
    rng_permutation(stream(seed, STREAM_MIX, (uint64_t)store), order, n);
    for (int64_t k = first; k < last; k++)
        e->uses[e->n_uses++] = (DocUse){from + order[k % n], whole};
    free(order);
}

static void draw_uses(Epoch *e, const Dataset *d, bool shuffle, uint64_t seed)
{
    for (int64_t from = 0; from < d->n_docs;) {
        int32_t store = d->docs[from].store; /* documents stand by source */
        int64_t to = from;
        while (to < d->n_docs && d->docs[to].store == store)
            to++;
        use_source(e, from, to, d->weighted ? d->stores->weights[store] : 1, seed, store);
        from = to;
    }
    if (!shuffle || e->n_uses == 0) return;
    int64_t *order = xmalloc((size_t)e->n_uses * sizeof *order);
    DocUse *shuffled = xmalloc((size_t)e->n_uses * sizeof *shuffled);
    rng_permutation(stream(seed, STREAM_DOCS, (uint64_t)e->number), order, e->n_uses);
    for (int64_t i = 0; i < e->n_uses; i++)
        shuffled[i] = e->uses[order[i]];
    free(order);
    free(e->uses);
    e->uses = shuffled;
}

/* Best fit works from long to short; its rows are shuffled so that no trace of that is left. */
static void pack_rows(Epoch *e, const Dataset *d, int64_t max_length, bool shuffle, uint64_t seed)
{
    int32_t *lengths = xmalloc((size_t)e->n_uses * sizeof *lengths);
    for (int64_t i = 0; i < e->n_uses; i++)
        lengths[i] = dataset_entry(d, e->uses[i].doc)->n;
    PackedRows p;
    pack_best_fit(&p, lengths, e->n_uses, max_length, PACK_MAX_DOCUMENTS);
    free(lengths);
    int64_t *order = xmalloc((size_t)p.n_rows * sizeof *order);
    for (int64_t r = 0; r < p.n_rows; r++)
        order[r] = r;
    if (shuffle) rng_permutation(stream(seed, STREAM_ROWS, (uint64_t)e->number), order, p.n_rows);
    DocUse *uses = xmalloc((size_t)e->n_uses * sizeof *uses);
    e->n_rows = p.n_rows;
    e->row_uses = xmalloc(((size_t)p.n_rows + 1) * sizeof *e->row_uses);
    int64_t n = 0;
    for (int64_t r = 0; r < p.n_rows; r++) {
        e->row_uses[r] = n;
        for (int64_t k = p.first[order[r]]; k < p.first[order[r] + 1]; k++)
            uses[n++] = e->uses[p.items[k]];
    }
    e->row_uses[p.n_rows] = n;
    free(order);
    free(e->uses);
    e->uses = uses;
    packed_rows_clear(&p);
}

/* Sums over rows of whole documents. */
static void sum_rows(Epoch *e, const Dataset *d)
{
    for (int64_t r = 0; r < e->n_rows; r++) {
        int64_t tokens = 0, trained = 0;
        for (int64_t u = e->row_uses[r]; u < e->row_uses[r + 1]; u++) {
            const DocEntry *entry = dataset_entry(d, e->uses[u].doc);
            tokens += entry->n;
            trained += entry->n_trained;
            if (entry->n > e->longest[r]) e->longest[r] = entry->n;
        }
        e->tokens[r + 1] = e->tokens[r] + tokens;
        e->trained[r + 1] = e->trained[r] + trained;
        e->docs[r + 1] = e->docs[r] + e->row_uses[r + 1] - e->row_uses[r];
    }
}

/* As llama-recipes' ConcatDataset: a row is cut when the buffer holds MORE than a row, so the last one is
 * never cut, even when it is full.  A row is one document; its first token is no target. */
static void concat_rows(Epoch *e, const Dataset *d, int64_t max_length)
{
    e->use_start = xmalloc(((size_t)e->n_uses + 1) * sizeof *e->use_start);
    e->use_start[0] = 0;
    for (int64_t i = 0; i < e->n_uses; i++)
        e->use_start[i + 1] = e->use_start[i] + dataset_entry(d, e->uses[i].doc)->n;
    e->n_text = e->use_start[e->n_uses];
    e->n_rows = e->n_text > 0 ? (e->n_text - 1) / max_length : 0;
}

static void sum_concat(Epoch *e, const Dataset *d, int64_t max_length)
{
    int64_t at = 0;
    for (int64_t u = 0; u < e->n_uses; u++) {
        const DocRef *ref = &d->docs[e->uses[u].doc];
        const TokenStore *s = &d->stores->items[ref->store];
        const DocEntry *entry = &s->docs[ref->index];
        const int32_t *labels = s->labels + entry->start;
        for (int64_t i = 0; i < entry->n; i++, at++) {
            int64_t row = at / max_length;
            if (row >= e->n_rows) break;
            if (at % max_length > 0) e->trained[row + 1] += labels[i] != UNTRAINED;
        }
    }
    for (int64_t r = 0; r < e->n_rows; r++) {
        e->tokens[r + 1] = e->tokens[r] + max_length;
        e->trained[r + 1] += e->trained[r];
        e->docs[r + 1] = r + 1;
        e->longest[r] = max_length;
    }
}

void epoch_make(Epoch *e, const Dataset *d, Packing packing, int64_t max_length, bool shuffle,
                uint64_t seed, int64_t number)
{
    ASSERT(number >= 0, "epoch %lld", (long long)number);
    epoch_clear(e);
    e->number = number;
    draw_uses(e, d, shuffle, seed);
    if (packing == PACK_BEST_FIT) {
        pack_rows(e, d, max_length, shuffle, seed);
    } else if (packing == PACK_CONCAT) {
        concat_rows(e, d, max_length);
    } else {
        e->n_rows = e->n_uses;
        e->row_uses = xmalloc(((size_t)e->n_rows + 1) * sizeof *e->row_uses);
        for (int64_t r = 0; r <= e->n_rows; r++)
            e->row_uses[r] = r;
    }
    size_t n = (size_t)e->n_rows + 1;
    e->tokens = xcalloc(n, sizeof *e->tokens);
    e->trained = xcalloc(n, sizeof *e->trained);
    e->docs = xcalloc(n, sizeof *e->docs);
    e->longest = xcalloc(n, sizeof *e->longest);
    if (packing == PACK_CONCAT)
        sum_concat(e, d, max_length);
    else
        sum_rows(e, d);
    if (packing != PACK_CONCAT) e->n_text = e->tokens[e->n_rows];
}

void epoch_clear(Epoch *e)
{
    free(e->uses);
    free(e->row_uses);
    free(e->use_start);
    free(e->tokens);
    free(e->trained);
    free(e->docs);
    free(e->longest);
    memset(e, 0, sizeof *e);
    e->number = -1;
}
