/* Attention of new tokens to a cache (flash-decoding, Dao et al. 2023): a query's keys are cut into parts, so that one query
 * has the whole GPU, too.  A block has one part of the keys of a token and a key head, for all query heads that read it:
 * the cache is read once.  Its warps take every fourth key.  The last block of a token and head joins the parts, in their
 * order: the same bits every time. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 128, WARPS = THREADS / WARP, MOST_GROUP = 8, MOST_WIDTH = 256 };

/* ---- the cache ---------------------------------------------------------------------------------- */

template <typename T>
__global__ void kv_append_kernel(T *cache_k, T *cache_v, const T *k, const T *v, const int32_t *cu,
                                 int n_docs, const int32_t *past, int64_t capacity, int cols)
{
    early_go();
    early_wait();
    int token = blockIdx.x, b = doc_of(cu, n_docs, token);
    int64_t at = ((int64_t)b * capacity + past[b] + token - cu[b]) * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        cache_k[at + i] = k[(int64_t)token * cols + i];
        cache_v[at + i] = v[(int64_t)token * cols + i];
    }
}

void cuda_kv_append(Device *d, Tensor *cache_k, Tensor *cache_v, const Tensor *k, const Tensor *v,
                    const Docs *docs, const Tensor *past)
{
    enum { APPEND_THREADS = 512 };
    int64_t n = tensor_rows(k);
    if (n == 0) return;
    DISPATCH(k, T, {
        launch_early(d, kv_append_kernel<T>, (unsigned)n, APPEND_THREADS, 0,
                     (T *)tensor_data(cache_k), (T *)tensor_data(cache_v),
                     (const T *)tensor_data(k), (const T *)tensor_data(v),
                     (const int32_t *)tensor_data(docs->cu), docs->n_docs,
                     (const int32_t *)tensor_data(past), cache_k->shape[1], (int)tensor_cols(k));
    });
}

/* ---- attention ---------------------------------------------------------------------------------- */

/* What a block works on: `group` query heads from `head0` on, which read key head `kv`, of token `token`. */
typedef struct Cached {
    const int32_t *cu, *past;
    int n_docs, n_heads, n_kv_heads, width, group,
        n_groups; /* of a key head, each of `group` heads at most */
    int64_t capacity, ld_o;
    float scale;
    float *most, *sum, *acc; /* (tokens, heads, parts), and (tokens, heads, parts, width) */
    unsigned *tickets;       /* (tokens, key heads, groups), 0 before and after */
} Cached;

/* A lane's share of a head: elements lane + 32 step. */
template <typename T, int STEPS>
__device__ static inline void lane_load(float (&y)[STEPS], const T *x, int width)
{
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        y[s] = i < width ? to_f32(x[i]) : 0.0f;
    }
}

/* Softmax over a warp's keys as they come (Milakov & Gimelshein 2018), of GROUP heads. */
template <int GROUP, int STEPS> struct Online {
    float most[GROUP], sum[GROUP], acc[GROUP][STEPS];
};

template <int GROUP, int STEPS>
__device__ static inline void online_add(Online<GROUP, STEPS> *o, int g, float score,
                                         const float (&v)[STEPS])
{
    if (score > o->most[g]) {
        float f = __expf(o->most[g] - score);
        o->sum[g] *= f;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            o->acc[g][s] *= f;
        o->most[g] = score;
    }
    float p = __expf(score - o->most[g]);
    o->sum[g] += p;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        o->acc[g][s] += p * v[s];
}

/* Weights of the parts of one head: exp(most - the largest), 0 for parts without keys. */
__device__ static inline float weight_of(float most, float largest)
{
    return most == -INFINITY ? 0.0f : __expf(most - largest);
}

