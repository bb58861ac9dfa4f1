/* DoRA's norms against W + s B A written out, and its scaling of columns against the formulas, in double. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- norms -------------------------------------------------------------------------------------- */

typedef struct NormsCase {
    const char *name;
    int64_t rows, cols, rank, pad;
    float scale;
} NormsCase;

static const NormsCase norms_cases[] = {
    {"one", 1, 1, 1, 0, 2},
    {"rank 1", 7, 5, 1, 0, 0.5f},
    {"rank 3, pitch", 13, 21, 3, 3, 1},
    {"whole vectors", 40, 64, 8, 0, 2},
    {"rank 16, pitch", 67, 256, 16, 24, 2},
    {"more than a warp", 33, 40, 40, 0, -1},
    {"more than two", 9, 128, 72, 8, 0.25f},
};

static double norm_of_row(const NormsCase *t, const float *w, const float *a, const float *b,
                          int64_t row, double scale)
{
    double sum = 0;
    for (int64_t i = 0; i < t->cols; i++) {
        double v = (double)w[row * t->cols + i];
        for (int64_t k = 0; k < t->rank; k++)
            v += scale * (double)b[row * t->rank + k] * (double)a[k * t->cols + i];
        sum += v * v;
    }
    return sqrt(sum);
}

static void check_norms(Bed *b, const NormsCase *t)
{
    const Kernels *k = b->dev.k;
    Tensor *w = bed_fill(b, bed_matrix(b, t->rows, t->cols, t->pad), 1, 1, 0);
    Tensor *la = bed_fill(b, bed_matrix(b, t->rank, t->cols, 0), 2, 0.4, 0);
    Tensor *lb = bed_fill(b, bed_matrix(b, t->rows, t->rank, t->pad), 3, 0.4, 0);
    Tensor *base = bed_vector(b, t->rows), *norm = bed_vector(b, t->rows);
    Tensor *wa = bed_matrix(b, t->rows, t->rank, 0), *aa = bed_matrix(b, t->rank, t->rank, 0);
    float *hw = bed_read(b, w), *ha = bed_read(b, la), *hb = bed_read(b, lb);
    double *of_w = xcalloc((size_t)t->rows, sizeof *of_w),
           *of_v = xcalloc((size_t)t->rows, sizeof *of_v);
    for (int64_t r = 0; r < t->rows; r++) {
        of_w[r] = norm_of_row(t, hw, ha, hb, r, 0);
        of_v[r] = norm_of_row(t, hw, ha, hb, r, (double)t->scale);
    }
    k->row_norms(&b->dev, base, w);
    k->matmul(&b->dev, wa, w, la, (MatmulArgs){.trans_b = true, .alpha = 1});
    k->matmul(&b->dev, aa, la, la, (MatmulArgs){.trans_b = true, .alpha = 1});
    k->adapted_norms(&b->dev, norm, base, wa, aa, lb, t->scale);
    float *got_w = bed_read(b, base), *got_v = bed_read(b, norm);
    double tolerance = close_tolerance(DT_F32, t->cols);
    cr_expect(close_enough(t->name, got_w, of_w, t->rows, tolerance), "%s: W", t->name);
    cr_expect(close_enough(t->name, got_v, of_v, t->rows, tolerance), "%s: W + s B A", t->name);
    free(hw), free(ha), free(hb), free(of_w), free(of_v), free(got_w), free(got_v);
}

Test(kernel_dora, norms_of_rows)
{
    Bed b;
    bed_open(&b, 2);
    for (size_t i = 0; i < sizeof norms_cases / sizeof norms_cases[0]; i++)
        check_norms(&b, &norms_cases[i]);
    bed_close(&b);
}

/* Where the adapter takes the base away, rounding must not make a square negative; a NaN must not become a number. */
Test(kernel_dora, norms_at_the_edge)
{
    Bed b;
    bed_open(&b, 1);
    const float w_a[] = {3}, a_a[] = {9}, bs[] = {-1}, bases[] = {2.9999f, NAN};
    Tensor *wa = bed_matrix(&b, 1, 1, 0), *aa = bed_matrix(&b, 1, 1, 0),
           *lb = bed_matrix(&b, 1, 1, 0);
    Tensor *base = bed_vector(&b, 1), *norm = bed_vector(&b, 1);
    tensor_write_f32(&b.dev, aa, a_a);
    tensor_write_f32(&b.dev, lb, bs);
    for (int i = 0; i < 2; i++) {
        tensor_write_f32(&b.dev, wa, (float[]){i == 0 ? 9 : w_a[0]});
        tensor_write_f32(&b.dev, base, &bases[i]);
        b.dev.k->adapted_norms(&b.dev, norm, base, wa, aa, lb, 1);
        float *got = bed_read(&b, norm);
        cr_expect(i == 0 ? got[0] == 0 : isnan(got[0]) != 0, "%d: %g", i, (double)got[0]);
        free(got);
    }
    bed_close(&b);
}

