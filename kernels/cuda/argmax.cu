/* The largest of each row, in two steps: parts of it, then the parts.  A value and its place are one 64-bit number, whose
 * largest is what is looked for whatever the order. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, PARTS = CUDA_ARGMAX_PARTS };
typedef unsigned long long Ranked;

/* Ascends with x, then descends with i; 0 for -infinity, which is nobody's choice. */
__device__ static inline Ranked ranked(float x, int i)
{
    if (x == -INFINITY) return 0;
    unsigned bits = __float_as_uint(x);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if (x == 0) bits = 0x80000000u;            /* -0 is 0 */
    if (isnan(x) || x == INFINITY) bits = ~0u; /* above all numbers: the row is spoilt */
    return (Ranked)bits << 32 | (unsigned)(0x7fffffff - i);
}

__device__ static inline Ranked block_most(Ranked x)
{
    __shared__ Ranked part[THREADS / WARP];
    for (int o = WARP / 2; o > 0; o /= 2) {
        Ranked y = __shfl_xor_sync(0xffffffffu, x, o);
        x = y > x ? y : x;
    }
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++)
        x = part[w] > x ? part[w] : x;
    return x;
}

template <typename T>
__global__ void argmax_parts_kernel(Ranked *parts, const T *x, int64_t ld, int cols)
{
    early_go();
    early_wait();
    const T *row = x + blockIdx.y * ld;
    Ranked most = 0;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < cols; i += PARTS * THREADS) {
        Ranked y = ranked(to_f32(row[i]), i);
        most = y > most ? y : most;
    }
    most = block_most(most);
    if (threadIdx.x == 0) parts[blockIdx.y * PARTS + blockIdx.x] = most;
}

__global__ void argmax_kernel(int32_t *best, const Ranked *parts)
{
    early_go();
    early_wait();
    Ranked most = 0;
    for (int i = threadIdx.x; i < PARTS; i += THREADS)
        most = parts[blockIdx.x * PARTS + i] > most ? parts[blockIdx.x * PARTS + i] : most;
    most = block_most(most);
    bool none = most == 0 || most >> 32 == 0xffffffffu;
    if (threadIdx.x == 0) best[blockIdx.x] = none ? -1 : 0x7fffffff - (int32_t)(most & 0xffffffffu);
}

void cuda_argmax(Device *d, Tensor *best, const Tensor *x)
{
    int64_t n = tensor_rows(x);
    ASSERT(tensor_numel(best) == n && best->dtype == DT_I32, "argmax: shapes differ");
    if (n == 0) return;
    Ranked *parts = (Ranked *)workspace_take(d, cuda_argmax_scratch(n));
    DISPATCH(x, T, {
        launch_early(d, argmax_parts_kernel<T>, dim3(PARTS, (unsigned)n), THREADS, 0, parts,
                     (const T *)tensor_data(x), x->ld, (int)tensor_cols(x));
    });
    launch_early(d, argmax_kernel, (unsigned)n, THREADS, 0, (int32_t *)tensor_data(best), parts);
    workspace_give(d);
}

__global__ void next_tokens_kernel(int32_t *past, int32_t *ids, const int32_t *best, int n)
{
    early_go();
    early_wait();
    for (int i = threadIdx.x; i < n; i += THREADS) {
        past[i]++;
        if (best) ids[i] = max(best[i], 0);
    }
}

void cuda_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best)
{
    launch_early(d, next_tokens_kernel, 1u, THREADS, 0, (int32_t *)tensor_data(past),
                 best ? (int32_t *)tensor_data(ids) : NULL,
                 best ? (const int32_t *)tensor_data(best) : NULL, (int)tensor_numel(past));
}
