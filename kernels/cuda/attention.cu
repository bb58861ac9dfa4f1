/* Attention of our own: for f32, for shapes that cuDNN refuses, and where results must be the same every time.
 * A warp a query (forward, dq) or a key (dk, dv): no atomics, no S x S buffer, sums in a fixed order. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 128, WARPS = THREADS / WARP, MAX_STEPS = 8 }; /* head widths up to 256 */

struct Lane { /* a lane's share of one head: elements lane + 32 step */
    float v[MAX_STEPS];
};

template <typename T> __device__ static inline Lane lane_load(const T *x, int width)
{
    Lane l;
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        l.v[s] = i < width ? to_f32(x[i]) : 0.0f;
    }
    return l;
}

template <typename T>
__device__ static inline void lane_store(T *y, const Lane &l, float scale, int width)
{
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        if (i < width) y[i] = from_f32<T>(l.v[s] * scale);
    }
}

__device__ static inline float lane_dot(const Lane &a, const Lane &b)
{
    float sum = 0;
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++)
        sum += a.v[s] * b.v[s];
    return warp_sum(sum);
}

__device__ static inline void lane_add(Lane *a, float f, const Lane &b)
{
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++)
        a->v[s] += f * b.v[s];
}

struct Online { /* softmax of a row as its scores come in (Milakov & Gimelshein 2018) */
    float most, sum;
    Lane acc;
};

__device__ static inline void online_add(Online *o, float score, const Lane &v)
{
    if (score > o->most) {
        float f = __expf(o->most - score);
        o->sum *= f;
#pragma unroll
        for (int s = 0; s < MAX_STEPS; s++)
            o->acc.v[s] *= f;
        o->most = score;
    }
    float p = __expf(score - o->most);
    o->sum += p;
    lane_add(&o->acc, p, v);
}

template <typename T>
__global__ void attention_fwd_kernel(T *o, int64_t ld_o, float *lse, const T *q, const T *k,
                                     const T *v, int n_heads, int n_kv_heads, int width,
                                     const int32_t *cu, int n_docs, int64_t n_items, float scale)
{
    int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    if (item >= n_items) return;
    int token = (int)(item / n_heads), head = (int)(item % n_heads);
    int kv = head / (n_heads / n_kv_heads), first = cu[doc_of(cu, n_docs, token)];
    Lane ql = lane_load(q + item * width, width);
    Online on = {-INFINITY, 0.0f, {}};
    for (int j = first; j <= token; j++) {
        int64_t at = ((int64_t)j * n_kv_heads + kv) * width;
        online_add(&on, lane_dot(ql, lane_load(k + at, width)) * scale, lane_load(v + at, width));
    }
    lane_store(o + token * ld_o + (int64_t)head * width, on.acc, 1.0f / on.sum, width);
    if (threadIdx.x % WARP == 0) lse[item] = on.most + logf(on.sum);
}

void cuda_attention_fwd_plain(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                              const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                              float scale)
{
    int64_t items = tensor_rows(q) * n_heads;
    int width = (int)(tensor_cols(q) / n_heads);
    ASSERT(width <= MAX_STEPS * WARP, "head width %d", width);
    if (items == 0) return;
    if (cuda_attention_mma_takes(q, k, v, o, n_heads)) {
        cuda_attention_fwd_mma(d, o, lse, q, k, v, n_heads, n_kv_heads, docs, scale);
        return;
    }
    DISPATCH(q, T, {
        attention_fwd_kernel<T><<<(unsigned)ceil_div(items, WARPS), THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(o), o->ld, (float *)tensor_data(lse), (const T *)tensor_data(q),
            (const T *)tensor_data(k), (const T *)tensor_data(v), n_heads, n_kv_heads, width,
            (const int32_t *)tensor_data(docs->cu), docs->n_docs, items, scale);
    });
    LAUNCHED();
}

/* delta = sum of dO * O over the head, the softmax rule's row term. */
template <typename T>
__global__ void attention_delta_kernel(float *delta, const T *d_o, int64_t ld_do, const T *o,
                                       int64_t ld_o, int n_heads, int width, int64_t n_items)
{
    int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    if (item >= n_items) return;
    int64_t token = item / n_heads, col = item % n_heads * width;
    float sum = lane_dot(lane_load(d_o + token * ld_do + col, width),
                         lane_load(o + token * ld_o + col, width));
    if (threadIdx.x % WARP == 0) delta[item] = sum;
}

template <typename T>
__global__ void attention_dq_kernel(T *dq, const T *d_o, int64_t ld_do, const T *q, const T *k,
                                    const T *v, const float *lse, const float *delta, int n_heads,
                                    int n_kv_heads, int width, const int32_t *cu, int n_docs,
                                    int64_t n_items, float scale)
{
    int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    if (item >= n_items) return;
    int token = (int)(item / n_heads), head = (int)(item % n_heads);
    int kv = head / (n_heads / n_kv_heads), first = cu[doc_of(cu, n_docs, token)];
    Lane ql = lane_load(q + item * width, width);
    Lane g = lane_load(d_o + token * ld_do + (int64_t)head * width, width), sum = {};
    for (int j = first; j <= token; j++) {
        int64_t at = ((int64_t)j * n_kv_heads + kv) * width;
        Lane kl = lane_load(k + at, width);
        float p = __expf(lane_dot(ql, kl) * scale - lse[item]);
        float ds = p * (lane_dot(g, lane_load(v + at, width)) - delta[item]);
        lane_add(&sum, ds * scale, kl);
    }
    lane_store(dq + item * width, sum, 1.0f, width);
}

