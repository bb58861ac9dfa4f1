/* Cross-entropy over a row of logits, whose gradient is written over them.
 *
 * Two forms.  Where a row's vectors fit into the registers of a thread block, or of a cluster of up to eight that
 * exchange maximum and sum through shared memory (from sm_90): read once, written once.  Any other row, of any width and
 * address: one pass for maximum and sum together (Milakov & Gimelshein 2018), one that writes. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

#include <cooperative_groups.h>

/* A maximum and the sum of exponentials below it; minus infinity and 0 of nothing. */
struct Online {
    float most, sum;
};

__device__ static inline Online online_join(Online a, Online b)
{
    float most = fmaxf(a.most, b.most);
    return {most, (a.sum == 0 ? 0.0f : a.sum * __expf(a.most - most)) +
                      (b.sum == 0 ? 0.0f : b.sum * __expf(b.most - most))}; /* a NaN stays */
}

/* What exponentials are taken below; of a row without a finite logit any number will do. */
__device__ static inline float base_of(float most)
{
    return most == -INFINITY ? 0.0f : most;
}

template <typename T> struct Xent {
    float *loss;
    T *logits;
    const int32_t *targets;
    float grad_scale;
    int cols;
    int64_t ld;
};

/* ---- rows in registers ------------------------------------------------------------------------ */

enum { HELD_VECS = 8, MAX_CLUSTER = 8, SM_THREADS = 1024 };

/* Vectors of minus infinity, and the larger of what two vectors have in each place. */
template <typename T> __device__ static inline Bits bits_lowest(void);
template <> __device__ inline Bits bits_lowest<float>(void)
{
    return make_uint4(0xff800000u, 0xff800000u, 0xff800000u, 0xff800000u);
}
template <> __device__ inline Bits bits_lowest<bf16>(void)
{
    return make_uint4(0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u);
}

template <typename T> __device__ static inline unsigned word_max(unsigned a, unsigned b);
template <> __device__ inline unsigned word_max<float>(unsigned a, unsigned b)
{
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
template <> __device__ inline unsigned word_max<bf16>(unsigned a, unsigned b)
{
    __nv_bfloat162 m =
        __hmax2(*reinterpret_cast<__nv_bfloat162 *>(&a), *reinterpret_cast<__nv_bfloat162 *>(&b));
    return *reinterpret_cast<unsigned *>(&m);
}

template <typename T> __device__ static inline float largest_of(const Bits (&bits)[HELD_VECS])
{
    Bits most = bits_lowest<T>();
#pragma unroll
    for (int k = 0; k < HELD_VECS; k++)
        most = make_uint4(word_max<T>(most.x, bits[k].x), word_max<T>(most.y, bits[k].y),
                          word_max<T>(most.z, bits[k].z), word_max<T>(most.w, bits[k].w));
    float v[Vec<T>::N], y = -INFINITY;
    bits_to_f32(v, most);
    for (int j = 0; j < Vec<T>::N; j++)
        y = fmaxf(y, v[j]);
    return y;
}

/* The blocks of a row put together what they found; each gets all.  Another's shared memory may be touched once that block
 * has begun, which cluster_begin tells the others, and until the last synchronisation. */
__device__ static inline void cluster_begin(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;");
#endif
}
__device__ static inline Online cluster_join(Online mine)
{
#if __CUDA_ARCH__ >= 900
    __shared__ Online parts[MAX_CLUSTER];
    auto cluster = cooperative_groups::this_cluster();
    unsigned n = cluster.num_blocks();
    asm volatile("barrier.cluster.wait.aligned;");
    if (threadIdx.x < n) *cluster.map_shared_rank(&parts[cluster.block_rank()], threadIdx.x) = mine;
    cluster.sync();
    Online all = parts[0];
    for (unsigned i = 1; i < n; i++)
        all = online_join(all, parts[i]);
    return all;
#else
    return mine;
#endif
}

/* A row is `parts` blocks of B threads.  A multiprocessor holds several, so that some load while others compute. */
template <typename T, int B>
__global__ void __launch_bounds__(B, SM_THREADS / B) softmax_xent_held_kernel(Xent<T> x, int parts)
{
    enum { N = Vec<T>::N };
    int row_index = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    T *row = x.logits + row_index * x.ld;
    int target = x.targets[row_index], n_vecs = x.cols / N;
    int first = part * B * HELD_VECS + (int)threadIdx.x;
    cluster_begin();
    Bits bits[HELD_VECS];
#pragma unroll
    for (int k = 0; k < HELD_VECS; k++)
        bits[k] =
            first + k * B < n_vecs ? bits_load_last(row + (first + k * B) * N) : bits_lowest<T>();
    float target_logit = to_f32(row[target]); /* before anybody overwrites it */
    Online mine = {block_max(largest_of<T>(bits)), 0};
    float base = base_of(mine.most);
#pragma unroll
    for (int k = 0; k < HELD_VECS; k++) {
        float v[N];
        bits_to_f32(v, bits[k]);
        for (int j = 0; j < N; j++)
            mine.sum += __expf(v[j] - base);
    }
    mine.sum = block_sum(mine.sum);
    Online all = cluster_join(mine);
    if (part == 0 && threadIdx.x == 0) x.loss[row_index] = logf(all.sum) + all.most - target_logit;
    if (x.grad_scale == 0) return;
    float factor = x.grad_scale / all.sum;
#pragma unroll
    for (int k = 0; k < HELD_VECS; k++) {
        int i = first + k * B;
        float v[N];
        bits_to_f32(v, bits[k]);
        for (int j = 0; j < N; j++)
            v[j] = __expf(v[j] - all.most) * factor;
        if (i < n_vecs) bits_store(row + i * N, bits_from_f32(v));
        if (target / N == i) /* after the store of its vector, by the same thread */
            row[target] =
                from_f32<T>((__expf(target_logit - all.most) / all.sum - 1) * x.grad_scale);
    }
}

/* Blocks of B threads that hold a row; 0: it is too long for this device, or no whole vectors. */
template <typename T> static int held_parts(Device *d, const Tensor *logits, int threads)
{
    int64_t parts = ceil_div(tensor_cols(logits), threads * HELD_VECS * Vec<T>::N);
    int most = cuda_impl(d)->cc >= 90 ? MAX_CLUSTER : 1;
    return vectors_fit<T>(logits) && parts <= most ? (int)parts : 0;
}

template <typename T, int B>
static void launch_held(Device *d, const Xent<T> &x, int64_t n_rows, int parts)
{
    cudaLaunchAttribute cluster;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {(unsigned)parts, 1, 1};
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(n_rows * parts));
    how.blockDim = dim3(B);
    how.stream = cuda_stream(d);
    how.attrs = &cluster;
    how.numAttrs = parts > 1 ? 1 : 0;
    CUDA_CHECK(cudaLaunchKernelEx(&how, softmax_xent_held_kernel<T, B>, x, parts));
}

