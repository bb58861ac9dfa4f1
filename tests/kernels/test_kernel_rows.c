/* Kernels that move, add or choose rows: copy, axpy, biases, embedding, gather and scatter. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* beta 0 must not read the output, which holds NaN then. */
static const float betas[] = {0, 1};

static Tensor *output(Bed *b, int64_t rows, int64_t cols, int64_t pad, float beta)
{
    Tensor *t = bed_matrix(b, rows, cols, pad);
    return beta != 0 ? bed_fill(b, t, 99, 1, 0) : t;
}

static double old_part(const float *before, int64_t i, float beta)
{
    return beta != 0 ? (double)beta * (double)before[i] : 0;
}

Test(kernel_rows, copy_and_axpy)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases; i++) {
        const RowsCase *t = &rows_cases[i];
        int64_t n = t->rows * t->cols;
        Tensor *x = bed_fill(&b, bed_matrix(&b, t->rows, t->cols, t->pad), 1, 1, 0);
        Tensor *y = bed_matrix(&b, t->rows, t->cols, t->pad ? t->pad + 3 : 0);
        b.dev.k->copy(&b.dev, y, x);
        float *hx = bed_read(&b, x), *got = bed_read(&b, y);
        cr_expect_arr_eq(got, hx, (size_t)n * sizeof(float), "%s: copy", t->name);
        free(got);
        b.dev.k->axpy(&b.dev, y, -0.25f, x);
        got = bed_read(&b, y);
        for (int64_t j = 0; j < n; j++)
            cr_expect_eq(got[j], 0.75f * hx[j], "%s: axpy", t->name);
        cr_expect(bed_pad_intact(&b, y), "%s: wrote the pad", t->name);
        free(hx), free(got);
    }
    bed_close(&b);
}

/* Sums over ranks: beta 0 must not read the output. */
Test(kernel_rows, sum_rows)
{
    Bed b;
    bed_open(&b, 2);
    static const int64_t shapes[][2] = {{1, 1}, {2, 7}, {3, 128}, {8, 4096}, {5, 10000}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t rows = shapes[i][0], cols = shapes[i][1];
        Tensor *x = bed_fill(&b, bed_matrix(&b, rows, cols, 0), 1, 1, 0.5);
        float *hx = bed_read(&b, x);
        for (int k = 0; k < 2; k++) {
            Tensor *y = output(&b, 1, cols, 0, betas[k]);
            float *before = bed_read(&b, y);
            b.dev.k->sum_rows(&b.dev, y, betas[k], x);
            float *got = bed_read(&b, y);
            for (int64_t j = 0; j < cols; j++) {
                float want = 0;
                for (int64_t r = 0; r < rows; r++)
                    want += hx[r * cols + j];
                if (betas[k] != 0) want += before[j];
                cr_expect_eq(got[j], want, "%lld x %lld", (long long)rows, (long long)cols);
            }
            free(before), free(got);
        }
        free(hx);
    }
    bed_close(&b);
}

Test(kernel_rows, bias)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases; i++) {
        const RowsCase *t = &rows_cases[i];
        Tensor *x = bed_fill(&b, bed_matrix(&b, t->rows, t->cols, t->pad), 1, 1, 0.5);
        Tensor *bias = bed_fill(&b, bed_vector(&b, t->cols), 2, 1, 0);
        float *before = bed_read(&b, x), *hb = bed_read(&b, bias);
        double *want = xcalloc((size_t)t->cols, sizeof *want);
        for (int k = 0; k < 2; k++) {
            Tensor *db = bed_vector(&b, t->cols);
            if (betas[k] != 0) bed_fill(&b, db, 3, 1, 0);
            float *old = bed_read(&b, db);
            b.dev.k->bias_bwd(&b.dev, db, betas[k], x);
            for (int64_t j = 0; j < t->cols; j++) {
                want[j] = old_part(old, j, betas[k]);
                for (int64_t r = 0; r < t->rows; r++)
                    want[j] += (double)before[r * t->cols + j];
            }
            float *got = bed_read(&b, db);
            cr_expect(close_enough(t->name, got, want, t->cols, close_tolerance(DT_F32, 1)));
            free(old), free(got);
        }
        b.dev.k->bias_fwd(&b.dev, x, bias);
        float *got = bed_read(&b, x);
        for (int64_t j = 0; j < t->rows * t->cols; j++)
            cr_expect_eq(got[j], before[j] + hb[j % t->cols], "%s: bias_fwd", t->name);
        free(before), free(hb), free(want), free(got);
    }
    bed_close(&b);
}

