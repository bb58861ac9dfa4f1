/* Attention against one loop over all pairs in double. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

typedef struct Host {
    int H, K, D;
    double scale;
    float *q, *k, *v, *d_o;
    double *o, *lse, *dq, *dk, *dv;
} Host;

static double dot(const float *x, const float *y, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

/* Query `row` of head h sees rows [first, row]. */
static void query(Host *t, int64_t first, int64_t row, int h)
{
    int D = t->D, kv = h / (t->H / t->K);
    int64_t n = row - first + 1, at_q = (row * t->H + h) * D;
    double *p = xcalloc((size_t)n, sizeof *p), *dp = xcalloc((size_t)n, sizeof *dp);
    double max = -INFINITY, sum = 0, mean = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t at = ((first + j) * t->K + kv) * D;
        p[j] = t->scale * dot(t->q + at_q, t->k + at, D);
        dp[j] = dot(t->d_o + at_q, t->v + at, D);
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    t->lse[row * t->H + h] = max + log(sum);
    for (int64_t j = 0; j < n; j++)
        mean += (p[j] /= sum) * dp[j];
    for (int64_t j = 0; j < n; j++) {
        int64_t at = ((first + j) * t->K + kv) * D;
        double ds = t->scale * p[j] * (dp[j] - mean);
        for (int i = 0; i < D; i++) {
            t->o[at_q + i] += p[j] * (double)t->v[at + i];
            t->dv[at + i] += p[j] * (double)t->d_o[at_q + i];
            t->dq[at_q + i] += ds * (double)t->k[at + i];
            t->dk[at + i] += ds * (double)t->q[at_q + i];
        }
    }
    free(p), free(dp);
}

static double *zeros(int64_t n)
{
    return xcalloc((size_t)n, sizeof(double));
}

static void check(Bed *b, const HeadsCase *t, double sigma)
{
    BedDocs docs;
    bed_docs(b, &docs, t->n_docs, t->lens);
    int64_t n = docs.n, H = t->n_heads, K = t->n_kv_heads, D = t->head_dim;
    float scale = (float)(1 / sqrt((double)D));
    Tensor *q = bed_fill(b, bed_matrix(b, n, H * D, 0), 1, sigma, 0);
    Tensor *k = bed_fill(b, bed_matrix(b, n, K * D, 0), 2, sigma, 0);
    Tensor *v = bed_fill(b, bed_matrix(b, n, K * D, 0), 3, 1, 0.5);
    Tensor *d_o = bed_fill(b, bed_matrix(b, n, H * D, t->pad), 4, 1, 0);
    Tensor *o = bed_matrix(b, n, H * D, t->pad), *lse = bed_matrix(b, n, H, 0);
    Tensor *dq = bed_matrix(b, n, H * D, 0), *dk = bed_matrix(b, n, K * D, 0),
           *dv = bed_matrix(b, n, K * D, 0);
    b->dev.k->attention_fwd(&b->dev, o, lse, q, k, v, (int)H, (int)K, &docs.docs, scale);
    b->dev.k->attention_bwd(&b->dev, dq, dk, dv, d_o, q, k, v, o, lse, (int)H, (int)K, &docs.docs,
                            scale);

    Host host = {(int)H,           (int)K,         (int)D,           (double)scale,
                 bed_read(b, q),   bed_read(b, k), bed_read(b, v),   bed_read(b, d_o),
                 zeros(n * H * D), zeros(n * H),   zeros(n * H * D), zeros(n * K * D),
                 zeros(n * K * D)};
    for (int doc = 0; doc < t->n_docs; doc++)
        for (int64_t row = docs.cu[doc]; row < docs.cu[doc + 1]; row++)
            for (int h = 0; h < H; h++)
                query(&host, docs.cu[doc], row, h);
    /* The scores' own rounding, sigma^2 sqrt(D) large, goes into exp. */
    double tolerance = close_tolerance(DT_F32, docs.docs.max_len + D) * fmax(1, sigma * sigma);
    const struct {
        const char *name;
        Tensor *got;
        double *want;
        double size; /* dP - rowsum(do o) cancels where a row sees one key */
    } outputs[] = {
        {"o", o, host.o, 0},        {"lse", lse, host.lse, 0}, {"dq", dq, host.dq, sigma},
        {"dk", dk, host.dk, sigma}, {"dv", dv, host.dv, 0},
    };
    for (int i = 0; i < 5; i++) {
        float *got = bed_read(b, outputs[i].got);
        cr_expect(close_enough_of(t->name, got, outputs[i].want, tensor_numel(outputs[i].got),
                                  tolerance, outputs[i].size),
                  "%s", outputs[i].name);
        free(got);
        free(outputs[i].want);
    }
    cr_expect(bed_pad_intact(b, o), "%s: wrote the pad", t->name);
    free(host.q), free(host.k), free(host.v), free(host.d_o);
}

Test(kernel_attention, equals_all_pairs)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_heads_cases; i++) {
        check(&b, &heads_cases[i], 1);
        check(&b, &heads_cases[i], 8); /* nearly one-hot rows */
    }
    bed_close(&b);
}
