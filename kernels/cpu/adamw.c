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
    const AdamwStates *states;
    const Tensor *grad;
    const float *map_m, *map_v; /* of states in 8 bits; map_m from its 0 on */
    int64_t begin, end;
    float beta1, beta2, rest1, rest2, eps, decay, step_size, rsqrt_bias2, grad_scale;
} Adamw;

VECTORISED static void update(const Adamw *a, float *w, float *m, float *v, const float *grad,
                              int64_t n)
{
    const float beta1 = a->beta1, beta2 = a->beta2, eps = a->eps, keep = 1.0f - a->decay;
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * a->grad_scale;
        m[i] = beta1 * m[i] + a->rest1 * g;
        v[i] = beta2 * v[i] + a->rest2 * g * g;
        w[i] = w[i] * keep - a->step_size * m[i] / (sqrtf(v[i]) * a->rsqrt_bias2 + eps);
    }
}

enum { AT_ONCE = 512 };

/* Elements [i, i + n), n <= AT_ONCE: what is not float becomes one on the stack. */
static void update_at(const Adamw *a, float *m, float *v, int64_t i, int64_t n)
{
    float master[AT_ONCE], grad[AT_ONCE];
    const char *g = tensor_data(a->grad);
    convert_to_f32(grad, g + (size_t)i * dtype_bytes(a->grad->dtype), a->grad->dtype, n);
    float *w = a->w ? a->w + i : master;
    if (!a->w) convert_join(master, a->hi + i, a->low + i, n);
    update(a, w, m, v, grad, n);
    if (!a->w) convert_split(a->hi + i, a->low + i, master, n);
}

static void adamw_part(void *args, int64_t first, int64_t end)
{
    const Adamw *a = args;
    float *m = dense_f32(&a->states->m), *v = dense_f32(&a->states->v);
    for (int64_t i = a->begin + first; i < a->begin + end; i += AT_ONCE) {
        int64_t left = a->begin + end - i;
        update_at(a, m + i, v + i, i, left < AT_ONCE ? left : AT_ONCE);
    }
}

/* ---- states in 8 bits ------------------------------------------------------------------------- */

enum { CODE_OF_ZERO = 127, LARGEST_BELOW_0 = 127 };

static float reciprocal(float absmax)
{
    return 1.0f / (absmax > 1e-38f ? absmax : 1e-38f);
}

static float largest(const float *x, int64_t n)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* The map is the same on both sides of 0, but for the 1 at its upper end. */
static uint8_t code_of_m(const Adamw *a, float m, float inverse)
{
    int k = quant_nearest(a->map_m, 256 - CODE_OF_ZERO, fabsf(m) * inverse);
    if (m >= 0) return (uint8_t)(CODE_OF_ZERO + k);
    k = k < 1 ? 1 : k > LARGEST_BELOW_0 ? LARGEST_BELOW_0 : k;
    return (uint8_t)(CODE_OF_ZERO - k);
}

static float m_of_code(const Adamw *a, uint8_t code, float absmax)
{
    int k = (int)code - CODE_OF_ZERO;
    return k < 0 ? -a->map_m[-k] * absmax : a->map_m[k] * absmax;
}

/* Blocks [first, last) of the range. */
static void adamw8_part(void *args, int64_t first, int64_t last)
{
    const Adamw *a = args;
    const AdamwStates *s = a->states;
    float *m_max = dense_f32(&s->m_max), *v_max = dense_f32(&s->v_max);
    for (int64_t b = a->begin / STATES_BLOCK + first; b < a->begin / STATES_BLOCK + last; b++) {
        float m[STATES_BLOCK], v[STATES_BLOCK];
        int64_t at = b * STATES_BLOCK, n = a->end - at < STATES_BLOCK ? a->end - at : STATES_BLOCK;
        uint8_t *codes_m = (uint8_t *)tensor_data(&s->m) + at;
        uint8_t *codes_v = (uint8_t *)tensor_data(&s->v) + at;
        for (int64_t i = 0; i < n; i++) {
            m[i] = m_of_code(a, codes_m[i], m_max[b]);
            v[i] = a->map_v[codes_v[i]] * v_max[b];
        }
        update_at(a, m, v, at, n);
        m_max[b] = largest(m, n);
        v_max[b] = largest(v, n);
        float inverse_m = reciprocal(m_max[b]), inverse_v = reciprocal(v_max[b]);
        for (int64_t i = 0; i < n; i++) {
            codes_m[i] = code_of_m(a, m[i], inverse_m);
            codes_v[i] = (uint8_t)quant_nearest(a->map_v, 256, v[i] * inverse_v);
        }
    }
}