Test(kernel_rows, embedding)
{
    enum { N = 200, VOCAB = 37, COLS = 21 };
    Bed b;
    bed_open(&b, 2);
    int32_t ids[N];
    for (int i = 0; i < N; i++) /* the first and last id, and some often */
        ids[i] = i < 2 ? (i ? VOCAB - 1 : 0) : (int32_t)rng_below(5, (uint64_t)i, 9) * 4;
    Tensor *w = bed_fill(&b, bed_matrix(&b, VOCAB, COLS, 0), 1, 1, 0);
    Tensor *dy = bed_fill(&b, bed_matrix(&b, N, COLS, 0), 2, 1, 0);
    Tensor *y = bed_matrix(&b, N, COLS, 0), *t_ids = bed_i32(&b, ids, N);
    b.dev.k->embedding_fwd(&b.dev, y, w, t_ids);
    float *hw = bed_read(&b, w), *hy = bed_read(&b, y), *hdy = bed_read(&b, dy);
    for (int i = 0; i < N; i++)
        cr_expect_arr_eq(hy + i * COLS, hw + ids[i] * COLS, COLS * sizeof(float));
    for (int k = 0; k < 2; k++) {
        Tensor *dw = output(&b, VOCAB, COLS, 0, betas[k]);
        float *old = bed_read(&b, dw);
        double want[VOCAB * COLS];
        for (int i = 0; i < VOCAB * COLS; i++)
            want[i] = old_part(old, i, betas[k]);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < COLS; j++)
                want[ids[i] * COLS + j] += (double)hdy[i * COLS + j];
        b.dev.k->embedding_bwd(&b.dev, dw, betas[k], dy, t_ids);
        float *got = bed_read(&b, dw);
        cr_expect(
            close_enough("embedding_bwd", got, want, VOCAB * COLS, close_tolerance(DT_F32, N)));
        free(old), free(got);
    }
    free(hw), free(hy), free(hdy);
    bed_close(&b);
}

Test(kernel_rows, gather_and_scatter)
{
    static const struct {
        const char *name;
        int64_t n, m;
        int32_t rows[64];
    } cases[] = {
        {"none", 5, 0, {0}},
        {"all", 4, 4, {0, 1, 2, 3}},
        {"first and last", 3000, 2, {0, 2999}},
        {"some", 50, 6, {1, 2, 17, 30, 31, 48}},
    };
    enum { COLS = 19 };
    Bed b;
    bed_open(&b, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t n = cases[i].n, m = cases[i].m;
        Tensor *x = bed_fill(&b, bed_matrix(&b, n, COLS, 0), 1, 1, 0);
        Tensor *dy = bed_fill(&b, bed_matrix(&b, m, COLS, 0), 2, 1, 0);
        Tensor *y = bed_matrix(&b, m, COLS, 0), *rows = bed_i32(&b, cases[i].rows, m);
        b.dev.k->gather_rows(&b.dev, y, x, rows);
        float *hx = bed_read(&b, x), *hy = bed_read(&b, y), *hdy = bed_read(&b, dy);
        for (int64_t r = 0; r < m; r++)
            cr_expect_arr_eq(hy + r * COLS, hx + cases[i].rows[r] * COLS, COLS * sizeof(float),
                             "%s", cases[i].name);
        for (int k = 0; k < 2; k++) {
            Tensor *dx = output(&b, n, COLS, 0, betas[k]);
            float *old = bed_read(&b, dx);
            double *want = xmalloc((size_t)(n * COLS) * sizeof *want);
            for (int64_t j = 0; j < n * COLS; j++)
                want[j] = old_part(old, j, betas[k]);
            for (int64_t j = 0; j < m * COLS; j++)
                want[cases[i].rows[j / COLS] * COLS + j % COLS] += (double)hdy[j];
            b.dev.k->scatter_rows(&b.dev, dx, betas[k], dy, rows);
            float *got = bed_read(&b, dx);
            cr_expect(close_enough(cases[i].name, got, want, n * COLS, close_tolerance(DT_F32, 1)));
            free(old), free(got), free(want);
        }
        free(hx), free(hy), free(hdy);
    }
    bed_close(&b);
}
