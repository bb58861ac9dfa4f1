/* Cross-entropy over a row of logits: one pass for maximum and sum together, one that writes the gradient
 * over the logits.  The target's logit is read before anything is overwritten. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 1024 };

template <typename T, int N>
__global__ void softmax_xent_kernel(float *loss, T *logits, const int32_t *targets,
                                    float grad_scale, int cols, int64_t ld)
{
    T *row = logits + blockIdx.x * ld;
    int target = targets[blockIdx.x];
    float target_logit = to_f32(row[target]);
    float most = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < cols / N; i += THREADS) {
        float v[N], m = most;
        if (N > 1) {
            Vec<T> x = vec_load(row + i * N);
            for (int j = 0; j < N; j++)
                v[j] = to_f32(x.v[j]);
        } else {
            v[0] = to_f32(row[i]);
        }
        for (int j = 0; j < N; j++)
            m = fmaxf(m, v[j]);
        float s = 0;
        for (int j = 0; j < N; j++)
            s += v[j] == -INFINITY ? 0.0f : __expf(v[j] - m);
        sum = (sum == 0 ? 0.0f : sum * __expf(most - m)) + s; /* a NaN stays */
        most = m;
    }
    float all = block_max(most);
    float total = block_sum(sum == 0 ? 0.0f : sum * __expf(most - all));
    if (threadIdx.x == 0) loss[blockIdx.x] = logf(total) + all - target_logit;
    if (grad_scale == 0) return;
    float inv = 1.0f / total;
    __syncthreads();
    for (int i = threadIdx.x; i < cols / N; i += THREADS) {
        if (N > 1) {
            Vec<T> x = vec_load(row + i * N);
            for (int j = 0; j < N; j++) {
                float p = __expf(to_f32(x.v[j]) - all) * inv;
                x.v[j] = from_f32<T>((p - (i * N + j == target ? 1.0f : 0.0f)) * grad_scale);
            }
            vec_store(row + i * N, x);
        } else {
            float p = __expf(to_f32(row[i]) - all) * inv;
            row[i] = from_f32<T>((p - (i == target ? 1.0f : 0.0f)) * grad_scale);
        }
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
            softmax_xent_kernel<T, Vec<T>::N><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                to, x, t, grad_scale, (int)cols, logits->ld);
        else
            softmax_xent_kernel<T, 1><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                to, x, t, grad_scale, (int)cols, logits->ld);
    });
    LAUNCHED();
}