/* ---- all ranges ------------------------------------------------------------------------------- */

static void check(const Tensor *w, const Tensor *low, const AdamwStates *s, const Tensor *grad,
                  const Tensor *step, const AdamwArgs *args)
{
    int64_t n = tensor_numel(w), n_blocks = (n + STATES_BLOCK - 1) / STATES_BLOCK;
    ASSERT(tensor_numel(&s->m) == n && tensor_numel(&s->v) == n && tensor_numel(grad) == n &&
               (!low || tensor_numel(low) == n) && tensor_numel(step) >= STEP_N,
           "adamw: sizes differ from %lld of w", (long long)n);
    ASSERT(args->n_ranges > 0 && args->ranges[args->n_ranges - 1].end == n,
           "adamw: %d ranges do not end at %lld", args->n_ranges, (long long)n);
    ASSERT(low ? w->dtype == DT_BF16 && low->dtype == DT_I16 : w->dtype == DT_F32, "adamw: w is %s",
           dtype_name(w->dtype));
    ASSERT(s->m.dtype == s->v.dtype, "adamw: m and v differ");
    ASSERT(s->m.dtype == DT_F32 ||
               (tensor_numel(&s->m_max) == n_blocks && tensor_numel(&s->v_max) == n_blocks),
           "adamw: there are %lld blocks", (long long)n_blocks);
}

void cpu_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
               const Tensor *step, const AdamwArgs *args)
{
    check(w, low, states, grad, step, args);
    const float *s = dense_f32(step);
    if (s[STEP_SKIP] != 0) return;
    bool in8 = states->m.dtype == DT_U8;
    float map_m[256], map_v[256];
    if (in8) quant_dynamic_map(map_m, true);
    if (in8) quant_dynamic_map(map_v, false);
    int64_t begin = 0;
    for (int i = 0; i < args->n_ranges; begin = args->ranges[i++].end) {
        const AdamwRange *r = &args->ranges[i];
        double lr = (double)s[STEP_LR] * (double)r->lr_scale;
        Adamw a = {
            .w = low ? NULL : dense_f32(w),
            .hi = low ? tensor_data(w) : NULL,
            .low = low ? tensor_data(low) : NULL,
            .states = states,
            .grad = grad,
            .map_m = map_m + CODE_OF_ZERO,
            .map_v = map_v,
            .begin = begin,
            .end = r->end,
            .beta1 = (float)args->beta1,
            .beta2 = (float)args->beta2,
            .rest1 = in8 ? 1.0f - (float)args->beta1 : (float)(1.0 - args->beta1),
            .rest2 = in8 ? 1.0f - (float)args->beta2 : (float)(1.0 - args->beta2),
            .eps = args->eps,
            .decay = (float)(lr * (double)r->weight_decay),
            .step_size = (float)(lr / (double)s[STEP_BIAS1]),
            .rsqrt_bias2 = (float)(1.0 / sqrt((double)s[STEP_BIAS2])),
            .grad_scale = s[STEP_GRAD_SCALE],
        };
        int64_t n = r->end - begin;
        ASSERT(!in8 || begin % STATES_BLOCK == 0, "adamw: a range begins at %lld",
               (long long)begin);
        if (in8)
            rows_run(d, (n + STATES_BLOCK - 1) / STATES_BLOCK, 40 * STATES_BLOCK, adamw8_part, &a);
        else
            rows_run(d, n, 5, adamw_part, &a);
    }
}
