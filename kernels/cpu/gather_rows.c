/* Rows chosen out of a matrix, and their gradients put back. */
#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct Rows {
    float *y;
    const float *x;
    const int32_t *rows;
    int64_t n, n_chosen, cols;
    float beta;
} Rows;

static int64_t checked_row(const Rows *a, int64_t i)
{
    int64_t row = a->rows[i];
    ASSERT(row >= 0 && row < a->n && (i == 0 || row > a->rows[i - 1]),
           "rows: %lld at %lld of %lld, must be ascending and distinct", (long long)row,
           (long long)i, (long long)a->n);
    return row;
}

static void gather_part(void *args, int64_t row0, int64_t row1)
{
    const Rows *a = args;
    for (int64_t r = row0; r < row1; r++)
        memcpy(a->y + r * a->cols, a->x + checked_row(a, r) * a->cols,
               (size_t)a->cols * sizeof(float));
}

void cpu_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows)
{
    Rows a = {.y = dense_f32(y),
              .x = dense_f32(x),
              .rows = data_i32(rows),
              .n = tensor_rows(x),
              .n_chosen = tensor_numel(rows),
              .cols = tensor_cols(x)};
    check_matrix(y, a.n_chosen, a.cols, "gather_rows: y");
    rows_run(d, a.n_chosen, a.cols, gather_part, &a);
}

/* The first chosen row that is not below `row`. */
static int64_t lower_bound(const Rows *a, int64_t row)
{
    int64_t lo = 0, hi = a->n_chosen;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (a->rows[mid] < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void scatter_part(void *args, int64_t row0, int64_t row1)
{
    const Rows *a = args;
    float *dx = a->y + row0 * a->cols;
    int64_t n = (row1 - row0) * a->cols;
    if (a->beta == 0)
        memset(dx, 0, (size_t)n * sizeof(float));
    else if (a->beta != 1)
        for (int64_t i = 0; i < n; i++)
            dx[i] *= a->beta;
    for (int64_t r = lower_bound(a, row0); r < a->n_chosen && a->rows[r] < row1; r++) {
        float *to = a->y + checked_row(a, r) * a->cols;
        const float *from = a->x + r * a->cols;
        for (int64_t i = 0; i < a->cols; i++)
            to[i] += from[i];
    }
}

void cpu_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows)
{
    Rows a = {.y = dense_f32(dx),
              .x = dense_f32(dy),
              .rows = data_i32(rows),
              .n = tensor_rows(dx),
              .n_chosen = tensor_numel(rows),
              .cols = tensor_cols(dx),
              .beta = beta};
    check_matrix(dy, a.n_chosen, a.cols, "scatter_rows: dy");
    rows_run(d, a.n, 2 * a.cols, scatter_part, &a);
}
