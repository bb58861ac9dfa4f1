/* The split, the norms per head and the rotation against transformers' formulas (rotate_half) in double. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const float EPS = 1e-6f;

typedef struct Host {
    int64_t n;
    int H, K, D;
    const float *qkv, *rope, *w[2];
    const int32_t *positions;
} Host;

/* One head's y = x_normed * cos + rotate_half(x_normed) * sin, cos and sin of D entries, each angle twice. */
static double rotated(const Host *t, int64_t row, int head, int i, const double *x)
{
    const float *angles = t->rope + (int64_t)t->positions[row] * t->D;
    int half = t->D / 2;
    double other = i < half ? -x[i + half] : x[i - half];
    return x[i] * (double)angles[i % half] + other * (double)angles[half + i % half];
}

static const float *head_of(const Host *t, int64_t row, int head)
{
    return t->qkv + (row * (t->H + 2 * t->K) + head) * t->D;
}

/* The norm of head `head` (q: below H, k: below H + K); returns rstd, or 1 without norms. */
static double normed(const Host *t, int64_t row, int head, double *y)
{
    const float *x = head_of(t, row, head), *w = t->w[head >= t->H];
    double squares = 0;
    for (int i = 0; i < t->D; i++)
        squares += (double)x[i] * (double)x[i];
    double rstd = w ? 1 / sqrt(squares / t->D + (double)EPS) : 1;
    for (int i = 0; i < t->D; i++)
        y[i] = (double)x[i] * rstd * (w ? (double)w[i] : 1);
    return rstd;
}

static void forward(const Host *t, double *q, double *k, double *v, double *rstd_q, double *rstd_k)
{
    double x[256];
    for (int64_t r = 0; r < t->n; r++) {
        for (int h = 0; h < t->H + t->K; h++) {
            int kv = h - t->H;
            double rstd = normed(t, r, h, x);
            *(kv < 0 ? &rstd_q[r * t->H + h] : &rstd_k[r * t->K + kv]) = rstd;
            double *y = kv < 0 ? q + (r * t->H + h) * t->D : k + (r * t->K + kv) * t->D;
            for (int i = 0; i < t->D; i++)
                y[i] = rotated(t, r, h, i, x);
        }
        for (int i = 0; i < t->K * t->D; i++)
            v[r * t->K * t->D + i] = (double)head_of(t, r, t->H + t->K)[i];
    }
}

/* From the definition: dy/dx of the rotation row by row, then of the norm. */
static void backward(const Host *t, const float *dq, const float *dk, const float *dv, double *dqkv,
                     double *dw[2])
{
    for (int64_t r = 0; r < t->n; r++) {
        for (int h = 0; h < t->H + t->K; h++) {
            int kv = h - t->H, D = t->D;
            const float *dy = kv < 0 ? dq + (r * t->H + h) * D : dk + (r * t->K + kv) * D;
            const float *x = head_of(t, r, h), *w = t->w[kv >= 0];
            double unit[256] = {0}, g[256], scratch[256], dot = 0;
            double rstd = normed(t, r, h, scratch);
            for (int j = 0; j < D; j++) { /* g_j = sum_i dy_i dy_i/dx_j */
                unit[j] = 1;
                g[j] = 0;
                for (int i = 0; i < D; i++)
                    g[j] += (double)dy[i] * rotated(t, r, h, i, unit);
                unit[j] = 0;
            }
            for (int j = 0; w && j < D; j++) {
                dw[kv >= 0][j] += g[j] * (double)x[j] * rstd;
                g[j] *= (double)w[j];
                dot += g[j] * (double)x[j];
            }
            double *dx = dqkv + (r * (t->H + 2 * t->K) + h) * D;
            for (int j = 0; j < D; j++)
                dx[j] += w ? rstd * (g[j] - (double)x[j] * rstd * rstd * dot / D) : g[j];
        }
        for (int i = 0; i < t->K * t->D; i++)
            dqkv[(r * (t->H + 2 * t->K) + t->H + t->K) * t->D + i] +=
                (double)dv[r * t->K * t->D + i];
    }
}

