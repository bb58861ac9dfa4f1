/* Rows picked by a list, and put back. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

template <typename T>
__global__ void gather_rows_kernel(T *y, const T *x, const int32_t *rows, int cols)
{
    early_go();
    early_wait();
    const T *from = x + (int64_t)rows[blockIdx.x] * cols;
    T *to = y + (int64_t)blockIdx.x * cols;
    if (cols % Vec<T>::N == 0) {
        for (int i = threadIdx.x; i < cols / Vec<T>::N; i += THREADS)
            bits_store(to + i * Vec<T>::N, bits_load(from + i * Vec<T>::N));
    } else {
        for (int i = threadIdx.x; i < cols; i += THREADS)
            to[i] = from[i];
    }
}

void cuda_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows)
{
    int64_t m = tensor_numel(rows);
    if (m == 0) return;
    DISPATCH(y, T, {
        launch_early(d, gather_rows_kernel<T>, (unsigned)m, THREADS, 0, (T *)tensor_data(y),
                     (const T *)tensor_data(x), (const int32_t *)tensor_data(rows),
                     (int)tensor_cols(x));
    });
}

/* Rows are distinct, so what is not added to can be written over. */
template <typename T>
__global__ void scatter_rows_kernel(T *dx, bool add, const T *dy, const int32_t *rows, int cols)
{
    enum { N = Vec<T>::N };
    T *to = dx + (int64_t)rows[blockIdx.x] * cols;
    const T *from = dy + (int64_t)blockIdx.x * cols;
    if (cols % N == 0) {
        for (int i = threadIdx.x; i < cols / N; i += THREADS) {
            float sum[N], g[N];
            bits_to_f32(sum, add ? bits_load(to + i * N) : bits_zero());
            bits_to_f32(g, bits_load_last(from + i * N));
            for (int j = 0; j < N; j++)
                sum[j] += g[j];
            bits_store(to + i * N, bits_from_f32(sum));
        }
    } else {
        for (int i = threadIdx.x; i < cols; i += THREADS)
            to[i] = from_f32<T>((add ? to_f32(to[i]) : 0.0f) + to_f32(from[i]));
    }
}

void cuda_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows)
{
    int64_t m = tensor_numel(rows);
    if (beta == 0 && m < tensor_rows(dx)) tensor_zero(d, dx);
    if (m == 0) return;
    DISPATCH(dx, T, {
        scatter_rows_kernel<T><<<(unsigned)m, THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(dx), beta != 0, (const T *)tensor_data(dy),
            (const int32_t *)tensor_data(rows), (int)tensor_cols(dx));
    });
    LAUNCHED();
}
