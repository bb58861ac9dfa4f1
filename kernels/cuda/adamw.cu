/* AdamW in one pass over master copy, moments, gradient and working copy, four elements a thread. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

struct Quad {
    float v[4];
};

__device__ static inline Quad quad_load(const float *p)
{
    float4 a = *reinterpret_cast<const float4 *>(p);
    return {{a.x, a.y, a.z, a.w}};
}
__device__ static inline Quad quad_load(const bf16 *p)
{
    struct alignas(8) B4 {
        bf16 v[4];
    } a = *reinterpret_cast<const B4 *>(p);
    return {{to_f32(a.v[0]), to_f32(a.v[1]), to_f32(a.v[2]), to_f32(a.v[3])}};
}
__device__ static inline void quad_store(float *p, const Quad &q)
{
    *reinterpret_cast<float4 *>(p) = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
}
__device__ static inline void quad_store(bf16 *p, const Quad &q)
{
    struct alignas(8) B4 {
        bf16 v[4];
    } a;
    for (int j = 0; j < 4; j++)
        a.v[j] = from_f32<bf16>(q.v[j]);
    *reinterpret_cast<B4 *>(p) = a;
}

__device__ static inline void update(float *w, float *m, float *v, float g, float lr, float b1,
                                     float b2, const AdamwArgs &a)
{
    *w -= lr * a.weight_decay * *w;
    *m = a.beta1 * *m + (1.0f - a.beta1) * g;
    *v = a.beta2 * *v + (1.0f - a.beta2) * g * g;
    *w -= lr * (*m / b1) / (sqrtf(*v / b2) + a.eps);
}

template <typename W, typename G>
__global__ void adamw_kernel(float *w, W *working, float *m, float *v, const G *grad,
                             const float *step, int64_t n, bool quads, AdamwArgs a)
{
    if (step[STEP_SKIP] != 0) return;
    float lr = step[STEP_LR] * a.lr_scale, b1 = step[STEP_BIAS1], b2 = step[STEP_BIAS2];
    float scale = step[STEP_GRAD_SCALE];
    int64_t n_quads = quads ? n / 4 : 0;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n_quads;
         i += (int64_t)gridDim.x * THREADS) {
        Quad wq = quad_load(w + 4 * i), mq = quad_load(m + 4 * i), vq = quad_load(v + 4 * i),
             gq = quad_load(grad + 4 * i);
        for (int j = 0; j < 4; j++)
            update(&wq.v[j], &mq.v[j], &vq.v[j], gq.v[j] * scale, lr, b1, b2, a);
        quad_store(w + 4 * i, wq);
        quad_store(m + 4 * i, mq);
        quad_store(v + 4 * i, vq);
        if (working) quad_store(working + 4 * i, wq);
    }
    for (int64_t i = 4 * n_quads + blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS) {
        float wi = w[i], mi = m[i], vi = v[i];
        update(&wi, &mi, &vi, to_f32(grad[i]) * scale, lr, b1, b2, a);
        w[i] = wi, m[i] = mi, v[i] = vi;
        if (working) working[i] = from_f32<W>(wi);
    }
}

static bool aligned(const Tensor *t)
{
    return !t || (uintptr_t)tensor_data(t) % 16 == 0;
}

void cuda_adamw(Device *d, Tensor *w, Tensor *working, Tensor *m, Tensor *v, const Tensor *grad,
                const Tensor *step, AdamwArgs args)
{
    int64_t n = tensor_numel(w);
    if (n == 0) return;
    bool quads = aligned(w) && aligned(working) && aligned(m) && aligned(v) && aligned(grad);
    int64_t most = 16 * (int64_t)cuda_impl(d)->n_sms, need = ceil_div(n, THREADS * 4);
    unsigned grid = (unsigned)(need < most ? need : most);
    const Tensor *kind = working ? working : w;
    DISPATCH(kind, W, {
        DISPATCH(grad, G, {
            adamw_kernel<W, G><<<grid, THREADS, 0, cuda_stream(d)>>>(
                (float *)tensor_data(w), working ? (W *)tensor_data(working) : NULL,
                (float *)tensor_data(m), (float *)tensor_data(v), (const G *)tensor_data(grad),
                (const float *)tensor_data(step), n, quads, args);
        });
    });
    LAUNCHED();
}
