/* SwiGLU against libm, saturated gates included. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check(Bed *b, const RowsCase *t, float beta, double sigma)
{
    int64_t R = t->rows, F = t->cols, n = R * F;
    Tensor *gu = bed_fill(b, bed_matrix(b, R, 2 * F, t->pad), 1, sigma, 0);
    Tensor *dh = bed_fill(b, bed_matrix(b, R, F, t->pad), 2, 1, 0);
    Tensor *h = bed_matrix(b, R, F, t->pad), *dgu = bed_matrix(b, R, 2 * F, t->pad);
    if (beta != 0) bed_fill(b, dgu, 3, 1, 0);
    float *hgu = bed_read(b, gu), *hdh = bed_read(b, dh), *old = bed_read(b, dgu);
    double *eh = xcalloc((size_t)n + 1, sizeof *eh), *ed = xcalloc((size_t)(2 * n) + 1, sizeof *ed);
    for (int64_t i = 0; i < n; i++) {
        int64_t gate_at = i / F * 2 * F + i % F, up_at = gate_at + F;
        double g = (double)hgu[gate_at], u = (double)hgu[up_at], s = 1 / (1 + exp(-g));
        double d = (double)hdh[i];
        eh[i] = g * s * u;
        ed[gate_at] = d * u * (s + g * s * (1 - s));
        ed[up_at] = d * g * s;
        if (beta == 0) continue;
        ed[gate_at] += (double)beta * (double)old[gate_at];
        ed[up_at] += (double)beta * (double)old[up_at];
    }
    b->dev.k->swiglu_fwd(&b->dev, h, gu);
    b->dev.k->swiglu_bwd(&b->dev, dgu, beta, NULL, dh, gu);
    float *gh = bed_read(b, h), *gd = bed_read(b, dgu);
    cr_expect(close_enough(t->name, gh, eh, n, close_tolerance(DT_F32, 1)), "h");
    cr_expect(close_enough(t->name, gd, ed, 2 * n, close_tolerance(DT_F32, 1)), "dgu");
    cr_expect(bed_pad_intact(b, h) && bed_pad_intact(b, dgu), "%s: wrote the pad", t->name);
    if (beta == 0) { /* both in place, the same bits */
        b->dev.k->swiglu_bwd(&b->dev, gu, 0, dh, dh, gu);
        float *d_there = bed_read(b, gu), *h_there = bed_read(b, dh);
        cr_expect_eq(memcmp(d_there, gd, (size_t)(2 * n) * sizeof *gd), 0, "%s: dgu", t->name);
        cr_expect_eq(memcmp(h_there, gh, (size_t)n * sizeof *gh), 0, "%s: h", t->name);
        free(d_there), free(h_there);
    }
    free(hgu), free(hdh), free(old), free(eh), free(ed), free(gh), free(gd);
}

Test(kernel_swiglu, equals_formulas)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases; i++) {
        check(&b, &rows_cases[i], 0, 1);
        check(&b, &rows_cases[i], 1, 1);
        check(&b, &rows_cases[i], 1, 60); /* e^-g leaves the range of float */
    }
    bed_close(&b);
}

/* What leaves the range must not look like a number. */
Test(kernel_swiglu, nan_stays)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *gu = bed_matrix(&b, 1, 2, 0), *h = bed_matrix(&b, 1, 1, 0);
    const float cases[][2] = {{NAN, 1}, {1, NAN}, {INFINITY, 1}, {1, INFINITY}};
    for (int i = 0; i < 4; i++) {
        tensor_write(&b.dev, gu, cases[i]);
        b.dev.k->swiglu_fwd(&b.dev, h, gu);
        float *got = bed_read(&b, h);
        cr_expect(!isfinite(got[0]), "case %d", i);
        free(got);
    }
    bed_close(&b);
}
