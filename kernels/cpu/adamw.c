/* The optimizer's step on one flat array, and the scalars that steer it. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>
#include <string.h>

void cpu_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                      float clip)
{
    ASSERT(tensor_numel(step) >= STEP_N && tensor_numel(sum_squares) == 1 &&
               tensor_numel(loss) == 1,
           "step_scalars: %lld scalars", (long long)tensor_numel(step));
    float *s = dense_f32(step), squares = dense_f32(sum_squares)[0];
    float scale = clip > 0 ? clip / (sqrtf(squares) + 1e-6f) : 1.0f;
    s[STEP_GRAD_SCALE] = scale < 1.0f ? scale : 1.0f;
    s[STEP_SKIP] = isfinite(squares) && isfinite(dense_f32(loss)[0]) ? 0.0f : 1.0f;
}

typedef struct Adamw {
    float *w, *working, *m, *v;
    const float *grad;
    float beta1, beta2, eps, decay, step_size, rsqrt_bias2, grad_scale;
} Adamw;

VECTORISED static void adamw_part(void *args, int64_t i0, int64_t i1)
{
    const Adamw *a = args;
    float *w = a->w, *m = a->m, *v = a->v;
    const float beta1 = a->beta1, beta2 = a->beta2, eps = a->eps, keep = 1.0f - a->decay;
    for (int64_t i = i0; i < i1; i++) {
        float g = a->grad[i] * a->grad_scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * g;
        v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
        w[i] = w[i] * keep - a->step_size * m[i] / (sqrtf(v[i]) * a->rsqrt_bias2 + eps);
    }
    if (a->working && a->working != w)
        memcpy(a->working + i0, w + i0, (size_t)(i1 - i0) * sizeof(float));
}

void cpu_adamw(Device *d, Tensor *w, Tensor *working, Tensor *m, Tensor *v, const Tensor *grad,
               const Tensor *step, AdamwArgs args)
{
    int64_t n = tensor_numel(w);
    ASSERT(tensor_numel(m) == n && tensor_numel(v) == n && tensor_numel(grad) == n &&
               (!working || tensor_numel(working) == n) && tensor_numel(step) >= STEP_N,
           "adamw: sizes differ from %lld of w", (long long)n);
    const float *s = dense_f32(step);
    if (s[STEP_SKIP] != 0) return;
    double lr = (double)s[STEP_LR] * (double)args.lr_scale;
    Adamw a = {
        .w = dense_f32(w),
        .working = working ? dense_f32(working) : NULL,
        .m = dense_f32(m),
        .v = dense_f32(v),
        .grad = dense_f32(grad),
        .beta1 = args.beta1,
        .beta2 = args.beta2,
        .eps = args.eps,
        .decay = (float)(lr * (double)args.weight_decay),
        .step_size = (float)(lr / (double)s[STEP_BIAS1]),
        .rsqrt_bias2 = (float)(1.0 / sqrt((double)s[STEP_BIAS2])),
        .grad_scale = s[STEP_GRAD_SCALE],
    };
    rows_run(d, n, 5, adamw_part, &a);
}
