/* q, k, v out of the fused product, normed per head (Qwen3) and rotated (Su et al. 2021, halves paired as in
 * transformers: (i, i + D/2)). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { MAX_HEAD_DIM = 512 };

typedef struct Split {
    /* (N, heads * D) each; forward writes them, backward reads their gradients */
    float *q, *k, *v;
    float *rstd_q, *rstd_k;
    const float *qkv;
    float *dqkv;
    const int32_t *positions;
    const float *rope, *q_norm, *k_norm;
    int64_t n, ld, lddqkv, n_angles; /* positions that the table has */
    int n_heads, n_kv_heads, head_dim;
    float eps, beta;
    double *dw; /* [part][q, k][D]: sums for dq_norm, dk_norm; NULL: not wanted */
    int64_t rows_per_part;
} Split;

static const float *angles_of(const Split *a, int64_t row)
{
    int32_t p = a->positions[row];
    ASSERT(p >= 0 && p < a->n_angles, "split_rope: position %d of token %lld, the table has %lld",
           p, (long long)row, (long long)a->n_angles);
    return a->rope + (int64_t)p * a->head_dim;
}

static Split split_of(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *qkv,
                      const Tensor *rstd_q, const Tensor *rstd_k, const Tensor *positions,
                      const Tensor *rope, const Tensor *q_norm, const Tensor *k_norm, int n_heads,
                      int n_kv_heads)
{
    int64_t n = tensor_rows(q), dim = tensor_cols(rope);
    if (qkv) check_matrix(qkv, n, (n_heads + 2 * n_kv_heads) * dim, "split_rope: qkv");
    check_matrix(q, n, n_heads * dim, "split_rope: q");
    check_matrix(k, n, n_kv_heads * dim, "split_rope: k");
    check_matrix(v, n, n_kv_heads * dim, "split_rope: v");
    bool fits = dim % 2 == 0 && dim <= MAX_HEAD_DIM;
    ASSERT(fits, "split_rope: head width %lld", (long long)dim);
    ASSERT(!q_norm == !k_norm && (!q_norm || (qkv && rstd_q && rstd_k)),
           "split_rope: both heads' norms or none, with their rstd and qkv");
    return (Split){
        .q = dense_f32(q),
        .k = dense_f32(k),
        .v = dense_f32(v),
        .rstd_q = q_norm ? dense_f32(rstd_q) : NULL,
        .rstd_k = q_norm ? dense_f32(rstd_k) : NULL,
        .qkv = qkv ? data_f32(qkv) : NULL,
        .positions = data_i32(positions),
        .rope = dense_f32(rope),
        .q_norm = q_norm ? dense_f32(q_norm) : NULL,
        .k_norm = k_norm ? dense_f32(k_norm) : NULL,
        .n = n,
        .ld = qkv ? qkv->ld : 0,
        .n_angles = tensor_rows(rope),
        .n_heads = n_heads,
        .n_kv_heads = n_kv_heads,
        .head_dim = (int)dim,
    };
}

/* y = rotate(x * rstd * w); w NULL: rotate(x).  rstd receives one value. */
static void head_fwd(float *y, float *rstd, const float *x, const float *w, const float *angles,
                     int dim, float eps)
{
    const float *cosine = angles, *sine = angles + dim / 2;
    float normed[MAX_HEAD_DIM];
    if (w) {
        *rstd = (float)(1.0 / sqrt(vec_dot(x, x, dim) / dim + (double)eps));
        for (int i = 0; i < dim; i++)
            normed[i] = x[i] * *rstd * w[i];
        x = normed;
    }
    const float *x2 = x + dim / 2;
    float *y2 = y + dim / 2;
    for (int i = 0; i < dim / 2; i++) {
        y[i] = x[i] * cosine[i] - x2[i] * sine[i];
        y2[i] = x2[i] * cosine[i] + x[i] * sine[i];
    }
}

VECTORISED static void fwd_rows(void *args, int64_t row0, int64_t row1)
{
    const Split *a = args;
    int dim = a->head_dim, H = a->n_heads, K = a->n_kv_heads;
    for (int64_t r = row0; r < row1; r++) {
        const float *x = a->qkv + r * a->ld, *angles = angles_of(a, r);
        for (int h = 0; h < H; h++, x += dim)
            head_fwd(a->q + (r * H + h) * dim, a->q_norm ? a->rstd_q + r * H + h : NULL, x,
                     a->q_norm, angles, dim, a->eps);
        for (int h = 0; h < K; h++, x += dim)
            head_fwd(a->k + (r * K + h) * dim, a->k_norm ? a->rstd_k + r * K + h : NULL, x,
                     a->k_norm, angles, dim, a->eps);
        memcpy(a->v + r * K * dim, x, (size_t)(K * dim) * sizeof(float));
    }
}

void cpu_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q, Tensor *rstd_k,
                        const Tensor *qkv, const Tensor *positions, const Tensor *rope,
                        const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads,
                        float eps)
{
    Split a = split_of(q, k, v, qkv, rstd_q, rstd_k, positions, rope, q_norm, k_norm, n_heads,
                       n_kv_heads);
    a.eps = eps;
    rows_run(d, a.n, 2 * tensor_cols(qkv), fwd_rows, &a);
}

