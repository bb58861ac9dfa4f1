/* Tensors of random numbers, each element by its own counter and in double: the CPU's numbers up to rounding. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

template <typename T>
__global__ void fill_normal_kernel(T *to, uint64_t key, double mean, double std, int64_t rows,
                                   int64_t cols, int64_t ld)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS)
        to[i / cols * ld + i % cols] =
            from_f32<T>((float)(mean + std * rng_normal(key, (uint64_t)i)));
}

void cuda_fill_normal(Device *d, Tensor *t, uint64_t key, double mean, double std)
{
    int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    int64_t need = ceil_div(rows * cols, THREADS), most = 32 * (int64_t)cuda_impl(d)->n_sms;
    if (need == 0) return;
    unsigned grid = (unsigned)(need < most ? need : most);
    DISPATCH(t, T, {
        fill_normal_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>((T *)tensor_data(t), key, mean,
                                                                    std, rows, cols, t->ld);
    });
    LAUNCHED();
}
