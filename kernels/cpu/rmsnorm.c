/* RMSNorm (Zhang & Sennrich 2019). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

typedef struct NormFwd {
    float *y, *rstd;
    const float *x, *w;
    int64_t cols, ldy, ldx;
    float eps;
} NormFwd;

VECTORISED static void fwd_rows(void *args, int64_t row0, int64_t row1)
{
    const NormFwd *a = args;
    for (int64_t r = row0; r < row1; r++) {
        const float *x = a->x + r * a->ldx;
        float *y = a->y + r * a->ldy;
        float rstd = (float)(1.0 / sqrt(vec_dot(x, x, a->cols) / (double)a->cols + (double)a->eps));
        a->rstd[r] = rstd;
        for (int64_t i = 0; i < a->cols; i++)
            y[i] = x[i] * rstd * a->w[i];
    }
}

void cpu_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                     float eps)
{
    int64_t n = tensor_rows(x), cols = tensor_cols(x);
    check_matrix(y, n, cols, "rmsnorm: y");
    ASSERT(tensor_numel(w) == cols && tensor_numel(rstd) == n, "rmsnorm: w (%lld), rstd (%lld)",
           (long long)tensor_numel(w), (long long)tensor_numel(rstd));
    NormFwd a = {data_f32(y), dense_f32(rstd), data_f32(x), dense_f32(w), cols, y->ld, x->ld, eps};
    rows_run(d, n, 3 * cols, fwd_rows, &a);
}

/* With h = x rstd and g = w dy:  d(h)/dx = rstd (I - h h^T / C), so dx = rstd (g - h mean(g h)). */
typedef struct NormBwd {
    float *dx, *dw;
    const float *dy, *x, *rstd, *w;
    int64_t rows, cols, lddx, lddy, ldx;
    float beta, dw_beta;
    int64_t rows_per_part, n_row_parts;
} NormBwd;

VECTORISED static void dx_rows(const NormBwd *a, int64_t row0, int64_t row1)
{
    for (int64_t r = row0; r < row1; r++) {
        const float *x = a->x + r * a->ldx, *dy = a->dy + r * a->lddy, *w = a->w;
        float *dx = a->dx + r * a->lddx;
        double lane[LANES] = {0}, rest = 0;
        int64_t i = 0;
        for (; i + LANES <= a->cols; i += LANES)
            for (int l = 0; l < LANES; l++)
                lane[l] += (double)(w[i + l] * dy[i + l]) * (double)x[i + l];
        for (; i < a->cols; i++)
            rest += (double)(w[i] * dy[i]) * (double)x[i];
        double rstd = (double)a->rstd[r];
        float scale = a->rstd[r];
        float back = (float)((lanes_sum(lane) + rest) * rstd * rstd * rstd / (double)a->cols);
        if (a->beta == 0)
            for (i = 0; i < a->cols; i++)
                dx[i] = scale * w[i] * dy[i] - back * x[i];
        else
            for (i = 0; i < a->cols; i++)
                dx[i] = a->beta * dx[i] + (scale * w[i] * dy[i] - back * x[i]);
    }
}

enum { COLS_PER_PART = 32 };

/* A few columns of dw, down all rows. */
VECTORISED static void dw_cols(const NormBwd *a, int64_t col0)
{
    int64_t n = a->cols - col0 < COLS_PER_PART ? a->cols - col0 : COLS_PER_PART;
    double sum[COLS_PER_PART] = {0};
    for (int64_t r = 0; r < a->rows; r++) {
        const float *x = a->x + r * a->ldx + col0, *dy = a->dy + r * a->lddy + col0;
        float rstd = a->rstd[r];
        for (int64_t i = 0; i < n; i++)
            sum[i] += (double)(dy[i] * (x[i] * rstd));
    }
    float *dw = a->dw + col0;
    for (int64_t i = 0; i < n; i++)
        dw[i] = (a->dw_beta != 0 ? a->dw_beta * dw[i] : 0) + (float)sum[i];
}

/* Parts of rows (dx) and parts of columns (dw) in one loop: one wake-up of the threads. */
static void bwd_part(void *ud, int64_t i)
{
    const NormBwd *a = ud;
    if (i >= a->n_row_parts) {
        dw_cols(a, (i - a->n_row_parts) * COLS_PER_PART);
        return;
    }
    int64_t row0 = i * a->rows_per_part, row1 = row0 + a->rows_per_part;
    dx_rows(a, row0, row1 < a->rows ? row1 : a->rows);
}

void cpu_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta, const Tensor *dy,
                     const Tensor *x, const Tensor *rstd, const Tensor *w)
{
    int64_t n = tensor_rows(x), cols = tensor_cols(x);
    check_matrix(dy, n, cols, "rmsnorm: dy");
    if (dx) check_matrix(dx, n, cols, "rmsnorm: dx");
    ASSERT(tensor_numel(w) == cols && (!dw || tensor_numel(dw) == cols),
           "rmsnorm: w, dw of %lld columns", (long long)cols);
    NormBwd a = {
        .dx = dx ? data_f32(dx) : NULL,
        .dw = dw ? dense_f32(dw) : NULL,
        .dy = data_f32(dy),
        .x = data_f32(x),
        .rstd = dense_f32(rstd),
        .w = dense_f32(w),
        .rows = n,
        .cols = cols,
        .lddx = dx ? dx->ld : 0,
        .lddy = dy->ld,
        .ldx = x->ld,
        .beta = beta,
        .dw_beta = dw_beta,
        .rows_per_part = cpu_part_rows(n, 4 * cols),
    };
    a.n_row_parts = dx ? (n + a.rows_per_part - 1) / a.rows_per_part : 0;
    int64_t n_col_parts = dw ? (cols + COLS_PER_PART - 1) / COLS_PER_PART : 0;
    pool_run(d->pool, a.n_row_parts + n_col_parts, bwd_part, &a);
}
