/* RMSNorm against its formulas in double. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const float EPS = 1e-5f;

static void check(Bed *b, const RowsCase *t, float beta, bool want_dx, bool want_dw)
{
    int64_t R = t->rows, C = t->cols;
    Tensor *x = bed_fill(b, bed_matrix(b, R, C, t->pad), 1, 1, 0.3);
    Tensor *w = bed_fill(b, bed_vector(b, C), 2, 0.5, 1);
    Tensor *dy = bed_fill(b, bed_matrix(b, R, C, t->pad), 3, 1, 0);
    Tensor *y = bed_matrix(b, R, C, t->pad), *rstd = bed_vector(b, R);
    Tensor *dx = bed_matrix(b, R, C, t->pad), *dw = bed_vector(b, C);
    if (beta != 0) bed_fill(b, dx, 4, 1, 0), bed_fill(b, dw, 5, 1, 0);
    float *hx = bed_read(b, x), *hw = bed_read(b, w), *hdy = bed_read(b, dy);
    float *hdx = bed_read(b, dx), *hdw = bed_read(b, dw);
    double *ey = xcalloc((size_t)(R * C + 1), sizeof *ey), *er = xcalloc((size_t)R + 1, sizeof *er);
    double *edx = xcalloc((size_t)(R * C + 1), sizeof *edx), *edw = xcalloc((size_t)C, sizeof *edw);
    for (int64_t j = 0; j < C; j++)
        edw[j] = beta != 0 ? (double)beta * (double)hdw[j] : 0;
    for (int64_t r = 0; r < R; r++) {
        double squares = 0, dot = 0;
        for (int64_t j = r * C; j < (r + 1) * C; j++)
            squares += (double)hx[j] * (double)hx[j];
        er[r] = 1 / sqrt(squares / (double)C + (double)EPS);
        for (int64_t j = 0; j < C; j++)
            dot += (double)hw[j] * (double)hdy[r * C + j] * (double)hx[r * C + j];
        for (int64_t j = 0; j < C; j++) {
            int64_t i = r * C + j;
            ey[i] = (double)hx[i] * er[r] * (double)hw[j];
            edx[i] = er[r] * ((double)hw[j] * (double)hdy[i] -
                              (double)hx[i] * er[r] * er[r] * dot / (double)C);
            if (beta != 0) edx[i] += (double)beta * (double)hdx[i];
            edw[j] += (double)hdy[i] * (double)hx[i] * er[r];
        }
    }
    b->dev.k->rmsnorm_fwd(&b->dev, y, rstd, x, w, EPS);
    b->dev.k->rmsnorm_bwd(&b->dev, want_dx ? dx : NULL, beta, want_dw ? dw : NULL, beta, dy, x,
                          rstd, w);
    float *gy = bed_read(b, y), *gr = bed_read(b, rstd), *gdx = bed_read(b, dx),
          *gdw = bed_read(b, dw);
    double tolerance = close_tolerance(DT_F32, 1);
    cr_expect(close_enough(t->name, gy, ey, R * C, tolerance), "y");
    cr_expect(close_enough(t->name, gr, er, R, tolerance), "rstd");
    /* in one column the two terms of dx cancel */
    if (want_dx) cr_expect(close_enough_of(t->name, gdx, edx, R * C, tolerance, 1), "dx");
    if (want_dw) cr_expect(close_enough(t->name, gdw, edw, C, tolerance), "dw");
    cr_expect(bed_pad_intact(b, y) && bed_pad_intact(b, dx), "%s: wrote the pad", t->name);
    free(hx), free(hw), free(hdy), free(hdx), free(hdw), free(ey), free(er), free(edx), free(edw);
    free(gy), free(gr), free(gdx), free(gdw);
}

Test(kernel_rmsnorm, equals_formulas)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases; i++) {
        check(&b, &rows_cases[i], 0, true, true);
        check(&b, &rows_cases[i], 1, true, true);
        check(&b, &rows_cases[i], 1, false, true);
        check(&b, &rows_cases[i], 1, true, false);
    }
    bed_close(&b);
}
