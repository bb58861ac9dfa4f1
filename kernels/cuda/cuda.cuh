/* What the .cu files of this folder share: checks, vector loads, reductions over warps and blocks.
 *
 * Each file: the kernels of one family, each launcher under what it launches, in the order of
 * kernels/kernels.h.  Templates are for the element type only. */
#pragma once

#include "kernels/cuda/runtime.h"
#include "kernels/kernels.h"
#include "kernels/scratch.h"

#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

enum { WARP = 32 };

/* Sixteen bytes: the widest load of a thread. */
template <typename T> struct alignas(16) Vec {
    enum { N = 16 / sizeof(T) };
    T v[N];
};

template <typename T> __device__ inline Vec<T> vec_load(const T *p)
{
    return *reinterpret_cast<const Vec<T> *>(p);
}

template <typename T> __device__ inline void vec_store(T *p, const Vec<T> &x)
{
    *reinterpret_cast<Vec<T> *>(p) = x;
}

/* The same sixteen bytes as they lie in memory, for what waits in registers: of an array of bf16 each element would take
 * a register.  `last`: nobody needs it soon, so it leaves the caches first. */
typedef uint4 Bits;

template <typename T> __device__ inline Bits bits_load(const T *p)
{
    return *reinterpret_cast<const Bits *>(p);
}
template <typename T> __device__ inline Bits bits_load_last(const T *p)
{
    return __ldcs(reinterpret_cast<const Bits *>(p));
}
template <typename T> __device__ inline void bits_store(T *p, Bits b)
{
    *reinterpret_cast<Bits *>(p) = b;
}
template <typename T> __device__ inline void bits_store_last(T *p, Bits b)
{
    __stcs(reinterpret_cast<Bits *>(p), b);
}
__device__ inline Bits bits_zero(void)
{
    return make_uint4(0, 0, 0, 0);
}

__device__ inline float to_f32(float x)
{
    return x;
}
__device__ inline float to_f32(bf16 x)
{
    return __bfloat162float(x);
}
template <typename T> __device__ inline T from_f32(float x);
template <> __device__ inline float from_f32<float>(float x)
{
    return x;
}
template <> __device__ inline bf16 from_f32<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Four elements of f32 or eight of bf16, as the array says. */
__device__ inline void bits_to_f32(float (&y)[4], Bits b)
{
    y[0] = __uint_as_float(b.x), y[1] = __uint_as_float(b.y);
    y[2] = __uint_as_float(b.z), y[3] = __uint_as_float(b.w);
}
__device__ inline void bits_to_f32(float (&y)[8], Bits b)
{
    const unsigned pairs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        y[2 * i] = __uint_as_float(pairs[i] << 16);
        y[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
}

__device__ inline unsigned pair_of_bf16(float lo, float hi)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<unsigned *>(&pair);
}
__device__ inline Bits bits_from_f32(const float (&x)[4])
{
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                      __float_as_uint(x[3]));
}
__device__ inline Bits bits_from_f32(const float (&x)[8])
{
    return make_uint4(pair_of_bf16(x[0], x[1]), pair_of_bf16(x[2], x[3]), pair_of_bf16(x[4], x[5]),
                      pair_of_bf16(x[6], x[7]));
}

__device__ inline float warp_sum(float x)
{
    for (int o = WARP / 2; o > 0; o >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

__device__ inline float warp_max(float x)
{
    for (int o = WARP / 2; o > 0; o >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

/* The sum over a block of whole warps, in every thread; a fixed order, so the same bits every time. */
__device__ inline float block_sum(float x)
{
    __shared__ float part[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads(); /* part may still be read by an earlier call */
    if (lane == 0) part[warp] = x;
    __syncthreads();
    float y = lane < (int)(blockDim.x / WARP) ? part[lane] : 0.0f;
    return warp_sum(y);
}

__device__ inline float block_max(float x)
{
    __shared__ float part[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) part[warp] = x;
    __syncthreads();
    float y = lane < (int)(blockDim.x / WARP) ? part[lane] : -INFINITY;
    return warp_max(y);
}

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Whether rows of t can be read in vectors: width, pitch and address are whole multiples of 16 bytes. */
template <typename T> static inline bool vectors_fit(const Tensor *t)
{
    return tensor_cols(t) % Vec<T>::N == 0 && t->ld % Vec<T>::N == 0 &&
           ((uintptr_t)tensor_data(t)) % 16 == 0;
}

/* Calls fn<T>(...) for the element type of tensor t. */
#define DISPATCH(t, T, ...)                                                                        \
    do {                                                                                           \
        if ((t)->dtype == DT_F32) {                                                                \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            ASSERT((t)->dtype == DT_BF16, "%s: dtype %s", __func__, dtype_name((t)->dtype));       \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

#define LAUNCHED() CUDA_CHECK(cudaGetLastError())

/* Launches that may begin early (programmatic dependent launch, from 9.0 on): while a graph is captured, a kernel launched
 * so starts as soon as every block of the kernel before it has said early_go or ended, and gets ready beside it.  Before
 * early_wait, which returns when all before it is done, it writes nothing and reads only what no kernel that may be recorded
 * before it writes: weights, tables, the cache of earlier tokens, positions (which next_tokens, the last of a pass, writes).
 * Whoever is launched so must wait; elsewhere both are nothing. */
__device__ inline void early_go(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void early_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The kernel's parameters, so that arguments are converted to them and not deduced. */
template <typename T> struct AsItIs {
    typedef T Type;
};
template <typename... P>
static inline void launch_early(Device *d, void (*kernel)(P...), dim3 grid, unsigned threads,
                                size_t shared, typename AsItIs<P>::Type... args)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = cuda_stream(d);
    config.attrs = &early;
    config.numAttrs = cuda_impl(d)->early && cuda_impl(d)->cc >= 90 ? 1 : 0;
    void *pointers[] = {(void *)&args...};
    CUDA_CHECK(cudaLaunchKernelExC(&config, (const void *)kernel, pointers));
}
