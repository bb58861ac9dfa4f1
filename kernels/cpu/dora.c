/* DoRA's row norms and its scaling of columns; sums in double. */
#include "kernels/cpu/cpu.h"

#include <math.h>

typedef struct Norms {
    float *norm;
    const float *w;
    int64_t cols, ld;
} Norms;

static void norm_rows(void *args, int64_t row0, int64_t row1)
{
    const Norms *a = args;
    for (int64_t r = row0; r < row1; r++) {
        double sum = 0;
        for (int64_t i = 0; i < a->cols; i++)
            sum += (double)a->w[r * a->ld + i] * (double)a->w[r * a->ld + i];
        a->norm[r] = (float)sqrt(sum);
    }
}

void cpu_row_norms(Device *d, Tensor *norm, const Tensor *w)
{
    ASSERT(tensor_numel(norm) == tensor_rows(w), "row_norms: shapes differ");
    Norms a = {dense_f32(norm), data_f32(w), tensor_cols(w), w->ld};
    rows_run(d, tensor_rows(w), a.cols, norm_rows, &a);
}

typedef struct Adapted {
    float *norm;
    const float *base, *wa, *aa, *b;
    int64_t rank, ldb;
    double s;
} Adapted;

static void adapted_rows(void *args, int64_t row0, int64_t row1)
{
    const Adapted *x = args;
    int64_t n = x->rank;
    for (int64_t r = row0; r < row1; r++) {
        const float *b = &x->b[r * x->ldb], *wa = &x->wa[r * n];
        double sum = 0, base = (double)x->base[r];
        for (int64_t j = 0; j < n; j++) {
            double b_aa = 0;
            for (int64_t k = 0; k < n; k++)
                b_aa += (double)b[k] * (double)x->aa[k * n + j];
            sum += (double)b[j] * (2 * (double)wa[j] + x->s * b_aa);
        }
        double square = base * base + x->s * sum;
        x->norm[r] = (float)sqrt(square < 0 ? 0 : square); /* NaN stays */
    }
}

void cpu_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                       const Tensor *aa, const Tensor *b, float s)
{
    int64_t rows = tensor_rows(b), rank = tensor_cols(b);
    ASSERT(tensor_numel(norm) == rows && tensor_numel(base) == rows, "adapted_norms: %lld rows",
           (long long)rows);
    check_matrix(wa, rows, rank, "wa");
    check_matrix(aa, rank, rank, "aa");
    Adapted a = {dense_f32(norm), dense_f32(base), dense_f32(wa), dense_f32(aa), data_f32(b), rank,
                 b->ld,           (double)s};
    rows_run(d, rows, rank * (rank + 2), adapted_rows, &a);
}

typedef struct Scale {
    float *y, *dm;
    const float *add, *x, *z, *m, *norm; /* add may be NULL, or y */
    int64_t rows, cols, ldy, ld_add, ldx, ldz;
    float dm_beta;
} Scale;

/* y = add + x m / norm */
static void scale_rows(void *args, int64_t row0, int64_t row1)
{
    const Scale *a = args;
    for (int64_t r = row0; r < row1; r++)
        for (int64_t i = 0; i < a->cols; i++) {
            float v = a->x[r * a->ldx + i] * (a->m[i] / a->norm[i]);
            a->y[r * a->ldy + i] = a->add ? a->add[r * a->ld_add + i] + v : v;
        }
}

void cpu_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                  const Tensor *norm)
{
    check_matrix(y, tensor_rows(z), tensor_numel(m), "y");
    if (add) check_matrix(add, tensor_rows(z), tensor_numel(m), "add");
    Scale a = {.y = data_f32(y),
               .add = add ? data_f32(add) : NULL,
               .ld_add = add ? add->ld : 0,
               .x = data_f32(z),
               .m = dense_f32(m),
               .norm = dense_f32(norm),
               .cols = tensor_cols(z),
               .ldy = y->ld,
               .ldx = z->ld};
    rows_run(d, tensor_rows(z), a.cols, scale_rows, &a);
}

enum { COLS_PER_PART = 32 };

static void magnitude_part(void *ud, int64_t part)
{
    const Scale *a = ud;
    int64_t col0 = part * COLS_PER_PART;
    int64_t n = a->cols - col0 < COLS_PER_PART ? a->cols - col0 : COLS_PER_PART;
    double sum[COLS_PER_PART] = {0};
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < n; i++)
            sum[i] += (double)a->x[r * a->ldx + col0 + i] * (double)a->z[r * a->ldz + col0 + i];
    for (int64_t i = 0; i < n; i++) {
        float *dm = &a->dm[col0 + i], v = (float)(sum[i] / (double)a->norm[col0 + i]);
        *dm = a->dm_beta != 0 ? a->dm_beta * *dm + v : v;
    }
}

void cpu_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                  const Tensor *z, const Tensor *m, const Tensor *norm)
{
    Scale a = {.x = data_f32(dy),
               .z = data_f32(z),
               .m = dense_f32(m),
               .norm = dense_f32(norm),
               .rows = tensor_rows(z),
               .cols = tensor_cols(z),
               .ldx = dy->ld,
               .ldz = z->ld,
               .dm_beta = dm_beta};
    if (dm) {
        a.dm = dense_f32(dm);
        pool_run(d->pool, (a.cols + COLS_PER_PART - 1) / COLS_PER_PART, magnitude_part, &a);
    }
    if (!dz) return;
    a.y = data_f32(dz);
    a.ldy = a.ld_add = dz->ld;
    a.add = beta != 0 ? a.y : NULL;
    rows_run(d, a.rows, a.cols, scale_rows, &a);
}
