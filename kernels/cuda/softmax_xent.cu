/* Cross-entropy over a row of logits: one pass for maximum and sum together, one that writes the gradient
 * over the logits.  The target's logit is read before anything is overwritten.
 *
 * A thread has many vectors in flight, and registers enough that a multiprocessor holds one block: then the rows at work
 * (132 of 256 KiB at a vocabulary of 128,256) stay in the L2 cache for the second pass, which begins where the first
 * ended. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 1024, BATCH = 8 };

/* A row's maximum and the sum of exponentials below it, as they come in (Milakov & Gimelshein 2018). */
struct Online {
    float most, sum;
};

template <int N> __device__ static inline void online_add(Online *o, const float (&v)[N])
{
    float m = o->most, s = 0;
    for (int j = 0; j < N; j++)
        m = fmaxf(m, v[j]);
    for (int j = 0; j < N; j++)
        s += v[j] == -INFINITY ? 0.0f : __expf(v[j] - m);
    o->sum = (o->sum == 0 ? 0.0f : o->sum * __expf(o->most - m)) + s; /* a NaN stays */
    o->most = m;
}

/* The block's, in every thread. */
__device__ static inline Online online_all(Online o)
{
    Online all = {block_max(o.most), 0};
    all.sum = block_sum(o.sum == 0 ? 0.0f : o.sum * __expf(o.most - all.most));
    return all;
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    softmax_xent_kernel(float *loss, T *logits, const int32_t *targets, float grad_scale, int cols,
                        int64_t ld)
{
    enum { N = Vec<T>::N };
    T *row = logits + blockIdx.x * ld;
    int target = targets[blockIdx.x], n_vecs = cols / N, step = BATCH * THREADS;
    int n_steps = (n_vecs + step - 1) / step;
    float target_logit = to_f32(row[target]);
    Online o = {-INFINITY, 0};
    for (int at = 0; at < n_steps; at++) {
        Bits bits[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int i = at * step + k * THREADS + threadIdx.x;
            if (i < n_vecs) bits[k] = bits_load(row + i * N);
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[N];
            bits_to_f32(v, bits[k]);
            if (at * step + k * THREADS + (int)threadIdx.x < n_vecs) online_add(&o, v);
        }
    }
    Online all = online_all(o);
    if (threadIdx.x == 0) loss[blockIdx.x] = logf(all.sum) + all.most - target_logit;
    if (grad_scale == 0) return;
    float inv = 1.0f / all.sum;
    __syncthreads();
    for (int at = n_steps - 1; at >= 0; at--) {
        Bits bits[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int i = at * step + k * THREADS + threadIdx.x;
            if (i < n_vecs) bits[k] = bits_load(row + i * N);
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int i = at * step + k * THREADS + threadIdx.x;
            float v[N];
            bits_to_f32(v, bits[k]);
            for (int j = 0; j < N; j++) {
                float p = __expf(v[j] - all.most) * inv;
                v[j] = (p - (i * N + j == target ? 1.0f : 0.0f)) * grad_scale;
            }
            if (i < n_vecs) bits_store(row + i * N, bits_from_f32(v));
        }
    }
}

/* The same for widths and addresses that vectors do not fit. */
template <typename T>
__global__ void softmax_xent_plain_kernel(float *loss, T *logits, const int32_t *targets,
                                          float grad_scale, int cols, int64_t ld)
{
    T *row = logits + blockIdx.x * ld;
    int target = targets[blockIdx.x];
    float target_logit = to_f32(row[target]);
    Online o = {-INFINITY, 0};
    for (int i = threadIdx.x; i < cols; i += THREADS) {
        float v[1] = {to_f32(row[i])};
        online_add(&o, v);
    }
    Online all = online_all(o);
    if (threadIdx.x == 0) loss[blockIdx.x] = logf(all.sum) + all.most - target_logit;
    if (grad_scale == 0) return;
    float inv = 1.0f / all.sum;
    __syncthreads();
    for (int i = threadIdx.x; i < cols; i += THREADS) {
        float p = __expf(to_f32(row[i]) - all.most) * inv;
        row[i] = from_f32<T>((p - (i == target ? 1.0f : 0.0f)) * grad_scale);
    }
}

void cuda_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                       float grad_scale)
{
    int64_t rows = tensor_rows(logits), cols = tensor_cols(logits);
    if (rows == 0) return;
    DISPATCH(logits, T, {
        T *x = (T *)tensor_data(logits);
        float *to = (float *)tensor_data(loss);
        const int32_t *t = (const int32_t *)tensor_data(targets);
        if (vectors_fit<T>(logits))
            softmax_xent_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                to, x, t, grad_scale, (int)cols, logits->ld);
        else
            softmax_xent_plain_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                to, x, t, grad_scale, (int)cols, logits->ld);
    });
    LAUNCHED();
}
