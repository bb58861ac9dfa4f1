/* Dropout whose mask is a pure function of (key, sample, position, column): kernels.h, dropout_draw. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

typedef struct Dropout {
    float *y;
    const float *x;
    const int64_t *samples;
    const int32_t *positions;
    int64_t cols, ldy, ldx;
    float p, scale, beta;
    uint64_t key;
} Dropout;

/* Columns at once: Philox runs on up to GROUPS counters side by side, four columns each. */
enum { GROUPS = 64, COLS = 4 * GROUPS };

/* What each of 4 * n columns from 4 * group0 on is multiplied by: scale where dropout_draw says keep, else 0.  The
 * rounds are those of philox in base/rng.h. */
INLINED void mask_of(float *mask, const Dropout *a, int64_t row, uint32_t group0, int n)
{
    uint32_t c0[GROUPS], c1[GROUPS], c2[GROUPS], c3[GROUPS];
    uint32_t k0 = (uint32_t)a->key, k1 = (uint32_t)(a->key >> 32);
    uint32_t position = (uint32_t)a->positions[row];
    uint64_t sample = (uint64_t)a->samples[row];
    float p = a->p, scale = a->scale;
    for (int g = 0; g < n; g++) {
        c0[g] = group0 + (uint32_t)g;
        c1[g] = position;
        c2[g] = (uint32_t)sample;
        c3[g] = (uint32_t)(sample >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int g = 0; g < n; g++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[g], p1 = (uint64_t)0xCD9E8D57u * c2[g];
            c0[g] = (uint32_t)(p1 >> 32) ^ c1[g] ^ k0;
            c1[g] = (uint32_t)p1;
            c2[g] = (uint32_t)(p0 >> 32) ^ c3[g] ^ k1;
            c3[g] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    for (int g = 0; g < n; g++) {
        mask[4 * g] = rng_unit(c0[g]) >= p ? scale : 0.0f;
        mask[4 * g + 1] = rng_unit(c1[g]) >= p ? scale : 0.0f;
        mask[4 * g + 2] = rng_unit(c2[g]) >= p ? scale : 0.0f;
        mask[4 * g + 3] = rng_unit(c3[g]) >= p ? scale : 0.0f;
    }
}

VECTORISED static void dropout_rows(void *args, int64_t row0, int64_t row1)
{
    const Dropout *a = args;
    float mask[COLS];
    for (int64_t r = row0; r < row1; r++) {
        for (int64_t col = 0; col < a->cols; col += COLS) {
            const float *x = a->x + r * a->ldx + col;
            float *y = a->y + r * a->ldy + col;
            int64_t n = a->cols - col < COLS ? a->cols - col : COLS;
            mask_of(mask, a, r, (uint32_t)(col / 4), (int)(n + 3) / 4);
            if (a->beta == 0)
                for (int64_t i = 0; i < n; i++)
                    y[i] = x[i] * mask[i];
            else
                for (int64_t i = 0; i < n; i++)
                    y[i] = a->beta * y[i] + x[i] * mask[i];
        }
    }
}

static void dropout_run(Device *d, Tensor *y, float beta, const Tensor *x, const DropoutArgs *args)
{
    int64_t n = tensor_rows(x), cols = tensor_cols(x);
    check_matrix(y, n, cols, "dropout: y");
    ASSERT(args->p >= 0 && args->p < 1, "dropout: p %g", (double)args->p);
    ASSERT(tensor_numel(args->samples) == n && tensor_numel(args->positions) == n,
           "dropout: %lld samples, %lld positions for %lld rows",
           (long long)tensor_numel(args->samples), (long long)tensor_numel(args->positions),
           (long long)n);
    Dropout a = {
        .y = data_f32(y),
        .x = data_f32(x),
        .samples = data_i64(args->samples),
        .positions = data_i32(args->positions),
        .cols = cols,
        .ldy = y->ld,
        .ldx = x->ld,
        .p = args->p,
        .scale = 1.0f / (1.0f - args->p),
        .beta = beta,
        .key = args->key,
    };
    rows_run(d, n, 12 * cols, dropout_rows, &a);
}

void cpu_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args)
{
    dropout_run(d, y, 0.0f, x, args);
}

/* The gradient goes where the value went: the same mask, the same scale. */
void cpu_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy, const DropoutArgs *args)
{
    dropout_run(d, dx, beta, dy, args);
}
