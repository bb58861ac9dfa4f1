/* The optimizer's step on one flat array, and the scalars that steer it. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "tensor/convert.h"

#include <math.h>

void cpu_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                      float clip)
{
    ASSERT(tensor_numel(step) >= STEP_N && tensor_numel(sum_squares) == 1 &&
               tensor_numel(loss) == 1,
           "step_scalars: %lld scalars", (long long)tensor_numel(step));
    float *s = dense_f32(step), squares = dense_f32(sum_squares)[0];
    float scale = clip > 0 ? clip / (sqrtf(squares) + 1e-6f) : 1.0f;
    s[STEP_GRAD_SCALE] = scale < 1.0f ? scale : 1.0f;
    if (!isfinite(squares) || !isfinite(dense_f32(loss)[0])) s[STEP_SKIP] = 1.0f;
}

/* One range; the pointers are to the arrays' element 0. */
typedef struct Adamw {
    float *w; /* NULL: hi and low */
    uint16_t *hi;
    int16_t *low;
    float *m, *v;
    const Tensor *grad;
    int64_t begin;
    float beta1, beta2, eps, decay, step_size, rsqrt_bias2, grad_scale;
} Adamw;

VECTORISED static void update(const Adamw *a, float *w, float *m, float *v, const float *grad,
                              int64_t n)
{
    const float beta1 = a->beta1, beta2 = a->beta2, eps = a->eps, keep = 1.0f - a->decay;
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * a->grad_scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * g;
        v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
        w[i] = w[i] * keep - a->step_size * m[i] / (sqrtf(v[i]) * a->rsqrt_bias2 + eps);
    }
}

/* A block at a time, so that what is not float becomes one on the stack. */
static void adamw_part(void *args, int64_t first, int64_t end)
{
    const Adamw *a = args;
    enum { BLOCK = 512 };
    float master[BLOCK], grad[BLOCK];
    const char *g = tensor_data(a->grad);
    for (int64_t i = a->begin + first; i < a->begin + end; i += BLOCK) {
        int64_t left = a->begin + end - i, n = left < BLOCK ? left : BLOCK;
        convert_to_f32(grad, g + (size_t)i * dtype_bytes(a->grad->dtype), a->grad->dtype, n);
        float *w = a->w ? a->w + i : master;
        if (!a->w) convert_join(master, a->hi + i, a->low + i, n);
        update(a, w, a->m + i, a->v + i, grad, n);
        if (!a->w) convert_split(a->hi + i, a->low + i, master, n);
    }
}

void cpu_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
               const Tensor *step, const AdamwArgs *args)
{
    Tensor *m = &states->m, *v = &states->v;
    int64_t n = tensor_numel(w), begin = 0;
    ASSERT(tensor_numel(m) == n && tensor_numel(v) == n && tensor_numel(grad) == n &&
               (!low || tensor_numel(low) == n) && tensor_numel(step) >= STEP_N,
           "adamw: sizes differ from %lld of w", (long long)n);
    ASSERT(args->n_ranges > 0 && args->ranges[args->n_ranges - 1].end == n,
           "adamw: %d ranges do not end at %lld", args->n_ranges, (long long)n);
    ASSERT(low ? w->dtype == DT_BF16 && low->dtype == DT_I16 : w->dtype == DT_F32, "adamw: w is %s",
           dtype_name(w->dtype));
    const float *s = dense_f32(step);
    if (s[STEP_SKIP] != 0) return;
    for (int i = 0; i < args->n_ranges; begin = args->ranges[i++].end) {
        const AdamwRange *r = &args->ranges[i];
        double lr = (double)s[STEP_LR] * (double)r->lr_scale;
        Adamw a = {
            .w = low ? NULL : dense_f32(w),
            .hi = low ? tensor_data(w) : NULL,
            .low = low ? tensor_data(low) : NULL,
            .m = dense_f32(m),
            .v = dense_f32(v),
            .grad = grad,
            .begin = begin,
            .beta1 = args->beta1,
            .beta2 = args->beta2,
            .eps = args->eps,
            .decay = (float)(lr * (double)r->weight_decay),
            .step_size = (float)(lr / (double)s[STEP_BIAS1]),
            .rsqrt_bias2 = (float)(1.0 / sqrt((double)s[STEP_BIAS2])),
            .grad_scale = s[STEP_GRAD_SCALE],
        };
        rows_run(d, r->end - begin, 5, adamw_part, &a);
    }
}