/* dx = beta * dx + the gradient of head_fwd's x; the rotation's transpose turns back.  dw (D) += or NULL. */
static void head_bwd(float *dx, float beta, double *dw, const float *dy, const float *x, float rstd,
                     const float *w, const float *angles, int dim)
{
    const float *cosine = angles, *sine = angles + dim / 2, *dy2 = dy + dim / 2;
    float g[MAX_HEAD_DIM];
    for (int i = 0; i < dim / 2; i++) {
        g[i] = dy[i] * cosine[i] + dy2[i] * sine[i];
        g[i + dim / 2] = dy2[i] * cosine[i] - dy[i] * sine[i];
    }
    if (w) { /* as in rmsnorm.c */
        double dot = 0;
        for (int i = 0; i < dim; i++) {
            if (dw) dw[i] += (double)(g[i] * (x[i] * rstd));
            g[i] *= w[i];
            dot += (double)g[i] * (double)x[i];
        }
        float back = (float)(dot * (double)rstd * (double)rstd * (double)rstd / dim);
        for (int i = 0; i < dim; i++)
            g[i] = rstd * g[i] - back * x[i];
    }
    for (int i = 0; i < dim; i++)
        dx[i] = beta == 0 ? g[i] : beta * dx[i] + g[i];
}

VECTORISED static void bwd_part(void *ud, int64_t part)
{
    const Split *a = ud;
    int dim = a->head_dim, H = a->n_heads, K = a->n_kv_heads;
    int64_t row0 = part * a->rows_per_part, row1 = row0 + a->rows_per_part;
    double *dwq = a->dw ? a->dw + part * 2 * dim : NULL, *dwk = dwq ? dwq + dim : NULL;
    for (int i = 0; dwq && i < 2 * dim; i++)
        dwq[i] = 0;
    for (int64_t r = row0; r < row1 && r < a->n; r++) {
        const float *x = a->q_norm ? a->qkv + r * a->ld : NULL, *angles = angles_of(a, r);
        float *dx = a->dqkv + r * a->lddqkv;
        for (int h = 0; h < H; h++, dx += dim)
            head_bwd(dx, a->beta, dwq, a->q + (r * H + h) * dim, x ? x + h * dim : NULL,
                     x ? a->rstd_q[r * H + h] : 1.0f, a->q_norm, angles, dim);
        for (int h = 0; h < K; h++, dx += dim)
            head_bwd(dx, a->beta, dwk, a->k + (r * K + h) * dim, x ? x + (H + h) * dim : NULL,
                     x ? a->rstd_k[r * K + h] : 1.0f, a->k_norm, angles, dim);
        const float *dv = a->v + r * K * dim;
        for (int i = 0; i < K * dim; i++)
            dx[i] = a->beta == 0 ? dv[i] : a->beta * dx[i] + dv[i];
    }
}

/* Adds up one vector of each part, in order. */
static void sum_parts(Tensor *dw, float beta, const double *parts, int64_t n_parts, int dim)
{
    if (!dw) return;
    ASSERT(tensor_numel(dw) == dim, "split_rope: a norm's gradient has %lld elements, not %d",
           (long long)tensor_numel(dw), dim);
    float *y = dense_f32(dw);
    for (int i = 0; i < dim; i++) {
        double sum = 0;
        for (int64_t p = 0; p < n_parts; p++)
            sum += parts[p * 2 * dim + i];
        y[i] = (beta != 0 ? beta * y[i] : 0) + (float)sum;
    }
}

void cpu_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm, float dq_norm_beta,
                        Tensor *dk_norm, float dk_norm_beta, const Tensor *dq, const Tensor *dk,
                        const Tensor *dv, const Tensor *qkv, const Tensor *rstd_q,
                        const Tensor *rstd_k, const Tensor *positions, const Tensor *rope,
                        const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads)
{
    Split a = split_of(dq, dk, dv, qkv, rstd_q, rstd_k, positions, rope, q_norm, k_norm, n_heads,
                       n_kv_heads);
    check_matrix(dqkv, a.n, (n_heads + 2 * n_kv_heads) * a.head_dim, "split_rope: dqkv");
    a.dqkv = data_f32(dqkv);
    a.lddqkv = dqkv->ld;
    a.beta = beta;
    a.rows_per_part = cpu_part_rows(a.n, 4 * tensor_cols(dqkv));
    int64_t n_parts = (a.n + a.rows_per_part - 1) / a.rows_per_part;
    bool want_dw = dq_norm || dk_norm;
    if (want_dw)
        a.dw = workspace_take(d, cpu_split_rope_scratch(a.n, tensor_cols(dqkv), a.head_dim));
    pool_run(d->pool, n_parts, bwd_part, &a);
    if (!want_dw) return;
    sum_parts(dq_norm, dq_norm_beta, a.dw, n_parts, a.head_dim);
    sum_parts(dk_norm, dk_norm_beta, a.dw + a.head_dim, n_parts, a.head_dim);
    workspace_give(d);
}
