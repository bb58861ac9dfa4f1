/* Dropout whose mask is a pure function of (key, sample, position, column): kernels.h, dropout_draw. */
#include "kernels/cpu/cpu.h"

typedef struct Dropout {
    float *y;
    const float *x;
    const int64_t *samples;
    const int32_t *positions;
    int64_t cols, ldy, ldx;
    float p, scale, beta;
    uint64_t key;
} Dropout;

static void dropout_rows(void *args, int64_t row0, int64_t row1)
{
    const Dropout *a = args;
    for (int64_t r = row0; r < row1; r++) {
        const float *x = a->x + r * a->ldx;
        float *y = a->y + r * a->ldy;
        for (int64_t col = 0; col < a->cols; col += 4) {
            /* The four draws that dropout_draw would make one by one. */
            Rng4 draw = philox(a->key, (uint64_t)a->samples[r],
                               (uint64_t)(uint32_t)a->positions[r] << 32 | (uint64_t)(col >> 2));
            for (int64_t i = col; i < col + 4 && i < a->cols; i++) {
                float kept = rng_unit(draw.v[i & 3]) >= a->p ? x[i] * a->scale : 0.0f;
                y[i] = a->beta == 0 ? kept : a->beta * y[i] + kept;
            }
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