/* Joins the parts of the block's heads; every thread some elements. */
template <typename T>
__device__ static inline void join(T *o, const Cached &a, int token, int head0, int n_heads,
                                   int n_parts)
{
    for (int i = threadIdx.x; i < n_heads * a.width; i += THREADS) {
        int64_t first = ((int64_t)token * a.n_heads + head0 + i / a.width) * n_parts;
        float largest = -INFINITY, total = 0, x = 0;
        for (int p = 0; p < n_parts; p++)
            largest = fmaxf(largest, __ldcg(a.most + first + p));
        for (int p = 0; p < n_parts; p++) {
            float w = weight_of(__ldcg(a.most + first + p), largest);
            total += w * __ldcg(a.sum + first + p);
            x += w * __ldcg(a.acc + (first + p) * a.width + i % a.width);
        }
        o[token * a.ld_o + (int64_t)head0 * a.width + i] = from_f32<T>(x / total);
    }
}

/* True in the last block of a token and its heads: the others' parts can be read. */
__device__ static inline bool is_last(unsigned *ticket, unsigned n_parts)
{
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(ticket, 1) == n_parts - 1;
        if (last) *ticket = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

/* grid: parts, key heads x groups, tokens */
template <typename T, int GROUP, int STEPS>
__global__ void __launch_bounds__(THREADS)
    attention_cached_kernel(T *o, const T *q, const T *cache_k, const T *cache_v, Cached a)
{
    extern __shared__ float shared[]; /* acc [WARPS][group][width] */
    __shared__ float most[WARPS][GROUP], sum[WARPS][GROUP];
    early_go();
    early_wait();
    const int token = blockIdx.z, kv = blockIdx.y / a.n_groups, of_kv = a.n_heads / a.n_kv_heads;
    const int in_kv = (int)blockIdx.y % a.n_groups * a.group, head0 = kv * of_kv + in_kv;
    const int n_heads = of_kv - in_kv < a.group ? of_kv - in_kv : a.group;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n_parts = gridDim.x;
    const int b = doc_of(a.cu, a.n_docs, token), n = a.past[b] + token - a.cu[b] + 1;
    const int each = (n + n_parts - 1) / n_parts, first = blockIdx.x * each;
    const int end = first + each < n ? first + each : n;
    const int64_t base = ((int64_t)b * a.capacity * a.n_kv_heads + kv) * a.width;
    const int64_t row = (int64_t)a.n_kv_heads * a.width;

    float qs[GROUP][STEPS];
    Online<GROUP, STEPS> on;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        int head = head0 + (g < n_heads ? g : 0);
        lane_load<T, STEPS>(qs[g], q + ((int64_t)token * a.n_heads + head) * a.width, a.width);
        on.most[g] = -INFINITY, on.sum[g] = 0;
        for (int s = 0; s < STEPS; s++)
            on.acc[g][s] = 0, qs[g][s] *= a.scale;
    }
#pragma unroll 4
    for (int j = first + warp; j < end; j += WARPS) {
        float k[STEPS], v[STEPS];
        lane_load<T, STEPS>(k, cache_k + base + j * row, a.width);
        lane_load<T, STEPS>(v, cache_v + base + j * row, a.width);
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float dot = 0;
#pragma unroll
            for (int s = 0; s < STEPS; s++)
                dot += qs[g][s] * k[s];
            online_add(&on, g, warp_sum(dot), v);
        }
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        if (lane == 0) most[warp][g] = on.most[g], sum[warp][g] = on.sum[g];
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            int i = lane + s * WARP;
            if (i < a.width && g < n_heads) shared[(warp * GROUP + g) * a.width + i] = on.acc[g][s];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_heads * a.width; i += THREADS) {
        int g = i / a.width;
        float largest = -INFINITY, total = 0, x = 0;
        for (int w = 0; w < WARPS; w++)
            largest = fmaxf(largest, most[w][g]);
        for (int w = 0; w < WARPS; w++) {
            float f = weight_of(most[w][g], largest);
            total += f * sum[w][g];
            x += f * shared[(w * GROUP + g) * a.width + i % a.width];
        }
        if (n_parts == 1) {
            o[token * a.ld_o + (int64_t)head0 * a.width + i] = from_f32<T>(x / total);
            continue;
        }
        int64_t part = ((int64_t)token * a.n_heads + head0 + g) * n_parts + blockIdx.x;
        a.acc[part * a.width + i % a.width] = x;
        if (i % a.width == 0) a.most[part] = largest, a.sum[part] = total;
    }
    if (n_parts > 1 && is_last(a.tickets + (int64_t)token * gridDim.y + blockIdx.y, n_parts))
        join(o, a, token, head0, n_heads, n_parts);
}