/* ---- any row ---------------------------------------------------------------------------------- */

enum { THREADS = 1024, BATCH = 4 }; /* loads that a thread has in flight */

/* The block's, in every thread. */
__device__ static inline Online online_all(Online o)
{
    Online all = {block_max(o.most), 0};
    all.sum = block_sum(o.sum == 0 ? 0.0f : o.sum * __expf(o.most - all.most));
    return all;
}

template <typename T> __global__ void __launch_bounds__(THREADS) softmax_xent_kernel(Xent<T> x)
{
    T *row = x.logits + blockIdx.x * x.ld;
    int target = x.targets[blockIdx.x];
    float target_logit = to_f32(row[target]);
    Online o = {-INFINITY, 0};
    for (int at = threadIdx.x; at < x.cols; at += BATCH * THREADS) {
        float v[BATCH];
        Online next = {-INFINITY, 0};
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            v[k] = at + k * THREADS < x.cols ? to_f32(row[at + k * THREADS]) : -INFINITY;
        for (int k = 0; k < BATCH; k++)
            next.most = fmaxf(next.most, v[k]);
        for (int k = 0; k < BATCH; k++)
            next.sum += __expf(v[k] - base_of(next.most));
        o = online_join(o, next);
    }
    Online all = online_all(o);
    if (threadIdx.x == 0) x.loss[blockIdx.x] = logf(all.sum) + all.most - target_logit;
    if (x.grad_scale == 0) return;
    float inv_sum = 1.0f / all.sum;
    __syncthreads();
    for (int i = threadIdx.x; i < x.cols; i += THREADS) {
        float p = __expf(to_f32(row[i]) - all.most) * inv_sum;
        row[i] = from_f32<T>((p - (i == target ? 1.0f : 0.0f)) * x.grad_scale);
    }
}

void cuda_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                       float grad_scale)
{
    int64_t rows = tensor_rows(logits);
    if (rows == 0) return;
    DISPATCH(logits, T, {
        Xent<T> x = {(float *)tensor_data(loss),
                     (T *)tensor_data(logits),
                     (const int32_t *)tensor_data(targets),
                     grad_scale,
                     (int)tensor_cols(logits),
                     logits->ld};
        int narrow = held_parts<T>(d, logits, 256), wide = held_parts<T>(d, logits, 512);
        if (narrow)
            launch_held<T, 256>(d, x, rows, narrow);
        else if (wide)
            launch_held<T, 512>(d, x, rows, wide);
        else
            softmax_xent_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(x);
    });
    LAUNCHED();
}
