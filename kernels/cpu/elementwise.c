/* Copies, sums of tensors, biases. */
#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct TwoMatrices {
    float *y;
    const float *x;
    int64_t cols, ldy, ldx;
    float alpha;
} TwoMatrices;

static TwoMatrices two_matrices(Tensor *y, const Tensor *x, float alpha, const char *kernel)
{
    ASSERT(tensor_rows(y) == tensor_rows(x) && tensor_cols(y) == tensor_cols(x),
           "%s: shapes differ: (%lld,%lld) and (%lld,%lld)", kernel, (long long)tensor_rows(y),
           (long long)tensor_cols(y), (long long)tensor_rows(x), (long long)tensor_cols(x));
    return (TwoMatrices){data_f32(y), data_f32(x), tensor_cols(y), y->ld, x->ld, alpha};
}

static void copy_rows(void *args, int64_t row0, int64_t row1)
{
    const TwoMatrices *a = args;
    for (int64_t r = row0; r < row1; r++)
        memcpy(a->y + r * a->ldy, a->x + r * a->ldx, (size_t)a->cols * sizeof(float));
}

void cpu_copy(Device *d, Tensor *y, const Tensor *src)
{
    TwoMatrices a = two_matrices(y, src, 1.0f, "copy");
    rows_run(d, tensor_rows(y), a.cols, copy_rows, &a);
}

static void axpy_rows(void *args, int64_t row0, int64_t row1)
{
    const TwoMatrices *a = args;
    for (int64_t r = row0; r < row1; r++) {
        float *y = a->y + r * a->ldy;
        const float *x = a->x + r * a->ldx;
        for (int64_t i = 0; i < a->cols; i++)
            y[i] += a->alpha * x[i];
    }
}

void cpu_axpy(Device *d, Tensor *y, float alpha, const Tensor *x)
{
    TwoMatrices a = two_matrices(y, x, alpha, "axpy");
    rows_run(d, tensor_rows(y), a.cols, axpy_rows, &a);
}

typedef struct SumRows {
    float *y;
    const float *x;
    int64_t rows, cols;
    float beta;
} SumRows;

enum { SUM_COLS = 4096 };

static void sum_part(void *ud, int64_t part)
{
    const SumRows *a = ud;
    int64_t end = (part + 1) * SUM_COLS < a->cols ? (part + 1) * SUM_COLS : a->cols;
    for (int64_t i = part * SUM_COLS; i < end; i++) {
        float sum = 0;
        for (int64_t r = 0; r < a->rows; r++)
            sum += a->x[r * a->cols + i];
        a->y[i] = a->beta != 0 ? a->beta * a->y[i] + sum : sum;
    }
}

void cpu_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x)
{
    SumRows a = {dense_f32(y), dense_f32(x), tensor_rows(x), tensor_cols(x), beta};
    ASSERT(tensor_numel(y) == a.cols, "sum_rows: %lld for %lld columns", (long long)tensor_numel(y),
           (long long)a.cols);
    pool_run(d->pool, (a.cols + SUM_COLS - 1) / SUM_COLS, sum_part, &a);
}

static void bias_rows(void *args, int64_t row0, int64_t row1)
{
    const TwoMatrices *a = args;
    for (int64_t r = row0; r < row1; r++) {
        float *y = a->y + r * a->ldy;
        for (int64_t i = 0; i < a->cols; i++)
            y[i] += a->x[i];
    }
}

void cpu_bias_fwd(Device *d, Tensor *y, const Tensor *bias)
{
    ASSERT(tensor_numel(bias) == tensor_cols(y), "bias_fwd: %lld for %lld columns",
           (long long)tensor_numel(bias), (long long)tensor_cols(y));
    TwoMatrices a = {data_f32(y), dense_f32(bias), tensor_cols(y), y->ld, 0, 1.0f};
    rows_run(d, tensor_rows(y), a.cols, bias_rows, &a);
}

/* A part owns a few columns and goes down all rows, so that the order of a sum is that of the rows. */
enum { COLS_PER_PART = 32 };

typedef struct BiasBwd {
    float *db;
    const float *dy;
    int64_t rows, cols, ld;
    float beta;
} BiasBwd;

static void bias_bwd_part(void *ud, int64_t part)
{
    const BiasBwd *a = ud;
    int64_t col0 = part * COLS_PER_PART;
    int64_t n = a->cols - col0 < COLS_PER_PART ? a->cols - col0 : COLS_PER_PART;
    double sum[COLS_PER_PART] = {0};
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < n; i++)
            sum[i] += (double)a->dy[r * a->ld + col0 + i];
    for (int64_t i = 0; i < n; i++)
        a->db[col0 + i] = (a->beta != 0 ? a->beta * a->db[col0 + i] : 0) + (float)sum[i];
}

void cpu_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy)
{
    ASSERT(tensor_numel(db) == tensor_cols(dy), "bias_bwd: %lld for %lld columns",
           (long long)tensor_numel(db), (long long)tensor_cols(dy));
    BiasBwd a = {dense_f32(db), data_f32(dy), tensor_rows(dy), tensor_cols(dy), dy->ld, beta};
    pool_run(d->pool, (a.cols + COLS_PER_PART - 1) / COLS_PER_PART, bias_bwd_part, &a);
}
