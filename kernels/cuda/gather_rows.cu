/* Rows picked by a list, and put back. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

template <typename T>
__global__ void gather_rows_kernel(T *y, const T *x, const int32_t *rows, int cols)
{
    const T *from = x + (int64_t)rows[blockIdx.x] * cols;
    T *to = y + (int64_t)blockIdx.x * cols;
    for (int i = threadIdx.x; i < cols; i += THREADS)
        to[i] = from[i];
}

void cuda_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows)
{
    int64_t m = tensor_numel(rows);
    if (m == 0) return;
    DISPATCH(y, T, {
        gather_rows_kernel<T><<<(unsigned)m, THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(y), (const T *)tensor_data(x), (const int32_t *)tensor_data(rows),
            (int)tensor_cols(x));
    });
    LAUNCHED();
}

template <typename T>
__global__ void scatter_rows_kernel(T *dx, const T *dy, const int32_t *rows, int cols)
{
    T *to = dx + (int64_t)rows[blockIdx.x] * cols;
    const T *from = dy + (int64_t)blockIdx.x * cols;
    for (int i = threadIdx.x; i < cols; i += THREADS)
        to[i] = from_f32<T>(to_f32(to[i]) + to_f32(from[i]));
}

void cuda_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows)
{
    int64_t m = tensor_numel(rows);
    if (beta == 0) tensor_zero(d, dx);
    if (m == 0) return;
    DISPATCH(dx, T, {
        scatter_rows_kernel<T><<<(unsigned)m, THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(dx), (const T *)tensor_data(dy), (const int32_t *)tensor_data(rows),
            (int)tensor_cols(dx));
    });
    LAUNCHED();
}