static double *zeros(int64_t n)
{
    return xcalloc((size_t)n, sizeof(double));
}

/* frozen: the norms' gradients are not wanted. */
static void check(Bed *b, const HeadsCase *t, bool norm, bool frozen, float beta)
{
    BedDocs docs;
    bed_docs(b, &docs, t->n_docs, t->lens);
    int64_t n = docs.n, H = t->n_heads, K = t->n_kv_heads, D = t->head_dim, all = (H + 2 * K) * D;
    Tensor *rope = bed_rope(b, docs.docs.max_len, t->head_dim);
    Tensor *qkv = bed_fill(b, bed_matrix(b, n, all, t->pad), 1, 1, 0.2);
    Tensor *w[2] = {NULL, NULL}, *dw[2] = {NULL, NULL}, *rstd[2] = {NULL, NULL};
    if (norm) {
        for (int i = 0; i < 2; i++) {
            w[i] = bed_fill(b, bed_vector(b, D), (uint64_t)(2 + i), 0.3, 1);
            if (!frozen) dw[i] = bed_vector(b, D);
            if (!frozen && beta != 0) bed_fill(b, dw[i], (uint64_t)(20 + i), 1, 0);
            rstd[i] = bed_matrix(b, n, i ? K : H, 0);
        }
    }
    Tensor *q = bed_matrix(b, n, H * D, 0), *k = bed_matrix(b, n, K * D, 0),
           *v = bed_matrix(b, n, K * D, 0);
    Tensor *dq = bed_fill(b, bed_matrix(b, n, H * D, 0), 4, 1, 0);
    Tensor *dk = bed_fill(b, bed_matrix(b, n, K * D, 0), 5, 1, 0);
    Tensor *dv = bed_fill(b, bed_matrix(b, n, K * D, 0), 6, 1, 0);
    Tensor *dqkv = bed_matrix(b, n, all, t->pad);
    if (beta != 0) bed_fill(b, dqkv, 7, 1, 0);
    b->dev.k->split_rope_fwd(&b->dev, q, k, v, rstd[0], rstd[1], qkv, docs.positions, rope, w[0],
                             w[1], (int)H, (int)K, EPS);

    int32_t *positions = xmalloc((size_t)n * sizeof *positions);
    tensor_read(&b->dev, docs.positions, positions);
    Host host = {.n = n, .H = (int)H, .K = (int)K, .D = (int)D, .positions = positions};
    float *hqkv = bed_read(b, qkv), *hrope = bed_read(b, rope);
    float *hw[2] = {norm ? bed_read(b, w[0]) : NULL, norm ? bed_read(b, w[1]) : NULL};
    host.qkv = hqkv, host.rope = hrope, host.w[0] = hw[0], host.w[1] = hw[1];
    double *eq = zeros(n * H * D), *ek = zeros(n * K * D), *ev = zeros(n * K * D);
    double *erq = zeros(n * H), *erk = zeros(n * K);
    forward(&host, eq, ek, ev, erq, erk);
    double tolerance = close_tolerance(DT_F32, D);
    const struct {
        const char *name;
        Tensor *got;
        double *want;
    } outputs[] = {{"q", q, eq},
                   {"k", k, ek},
                   {"v", v, ev},
                   {"rstd_q", rstd[0], erq},
                   {"rstd_k", rstd[1], erk}};
    for (int i = 0; i < 5; i++) {
        if (!outputs[i].got) continue;
        float *got = bed_read(b, outputs[i].got);
        cr_expect(
            close_enough(t->name, got, outputs[i].want, tensor_numel(outputs[i].got), tolerance),
            "%s", outputs[i].name);
        free(got);
    }

    double *edqkv = zeros(n * all), *edw[2] = {zeros(D), zeros(D)};
    float *old = bed_read(b, dqkv);
    for (int64_t i = 0; beta != 0 && i < n * all; i++)
        edqkv[i] = (double)beta * (double)old[i];
    for (int i = 0; dw[0] && beta != 0 && i < 2; i++) {
        float *old_dw = bed_read(b, dw[i]);
        for (int j = 0; j < D; j++)
            edw[i][j] = (double)beta * (double)old_dw[j];
        free(old_dw);
    }
    float *hdq = bed_read(b, dq), *hdk = bed_read(b, dk), *hdv = bed_read(b, dv);
    backward(&host, hdq, hdk, hdv, edqkv, edw);
    b->dev.k->split_rope_bwd(&b->dev, dqkv, beta, dw[0], beta, dw[1], beta, dq, dk, dv,
                             norm ? qkv : NULL, rstd[0], rstd[1], docs.positions, rope, w[0], w[1],
                             (int)H, (int)K);
    float *got = bed_read(b, dqkv);
    cr_expect(close_enough(t->name, got, edqkv, n * all, tolerance), "dqkv");
    cr_expect(bed_pad_intact(b, dqkv), "%s: wrote the pad", t->name);
    for (int i = 0; dw[0] && i < 2; i++) {
        float *got_dw = bed_read(b, dw[i]);
        cr_expect(close_enough(t->name, got_dw, edw[i], D, tolerance), "dw %d", i);
        free(got_dw);
    }
    free(positions), free(hqkv), free(hrope), free(hw[0]), free(hw[1]), free(eq), free(ek),
        free(ev);
    free(erq), free(erk), free(edqkv), free(edw[0]), free(edw[1]), free(old), free(hdq), free(hdk);
    free(hdv), free(got);
}