template <typename T>
__global__ void attention_dkv_kernel(T *dk, T *dv, const T *d_o, int64_t ld_do, const T *q,
                                     const T *k, const T *v, const float *lse, const float *delta,
                                     int n_heads, int n_kv_heads, int width, const int32_t *cu,
                                     int n_docs, int64_t n_items, float scale)
{
    int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    if (item >= n_items) return;
    int token = (int)(item / n_kv_heads), kv = (int)(item % n_kv_heads),
        group = n_heads / n_kv_heads;
    int end = cu[doc_of(cu, n_docs, token) + 1];
    Lane kl = lane_load(k + item * width, width), vl = lane_load(v + item * width, width);
    Lane dkl = {}, dvl = {};
    for (int i = token; i < end; i++)
        for (int head = kv * group; head < (kv + 1) * group; head++) {
            int64_t at = (int64_t)i * n_heads + head;
            Lane ql = lane_load(q + at * width, width);
            Lane g = lane_load(d_o + i * ld_do + (int64_t)head * width, width);
            float p = __expf(lane_dot(ql, kl) * scale - lse[at]);
            lane_add(&dvl, p, g);
            lane_add(&dkl, p * (lane_dot(g, vl) - delta[at]) * scale, ql);
        }
    lane_store(dk + item * width, dkl, 1.0f, width);
    lane_store(dv + item * width, dvl, 1.0f, width);
}

void cuda_attention_bwd_plain(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                              const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                              const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                              float scale)
{
    int64_t rows = tensor_rows(q), items = rows * n_heads, kv_items = rows * n_kv_heads;
    int width = (int)(tensor_cols(q) / n_heads);
    if (items == 0) return;
    bool mma = cuda_attention_mma_takes(q, k, v, d_o, n_heads) && vectors_fit<bf16>(dq);
    float *delta = (float *)workspace_take(d, cuda_attention_plain_scratch(rows, n_heads));
    const int32_t *cu = (const int32_t *)tensor_data(docs->cu);
    const float *stats = (const float *)tensor_data(lse);
    DISPATCH(q, T, {
        const T *g = (const T *)tensor_data(d_o), *tq = (const T *)tensor_data(q),
                *tk = (const T *)tensor_data(k), *tv = (const T *)tensor_data(v);
        unsigned grid = (unsigned)ceil_div(items, WARPS),
                 kv_grid = (unsigned)ceil_div(kv_items, WARPS);
        attention_delta_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>(
            delta, g, d_o->ld, (const T *)tensor_data(o), o->ld, n_heads, width, items);
        if (!mma) {
            attention_dq_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>(
                (T *)tensor_data(dq), g, d_o->ld, tq, tk, tv, stats, delta, n_heads, n_kv_heads,
                width, cu, docs->n_docs, items, scale);
            attention_dkv_kernel<T><<<kv_grid, THREADS, 0, cuda_stream(d)>>>(
                (T *)tensor_data(dk), (T *)tensor_data(dv), g, d_o->ld, tq, tk, tv, stats, delta,
                n_heads, n_kv_heads, width, cu, docs->n_docs, kv_items, scale);
        }
    });
    LAUNCHED();
    if (mma)
        cuda_attention_bwd_mma(d, dq, dk, dv, d_o, q, k, v, lse, delta, n_heads, n_kv_heads, docs,
                               scale);
    workspace_give(d);
}

enum { MAX_OFFSETS = 5 };

struct Offsets {
    int64_t *off[MAX_OFFSETS], factor[MAX_OFFSETS];
    int n;
};

/* What cuDNN wants to know of the documents; slots beyond the last one have length 0 and lie at the end. */
__global__ void document_offsets_kernel(int32_t *lengths, int64_t b, const int32_t *cu, int n_docs,
                                        Offsets to)
{
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i > b) return;
    int32_t start = cu[i < n_docs ? i : n_docs];
    for (int k = 0; k < to.n; k++)
        to.off[k][i] = start * to.factor[k];
    if (i < b) lengths[i] = i < n_docs ? cu[i + 1] - start : 0;
}

void cuda_document_offsets(Device *d, int32_t *lengths, int64_t b, const Docs *docs,
                           int64_t *const *off, const int64_t *factors, int n)
{
    ASSERT(n <= MAX_OFFSETS, "%d arrays", n);
    Offsets to = {};
    to.n = n;
    for (int i = 0; i < n; i++)
        to.off[i] = off[i], to.factor[i] = factors[i];
    document_offsets_kernel<<<(unsigned)ceil_div(b + 1, THREADS), THREADS, 0, cuda_stream(d)>>>(
        lengths, b, (const int32_t *)tensor_data(docs->cu), docs->n_docs, to);
    LAUNCHED();
}

__global__ void transpose_f32_kernel(float *to, const float *from, int64_t n, int rows, int cols)
{
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x, each = (int64_t)rows * cols;
    if (i >= n * each) return;
    int at = (int)(i % each), row = at % rows, col = at / rows;
    to[i] = from[i - at + (int64_t)row * cols + col];
}

void cuda_transpose_f32(Device *d, float *to, const float *from, int64_t n, int64_t rows,
                        int64_t cols)
{
    transpose_f32_kernel<<<(unsigned)ceil_div(n * rows * cols, THREADS), THREADS, 0,
                           cuda_stream(d)>>>(to, from, n, (int)rows, (int)cols);
    LAUNCHED();
}
