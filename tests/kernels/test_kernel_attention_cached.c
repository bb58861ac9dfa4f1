/* Attention to a cache equals attention to the whole document, however the document arrives in pieces, and the cache then
 * holds these pieces and nothing else. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of a host matrix, one document's [from, from + n) after the other's. */
static float *rows_of(const float *all, const BedDocs *docs, const int32_t *from, const int32_t *n,
                      int64_t cols, int64_t *total)
{
    float *out = xmalloc((size_t)(docs->n * cols + 1) * sizeof *out);
    *total = 0;
    for (int d = 0; d < docs->docs.n_docs; d++) {
        memcpy(out + *total * cols, all + (docs->cu[d] + from[d]) * cols,
               (size_t)(n[d] * cols) * sizeof *out);
        *total += n[d];
    }
    return out;
}

static Tensor *upload(Bed *b, float *host, int64_t rows, int64_t cols)
{
    Tensor *t = bed_matrix(b, rows, cols, 0);
    if (rows) tensor_write(&b->dev, t, host);
    free(host);
    return t;
}

/* A cache, and what it should hold bit by bit: NaN where nothing was stored. */
typedef struct Cache {
    Tensor *t; /* (B+1, T, cols) */
    float *want;
} Cache;

static Cache cache_new(Bed *b, int n_docs, int64_t capacity, int64_t cols)
{
    Tensor *t = bed_cube(b, n_docs + 1, capacity, cols);
    return (Cache){t, bed_read(b, t)};
}

/* Each document's take[d] rows from past[d] on of `all` have come. */
static void cache_check(Bed *b, Cache *c, const char *what, const float *all, const BedDocs *docs,
                        const int32_t *past, const int32_t *take)
{
    int64_t capacity = c->t->shape[1], cols = c->t->shape[2];
    for (int d = 0; d < docs->docs.n_docs; d++)
        memcpy(c->want + (d * capacity + past[d]) * cols, all + (docs->cu[d] + past[d]) * cols,
               (size_t)(take[d] * cols) * sizeof *all);
    float *got = bed_read(b, c->t);
    cr_expect(memcmp(got, c->want, (size_t)tensor_numel(c->t) * sizeof *got) == 0,
              "%s: the cache after %d tokens of the first document", what, past[0] + take[0]);
    free(got);
}

/* How documents arrive: tokens of each in the first call and in those after; 1 is decoding, a large number a prompt at once.
 * slack: how far the bound on what the cache holds lies above it. */
typedef struct Arrival {
    int first, piece, slack;
} Arrival;

static void check(Bed *b, const HeadsCase *t, const Arrival *a)
{
    BedDocs docs;
    bed_docs(b, &docs, t->n_docs, t->lens);
    int64_t n = docs.n, H = t->n_heads, K = t->n_kv_heads, D = t->head_dim;
    float scale = (float)(1 / sqrt((double)D));
    Tensor *q = bed_fill(b, bed_matrix(b, n, H * D, 0), 1, 1, 0);
    Tensor *k = bed_fill(b, bed_matrix(b, n, K * D, 0), 2, 1, 0);
    Tensor *v = bed_fill(b, bed_matrix(b, n, K * D, 0), 3, 1, 0.5);
    Tensor *o = bed_matrix(b, n, H * D, 0), *lse = bed_matrix(b, n, H, 0);
    b->dev.k->attention_fwd(&b->dev, o, lse, q, k, v, (int)H, (int)K, &docs.docs, scale);
    float *hq = bed_read(b, q), *hk = bed_read(b, k), *hv = bed_read(b, v), *ho = bed_read(b, o);

    int64_t capacity = docs.docs.max_len + 3;
    Cache cache_k = cache_new(b, t->n_docs, capacity, K * D);
    Cache cache_v = cache_new(b, t->n_docs, capacity, K * D);
    int32_t past[BED_MAX_DOCS] = {0}, take[BED_MAX_DOCS];
    int piece = a->first;
    for (bool more = true; more;) {
        int64_t total, unused, max_past = 0;
        more = false;
        for (int d = 0; d < t->n_docs; d++) { /* some sequences end before others */
            int32_t left = t->lens[d] - past[d];
            take[d] = left < piece ? left : piece;
            more |= left > piece;
            if (past[d] > max_past) max_past = past[d];
        }
        BedDocs new;
        bed_docs(b, &new, t->n_docs, take);
        Tensor *q1 = upload(b, rows_of(hq, &docs, past, take, H * D, &total), new.n, H * D);
        Tensor *k1 = upload(b, rows_of(hk, &docs, past, take, K * D, &total), new.n, K * D);
        Tensor *v1 = upload(b, rows_of(hv, &docs, past, take, K * D, &total), new.n, K * D);
        Tensor *o1 = bed_matrix(b, new.n, H * D, t->pad), *t_past = bed_i32(b, past, t->n_docs);
        b->dev.k->attention_cached(&b->dev, o1, cache_k.t, cache_v.t, q1, k1, v1, (int)H, (int)K,
                                   &new.docs, t_past, max_past + a->slack, scale);
        float *got = bed_read(b, o1), *rows = rows_of(ho, &docs, past, take, H * D, &unused);
        double *want = xcalloc((size_t)(total * H * D + 1), sizeof *want);
        for (int64_t i = 0; i < total * H * D; i++)
            want[i] = (double)rows[i];
        cr_expect(close_enough(t->name, got, want, total * H * D,
                               2 * close_tolerance(DT_F32, docs.docs.max_len + D)),
                  "in pieces of %d, past %lld", piece, (long long)max_past);
        cr_expect(bed_pad_intact(b, o1));
        cache_check(b, &cache_k, t->name, hk, &docs, past, take);
        cache_check(b, &cache_v, t->name, hv, &docs, past, take);
        for (int d = 0; d < t->n_docs; d++)
            past[d] += take[d];
        free(got), free(rows), free(want);
        piece = a->piece;
    }
    free(hq), free(hk), free(hv), free(ho), free(cache_k.want), free(cache_v.want);
}

/* What decoding adds to the shapes of training: queries of a key head in several groups, keys in several parts. */
static const HeadsCase own_cases[] = {
    {"groups of 16", 16, 1, 16, 3, {37, 2, 70}, 0},
    {"groups of 12, width 96", 24, 2, 96, 2, {3, 41}, 24},
    {"several parts", 4, 2, 32, 2, {200, 90}, 0},
    {"several parts, odd width", 2, 1, 20, 2, {90, 170}, 8},
    {"many parts", 8, 2, 64, 3, {760, 301, 659}, 0},
};

static void check_all(const HeadsCase *cases, int n)
{
    static const Arrival arrivals[] = {
        {1, 1, 0}, {5, 5, 0}, {1000, 1000, 0}, {64, 7, 0}, {650, 1, 3000}};
    for (int a = 0; a < 5; a++) {
        for (int i = 0; i < n; i++) {
            if (arrivals[a].piece == 1 && arrivals[a].first == 1 && cases[i].lens[0] > 300)
                continue; /* takes long, and begins anew from 650 on */
            Bed b;
            bed_open(&b, 2);
            check(&b, &cases[i], &arrivals[a]);
            bed_close(&b);
        }
    }
}

Test(kernel_attention_cached, equals_attention_of_the_whole)
{
    check_all(heads_cases, n_heads_cases);
}

Test(kernel_attention_cached, groups_and_parts)
{
    check_all(own_cases, (int)(sizeof own_cases / sizeof own_cases[0]));
}
