/* AdamW in one pass over weights, moments and gradient, eight elements a thread: sixteen bytes of what has two bytes an
 * element. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/split.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

/* The master copy: an f32 array, or a bf16 one with what it lacks. */
__device__ static inline Eight master_load(const float *w, const int16_t *)
{
    return eight_load(w);
}

__device__ static inline Eight master_load(const bf16 *w, const int16_t *low)
{
    Vec<bf16> hi = vec_load(w);
    Vec<int16_t> lo = vec_load(low);
    Eight x;
    for (int j = 0; j < EACH; j++)
        x.v[j] = split_join(hi.v[j], lo.v[j]);
    return x;
}

__device__ static inline void master_store(float *w, int16_t *, const Eight &x)
{
    eight_store(w, x);
}

__device__ static inline void master_store(bf16 *w, int16_t *low, const Eight &x)
{
    Vec<bf16> hi;
    Vec<int16_t> lo;
    for (int j = 0; j < EACH; j++)
        hi.v[j] = split_of(x.v[j], &lo.v[j]);
    vec_store(w, hi);
    vec_store(low, lo);
}

__device__ static inline float master_load_one(const float *w, const int16_t *)
{
    return *w;
}
__device__ static inline float master_load_one(const bf16 *w, const int16_t *low)
{
    return split_join(*w, *low);
}
__device__ static inline void master_store_one(float *w, int16_t *, float x)
{
    *w = x;
}
__device__ static inline void master_store_one(bf16 *w, int16_t *low, float x)
{
    *w = split_of(x, low);
}

/* What a range and the step make of the constants. */
struct Factors {
    float beta1, beta2, eps, keep, step_size, rsqrt_bias2, grad_scale;
};

__device__ static inline void update(const Factors &f, float *w, float *m, float *v, float grad)
{
    float g = grad * f.grad_scale;
    *m = f.beta1 * *m + (1.0f - f.beta1) * g;
    *v = f.beta2 * *v + (1.0f - f.beta2) * g * g;
    *w = *w * f.keep - f.step_size * *m / (sqrtf(*v) * f.rsqrt_bias2 + f.eps);
}

template <typename W, typename G>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(W *w, int16_t *low, float *m, float *v, const G *grad, const float *step,
                 int64_t n, const __grid_constant__ AdamwArgs a)
{
    if (step[STEP_SKIP] != 0) return;
    int64_t i = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    if (i >= n) return;
    int r = 0;
    while (i >= a.ranges[r].end)
        r++;
    float lr = step[STEP_LR] * a.ranges[r].lr_scale;
    Factors f = {a.beta1,
                 a.beta2,
                 a.eps,
                 1.0f - lr * a.ranges[r].weight_decay,
                 lr / step[STEP_BIAS1],
                 rsqrtf(step[STEP_BIAS2]),
                 step[STEP_GRAD_SCALE]};
    if (i + EACH <= n) {
        Eight x = master_load(w + i, low + i), mean = eight_load(m + i), sq = eight_load(v + i),
              g = eight_load(grad + i);
        for (int j = 0; j < EACH; j++)
            update(f, &x.v[j], &mean.v[j], &sq.v[j], g.v[j]);
        master_store(w + i, low + i, x);
        eight_store(m + i, mean);
        eight_store(v + i, sq);
        return;
    }
    for (; i < n; i++) {
        float x = master_load_one(w + i, low + i), mean = m[i], sq = v[i];
        update(f, &x, &mean, &sq, to_f32(grad[i]));
        master_store_one(w + i, low + i, x);
        m[i] = mean;
        v[i] = sq;
    }
}

static void check_aligned(const Tensor *t)
{
    ASSERT((uintptr_t)tensor_data(t) % 16 == 0, "adamw: an array does not begin at 16 bytes");
}

void cuda_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                const Tensor *step, const AdamwArgs *args)
{
    Tensor *m = &states->m, *v = &states->v;
    int64_t n = tensor_numel(w);
    if (n == 0) return;
    ASSERT(args->n_ranges > 0 && args->ranges[args->n_ranges - 1].end == n,
           "adamw: %d ranges do not end at %lld", args->n_ranges, (long long)n);
    ASSERT(low ? w->dtype == DT_BF16 && low->dtype == DT_I16 : w->dtype == DT_F32, "adamw: w is %s",
           dtype_name(w->dtype));
    const Tensor *arrays[] = {w, m, v, grad};
    for (int i = 0; i < 4; i++)
        check_aligned(arrays[i]);
    if (low) check_aligned(low);
    for (int i = 0; i + 1 < args->n_ranges; i++)
        ASSERT(args->ranges[i].end % EACH == 0, "adamw: a range ends at %lld",
               (long long)args->ranges[i].end);
    unsigned grid = (unsigned)ceil_div(n, THREADS * EACH);
    DISPATCH(w, W, {
        DISPATCH(grad, G, {
            adamw_kernel<W, G><<<grid, THREADS, 0, cuda_stream(d)>>>(
                (W *)tensor_data(w), low ? (int16_t *)tensor_data(low) : NULL,
                (float *)tensor_data(m), (float *)tensor_data(v), (const G *)tensor_data(grad),
                (const float *)tensor_data(step), n, *args);
        });
    });
    LAUNCHED();
}
