/* Tensors of random numbers, each element by its own counter and in double: the CPU's numbers up to rounding. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/split.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

__device__ static inline void put(float *to, int16_t *, float x)
{
    *to = x;
}
__device__ static inline void put(bf16 *to, int16_t *low, float x)
{
    *to = low ? split_of(x, low) : from_f32<bf16>(x);
}

template <typename T>
__global__ void fill_normal_kernel(T *to, int16_t *low, uint64_t key, double mean, double std,
                                   int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS)
        put(to + i / cols * ld + i % cols, low ? low + i : NULL,
            (float)(mean + std * rng_normal(key, (uint64_t)i)));
}

void cuda_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std)
{
    int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    int64_t need = ceil_div(rows * cols, THREADS), most = 32 * (int64_t)cuda_impl(d)->n_sms;
    if (need == 0) return;
    ASSERT(!low || (t->dtype == DT_BF16 && low->dtype == DT_I16 && tensor_is_dense(t)),
           "fill_normal: low beside %s", dtype_name(t->dtype));
    unsigned grid = (unsigned)(need < most ? need : most);
    DISPATCH(t, T, {
        fill_normal_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(t), low ? (int16_t *)tensor_data(low) : NULL, key, mean, std, rows,
            cols, t->ld);
    });
    LAUNCHED();
}