Test(kernel_split_rope, equals_formulas)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_heads_cases; i++) {
        check(&b, &heads_cases[i], false, false, 0);
        check(&b, &heads_cases[i], false, false, 1);
        check(&b, &heads_cases[i], true, false, 0);
        check(&b, &heads_cases[i], true, false, 1);
        check(&b, &heads_cases[i], true, true, 0);
        check(&b, &heads_cases[i], true, true, 1);
    }
    bed_close(&b);
}

/* Scores depend on the distance of positions alone: what a rotation is for. */
Test(kernel_split_rope, scores_depend_on_distance)
{
    enum { D = 16 };
    Bed b;
    bed_open(&b, 1);
    Tensor *rope = bed_rope(&b, 100, D);
    Tensor *one = bed_fill(&b, bed_matrix(&b, 1, 3 * D, 0), 1, 1, 0);
    float *row = bed_read(&b, one), twice[6 * D];
    for (int i = 0; i < 6 * D; i++)
        twice[i] = row[i % (3 * D)];
    Tensor *qkv = bed_matrix(&b, 2, 3 * D, 0);
    tensor_write(&b.dev, qkv, twice);
    double score[2];
    for (int shift = 0; shift < 2; shift++) {
        int32_t positions[2] = {3 + 50 * shift, 12 + 50 * shift};
        Tensor *q = bed_matrix(&b, 2, D, 0), *k = bed_matrix(&b, 2, D, 0),
               *v = bed_matrix(&b, 2, D, 0);
        b.dev.k->split_rope_fwd(&b.dev, q, k, v, NULL, NULL, qkv, bed_i32(&b, positions, 2), rope,
                                NULL, NULL, 1, 1, 0);
        float *hq = bed_read(&b, q), *hk = bed_read(&b, k);
        score[shift] = 0;
        for (int i = 0; i < D; i++)
            score[shift] += (double)hq[D + i] * (double)hk[i];
        free(hq), free(hk);
    }
    cr_expect_float_eq(score[0], score[1], 1e-4);
    cr_expect(fabs(score[0]) > 1e-2);
    free(row);
    bed_close(&b);
}
