/* AdamW in one pass over weights, moments and gradient, eight elements a thread: sixteen bytes of what has two bytes an
 * element. */
#include "kernels/cuda/adamw.cuh"

enum { THREADS = 256 };

__device__ static inline void update(const Factors &f, float *w, float *m, float *v, float grad)
{
    float g = grad * f.grad_scale;
    *m = f.beta1 * *m + f.rest1 * g;
    *v = f.beta2 * *v + f.rest2 * g * g;
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
    Factors f = factors_of(a, r, step);
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

static void check(const Tensor *w, const Tensor *low, const AdamwStates *s, const Tensor *grad,
                  const AdamwArgs *args)
{
    int64_t n = tensor_numel(w),
            unit = s->m.dtype == DT_F32 ? (int64_t)EACH : (int64_t)STATES_BLOCK;
    ASSERT(args->n_ranges > 0 && args->ranges[args->n_ranges - 1].end == n,
           "adamw: %d ranges do not end at %lld", args->n_ranges, (long long)n);
    ASSERT(tensor_numel(&s->m) == n && tensor_numel(&s->v) == n && tensor_numel(grad) == n &&
               s->m.dtype == s->v.dtype,
           "adamw: sizes differ from %lld of w", (long long)n);
    ASSERT(low ? w->dtype == DT_BF16 && low->dtype == DT_I16 : w->dtype == DT_F32, "adamw: w is %s",
           dtype_name(w->dtype));
    const Tensor *arrays[] = {w, &s->m, &s->v, grad};
    for (int i = 0; i < 4; i++)
        check_aligned(arrays[i]);
    if (low) check_aligned(low);
    for (int i = 0; i + 1 < args->n_ranges; i++)
        ASSERT(args->ranges[i].end % unit == 0, "adamw: a range ends at %lld",
               (long long)args->ranges[i].end);
}

void cuda_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                const Tensor *step, const AdamwArgs *args)
{
    int64_t n = tensor_numel(w);
    if (n == 0) return;
    check(w, low, states, grad, args);
    if (states->m.dtype != DT_F32) {
        cuda_adamw8(d, w, low, states, grad, step, args);
        return;
    }
    unsigned grid = (unsigned)ceil_div(n, THREADS * EACH);
    DISPATCH(w, W, {
        DISPATCH(grad, G, {
            adamw_kernel<W, G><<<grid, THREADS, 0, cuda_stream(d)>>>(
                (W *)tensor_data(w), low ? (int16_t *)tensor_data(low) : NULL,
                (float *)tensor_data(&states->m), (float *)tensor_data(&states->v),
                (const G *)tensor_data(grad), (const float *)tensor_data(step), n, *args);
        });
    });
    LAUNCHED();
}
