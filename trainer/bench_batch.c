#include "trainer/bench_batch.h"

#include "base/str.h"
#include "data/pack.h"

#include <stdlib.h>

void bench_batch_full(HostBatch *out, int64_t micro, int64_t seq, int64_t vocab, uint64_t seed)
{
    int32_t *lens = xmalloc((size_t)micro * sizeof *lens);
    for (int64_t i = 0; i < micro; i++)
        lens[i] = (int32_t)seq;
    host_batch_random(out, micro, lens, vocab, seed);
    free(lens);
}

void bench_batch_packed(HostBatch *out, int64_t micro, int64_t seq, const int32_t *lens, int64_t n,
                        int64_t vocab, uint64_t seed)
{
    int32_t *cut = xmalloc((size_t)n * sizeof *cut);
    for (int64_t i = 0; i < n; i++)
        cut[i] = lens[i] < seq ? lens[i] : (int32_t)seq;
    PackedRows rows;
    pack_best_fit(&rows, cut, n, seq, PACK_MAX_DOCUMENTS);
    int64_t n_rows = micro < rows.n_rows ? micro : rows.n_rows, n_docs = rows.first[n_rows];
    int32_t *chosen = xmalloc((size_t)n_docs * sizeof *chosen);
    for (int64_t i = 0; i < n_docs; i++)
        chosen[i] = cut[rows.items[i]];
    host_batch_random(out, n_docs, chosen, vocab, seed);
    packed_rows_clear(&rows);
    free(chosen);
    free(cut);
}

/* Quantiles that we measured over the 14,732 training rows: prompt of llama-recipes with summary, Llama 3's
 * tokenizer, BOS and EOS counted.  Mean 177.8 tokens, longest 1,093. */
typedef struct Quantile {
    double share;
    double length;
} Quantile;

/* clang-format off */
static const Quantile samsum[] = {
    {0, 17}, {0.01, 43}, {0.05, 54}, {0.10, 64}, {0.15, 74}, {0.20, 83}, {0.25, 92}, {0.30, 101},
    {0.35, 112}, {0.40, 124}, {0.45, 136}, {0.50, 150}, {0.55, 165}, {0.60, 180}, {0.65, 197},
    {0.70, 215}, {0.75, 236}, {0.80, 259}, {0.85, 289}, {0.90, 331}, {0.925, 356}, {0.95, 394},
    {0.97, 444}, {0.98, 477}, {0.99, 545}, {0.995, 607}, {0.999, 750}, {0.9999, 961}, {1, 1093},
};
/* clang-format on */
enum { SAMSUM_ROWS = 14732 };

static double quantile(double share)
{
    int i = 1;
    while (samsum[i].share < share)
        i++;
    const Quantile *a = &samsum[i - 1], *b = &samsum[i];
    return a->length + (b->length - a->length) * (share - a->share) / (b->share - a->share);
}

int32_t *bench_samsum_lengths(int64_t *n)
{
    int32_t *lens = xmalloc(SAMSUM_ROWS * sizeof *lens);
    /* multiples of the golden ratio cover the shares evenly, and in no order of length */
    double share = 0.5;
    for (int i = 0; i < SAMSUM_ROWS; i++) {
        lens[i] = (int32_t)(quantile(share) + 0.5);
        share += 0.6180339887498949;
        share -= share >= 1 ? 1 : 0;
    }
    *n = SAMSUM_ROWS;
    return lens;
}