/* ---- columns ------------------------------------------------------------------------------------ */

static void check_columns(Bed *b, const RowsCase *t, bool more)
{
    const Kernels *k = b->dev.k;
    int64_t R = t->rows, C = t->cols, n = R * C;
    float beta = more ? 1 : 0;
    Tensor *z = bed_fill(b, bed_matrix(b, R, C, t->pad), 1, 1, 0);
    Tensor *dy = bed_fill(b, bed_matrix(b, R, C, t->pad), 2, 1, 0.2);
    Tensor *add = bed_fill(b, bed_matrix(b, R, C, 0), 3, 1, 0);
    Tensor *m = bed_fill(b, bed_vector(b, C), 4, 0.2, 1);
    Tensor *norm = bed_fill(b, bed_vector(b, C), 5, 0.1, 1.5);
    Tensor *y = bed_matrix(b, R, C, t->pad), *dz = bed_matrix(b, R, C, t->pad),
           *dm = bed_vector(b, C), *dm_alone = bed_vector(b, C), *dz_alone = bed_matrix(b, R, C, 0);
    if (more) bed_fill(b, dz, 6, 1, 0), bed_fill(b, dm, 7, 1, 0);
    float *hz = bed_read(b, z), *hdy = bed_read(b, dy), *ha = bed_read(b, add),
          *hm = bed_read(b, m), *hn = bed_read(b, norm), *old_dz = bed_read(b, dz),
          *old_dm = bed_read(b, dm);
    double *ey = xcalloc((size_t)n + 1, sizeof *ey), *edz = xcalloc((size_t)n + 1, sizeof *edz),
           *edm = xcalloc((size_t)C, sizeof *edm);
    for (int64_t j = 0; more && j < C; j++)
        edm[j] = (double)old_dm[j];
    for (int64_t i = 0; i < n; i++) {
        int64_t j = i % C;
        double f = (double)hm[j] / (double)hn[j];
        ey[i] = (double)hz[i] * f + (more ? (double)ha[i] : 0);
        edz[i] = (double)hdy[i] * f + (more ? (double)old_dz[i] : 0);
        edm[j] += (double)hdy[i] * (double)hz[i] / (double)hn[j];
    }
    tensor_write_f32(&b->dev, dm_alone, old_dm);
    tensor_write_f32(&b->dev, dz_alone, old_dz);
    k->dora_fwd(&b->dev, y, more ? add : NULL, z, m, norm);
    k->dora_bwd(&b->dev, dz, beta, dm, beta, dy, z, m, norm);
    k->dora_bwd(&b->dev, NULL, 0, dm_alone, beta, dy, z, m, norm);
    k->dora_bwd(&b->dev, dz_alone, beta, NULL, 0, dy, z, m, norm);
    float *gy = bed_read(b, y), *gdz = bed_read(b, dz), *gdm = bed_read(b, dm),
          *gdz_alone = bed_read(b, dz_alone), *gdm_alone = bed_read(b, dm_alone);
    double tolerance = close_tolerance(DT_F32, 1);
    cr_expect(close_enough(t->name, gy, ey, n, tolerance), "%s: y", t->name);
    cr_expect(close_enough(t->name, gdz, edz, n, tolerance), "%s: dz", t->name);
    cr_expect(close_enough(t->name, gdm, edm, C, close_tolerance(DT_F32, R)), "%s: dm", t->name);
    cr_expect_eq(memcmp(gdz_alone, gdz, (size_t)n * sizeof *gdz), 0, "%s: dz alone", t->name);
    cr_expect_eq(memcmp(gdm_alone, gdm, (size_t)C * sizeof *gdm), 0, "%s: dm alone", t->name);
    cr_expect(bed_pad_intact(b, y) && bed_pad_intact(b, dz), "%s: wrote the pad", t->name);
    free(hz), free(hdy), free(ha), free(hm), free(hn), free(old_dz), free(old_dm);
    free(ey), free(edz), free(edm), free(gy), free(gdz), free(gdm), free(gdz_alone),
        free(gdm_alone);
}

Test(kernel_dora, scaling_equals_formulas)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases; i++) {
        check_columns(&b, &rows_cases[i], false);
        check_columns(&b, &rows_cases[i], true);
    }
    bed_close(&b);
}