template <typename T, int GROUP, int STEPS>
static void launch(Device *d, Tensor *o, const Tensor *q, const Tensor *cache_k,
                   const Tensor *cache_v, const Cached &a, int64_t n_parts)
{
    dim3 grid((unsigned)n_parts, (unsigned)(a.n_kv_heads * a.n_groups), (unsigned)tensor_rows(q));
    size_t shared = (size_t)(WARPS * GROUP * a.width) * sizeof(float); /* 32 KiB at most */
    launch_early(d, attention_cached_kernel<T, GROUP, STEPS>, grid, THREADS, shared,
                 (T *)tensor_data(o), (const T *)tensor_data(q), (const T *)tensor_data(cache_k),
                 (const T *)tensor_data(cache_v), a);
}

template <typename T, int GROUP>
static void by_width(Device *d, Tensor *o, const Tensor *q, const Tensor *cache_k,
                     const Tensor *cache_v, const Cached &a, int64_t n_parts)
{
    if (a.width <= 2 * WARP)
        launch<T, GROUP, 2>(d, o, q, cache_k, cache_v, a, n_parts);
    else if (a.width <= 4 * WARP)
        launch<T, GROUP, 4>(d, o, q, cache_k, cache_v, a, n_parts);
    else
        launch<T, GROUP, MOST_WIDTH / WARP>(d, o, q, cache_k, cache_v, a, n_parts);
}

void cuda_attention_cached(Device *d, Tensor *o, const Tensor *q, const Tensor *cache_k,
                           const Tensor *cache_v, int n_heads, int n_kv_heads, const Docs *docs,
                           const Tensor *past, int64_t max_past, float scale)
{
    int64_t n = tensor_rows(q), longest = max_past + docs->max_len;
    if (n == 0) return;
    Cached a = {};
    a.cu = (const int32_t *)tensor_data(docs->cu);
    a.past = (const int32_t *)tensor_data(past);
    a.n_docs = docs->n_docs;
    a.n_heads = n_heads;
    a.n_kv_heads = n_kv_heads;
    a.width = (int)(tensor_cols(q) / n_heads);
    a.capacity = cache_k->shape[1];
    a.ld_o = o->ld;
    a.scale = scale;
    ASSERT(a.width <= MOST_WIDTH && n <= 65535, "%lld tokens, head width %d", (long long)n,
           a.width);
    int of_kv = n_heads / n_kv_heads;
    a.group = of_kv < MOST_GROUP ? of_kv : MOST_GROUP;
    a.n_groups = (int)ceil_div(of_kv, a.group);
    int n_sms = cuda_impl(d)->n_sms;
    int64_t parts = cuda_cached_parts(n, n_kv_heads, longest, n_sms), cells = n * n_heads * parts;
    if (parts > 1) {
        ASSERT(n * n_kv_heads * a.n_groups <= CUDA_TICKETS, "%lld tickets",
               (long long)(n * n_kv_heads * a.n_groups));
        a.tickets = cuda_impl(d)->tickets;
        a.most = (float *)workspace_take(
            d, cuda_attention_cached_scratch(n, n_heads, n_kv_heads, a.width, longest, n_sms));
        a.sum = a.most + cells;
        a.acc = a.sum + cells;
    }
    DISPATCH(q, T, {
        if (a.group == 1)
            by_width<T, 1>(d, o, q, cache_k, cache_v, a, parts);
        else if (a.group == 2)
            by_width<T, 2>(d, o, q, cache_k, cache_v, a, parts);
        else if (a.group <= 4)
            by_width<T, 4>(d, o, q, cache_k, cache_v, a, parts);
        else
            by_width<T, MOST_GROUP>(d, o, q, cache_k, cache_v, a, parts);
    });
    if (parts > 1) workspace_give(d);
}
