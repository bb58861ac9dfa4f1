/* Attention to a cache equals attention to the whole document, however the document arrives in pieces. */
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

/* piece: tokens of a document a call; 1 is decoding, a large number a prompt at once. */
static void check(Bed *b, const HeadsCase *t, int piece)
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
    Tensor *cache_k = bed_cube(b, t->n_docs + 1, capacity, K * D);
    Tensor *cache_v = bed_cube(b, t->n_docs + 1, capacity, K * D);
    int32_t past[BED_MAX_DOCS] = {0}, take[BED_MAX_DOCS];
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
        b->dev.k->kv_append(&b->dev, cache_k, cache_v, k1, v1, &new.docs, t_past);
        b->dev.k->attention_cached(&b->dev, o1, q1, cache_k, cache_v, (int)H, (int)K, &new.docs,
                                   t_past, max_past, scale);
        float *got = bed_read(b, o1), *rows = rows_of(ho, &docs, past, take, H * D, &unused);
        double *want = xcalloc((size_t)(total * H * D + 1), sizeof *want);
        for (int64_t i = 0; i < total * H * D; i++)
            want[i] = (double)rows[i];
        cr_expect(close_enough(t->name, got, want, total * H * D,
                               2 * close_tolerance(DT_F32, docs.docs.max_len + D)),
                  "in pieces of %d, past %lld", piece, (long long)max_past);
        for (int d = 0; d < t->n_docs; d++)
            past[d] += take[d];
        free(got), free(rows), free(want);
    }
    free(hq), free(hk), free(hv), free(ho);
}

Test(kernel_attention_cached, equals_attention_of_the_whole)
{
    static const int pieces[] = {1, 5, 1000};
    for (int p = 0; p < 3; p++) {
        for (int i = 0; i < n_heads_cases; i++) {
            Bed b;
            bed_open(&b, 2);
            check(&b, &heads_cases[i], pieces[p]);
            bed_close(&b);
        }
    }
}
