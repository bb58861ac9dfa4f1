/* Sums over whole tensors in two steps of fixed order, so that they are the same every time; the scalars of
 * an optimizer step, which never leave the device. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 512, MAX_BLOCKS = CUDA_REDUCE_BLOCKS, SUM, SQUARES, NONFINITE };

template <typename T, int WHAT> __device__ static inline double term(T x)
{
    float v = to_f32(x);
    if (WHAT == NONFINITE) return isfinite(v) ? 0.0 : 1.0;
    return WHAT == SQUARES ? (double)v * (double)v : (double)v;
}

__device__ static double block_sum_f64(double x)
{
    __shared__ double part[THREADS];
    part[threadIdx.x] = x;
    __syncthreads();
    for (int n = THREADS / 2; n > 0; n /= 2) {
        if ((int)threadIdx.x < n) part[threadIdx.x] += part[threadIdx.x + n];
        __syncthreads();
    }
    return part[0];
}

template <typename T, int WHAT> __global__ void reduce_kernel(double *part, const T *x, int64_t n)
{
    double sum = 0;
    int64_t vecs = ((uintptr_t)x) % 16 == 0 ? n / Vec<T>::N : 0;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < vecs;
         i += (int64_t)gridDim.x * THREADS) {
        Vec<T> v = vec_load(x + i * Vec<T>::N);
        for (int j = 0; j < Vec<T>::N; j++)
            sum += term<T, WHAT>(v.v[j]);
    }
    for (int64_t i = vecs * Vec<T>::N + blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS)
        sum += term<T, WHAT>(x[i]);
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

__global__ void reduce_end_kernel(float *out, float beta, const double *part, int n)
{
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS)
        sum += part[i];
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) out[0] = (float)(beta != 0 ? (double)out[0] + sum : sum);
}

template <int WHAT> static void reduce(Device *d, Tensor *out, float beta, const Tensor *x)
{
    ASSERT(tensor_is_dense(x), "reduce: %s has a pitch", x->name ? x->name : "?");
    int64_t n = tensor_numel(x);
    int64_t need = ceil_div(n, THREADS * 8);
    int blocks = (int)(need < 1 ? 1 : need > (int64_t)MAX_BLOCKS ? (int64_t)MAX_BLOCKS : need);
    double *part = (double *)workspace_take(d, cuda_reduce_scratch());
    DISPATCH(x, T, {
        reduce_kernel<T, WHAT>
            <<<(unsigned)blocks, THREADS, 0, cuda_stream(d)>>>(part, (const T *)tensor_data(x), n);
    });
    reduce_end_kernel<<<1, THREADS, 0, cuda_stream(d)>>>((float *)tensor_data(out), beta, part,
                                                         blocks);
    LAUNCHED();
    workspace_give(d);
}

void cuda_sum(Device *d, Tensor *out, float beta, const Tensor *x)
{
    reduce<SUM>(d, out, beta, x);
}

void cuda_sum_squares(Device *d, Tensor *out, float beta, const Tensor *x)
{
    reduce<SQUARES>(d, out, beta, x);
}

void cuda_count_nonfinite(Device *d, Tensor *count, float beta, const Tensor *x)
{
    reduce<NONFINITE>(d, count, beta, x);
}

__global__ void checksum_kernel(unsigned long long *out, const uint8_t *x, uint64_t rows,
                                uint64_t row_bytes, uint64_t pitch_bytes)
{
    const uint64_t per_row = (row_bytes + 7) / 8, n = rows * per_row;
    uint64_t sum = 0;
    for (uint64_t i = blockIdx.x * (uint64_t)THREADS + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * THREADS) {
        const uint64_t row = i / per_row, at = 8 * (i - row * per_row), left = row_bytes - at;
        const uint8_t *from = x + row * pitch_bytes + at;
        uint64_t word = 0;
        if (left >= 8 && (uintptr_t)from % 8 == 0)
            word = *(const uint64_t *)from;
        else
            for (uint64_t k = 0; k < left && k < 8; k++)
                word |= (uint64_t)from[k] << (8 * k);
        sum += checksum_term(word, i);
    }
    for (int o = WARP / 2; o > 0; o >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (threadIdx.x % WARP == 0) atomicAdd(out, (unsigned long long)sum);
}

void cuda_checksum(Device *d, Tensor *sum, const Tensor *x)
{
    ASSERT(sum->dtype == DT_I64 && tensor_numel(sum) == 1, "checksum: the result is no i64");
    const int64_t each = (int64_t)dtype_bytes(x->dtype), rows = tensor_rows(x);
    const int64_t row_bytes = tensor_cols(x) * each, need = ceil_div(rows * row_bytes, 8 * THREADS);
    tensor_zero(d, sum);
    if (need == 0) return;
    checksum_kernel<<<(unsigned)(need < (int64_t)MAX_BLOCKS ? need : (int64_t)MAX_BLOCKS), THREADS,
                      0, cuda_stream(d)>>>((unsigned long long *)tensor_data(sum),
                                           (const uint8_t *)tensor_data(x), (uint64_t)rows,
                                           (uint64_t)row_bytes, (uint64_t)(x->ld * each));
    LAUNCHED();
}

__global__ void step_scalars_kernel(float *step, const float *sum_squares, const float *loss,
                                    float clip)
{
    float norm = sqrtf(*sum_squares), scale = clip / (norm + 1e-6f);
    step[STEP_GRAD_SCALE] = clip == 0 || scale > 1 ? 1.0f : scale;
    if (!isfinite(norm) || !isfinite(*loss)) step[STEP_SKIP] = 1.0f;
}

void cuda_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                       float clip)
{
    step_scalars_kernel<<<1, 1, 0, cuda_stream(d)>>>((float *)tensor_data(step),
                                                     (const float *)tensor_data(sum_squares),
                                                     (const float *)tensor_data(loss), clip);
    LAUNCHED();
}
