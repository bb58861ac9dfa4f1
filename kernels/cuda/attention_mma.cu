/* Attention of our own on tensor cores, for bf16 and head widths 64 and 128: deterministic, without atomics and without an
 * S x S buffer.  A block owns 64 queries (forward, dq) or 64 keys (dk, dv), sixteen a warp, and goes through the tokens that
 * they meet in tiles of 32; scores are made again in each pass (Dao 2023, arXiv 2307.08691), sums have a fixed
 * order. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/table.h"

enum { WARPS = 4, THREADS = WARPS * WARP, OWN = 16 * WARPS, TILE = 32 };

struct Args {
    const bf16 *q, *k, *v, *d_o; /* d_o, delta: backward */
    bf16 *o, *dq, *dk, *dv;
    float *lse;
    const float *delta;
    int64_t ld_o, ld_do;
    int n_heads, n_kv_heads;
    const int32_t *cu;
    int n_docs, n; /* tokens */
    float scale;
};

/* In shared memory rows are eight elements longer, so that the eight rows of a matrix lie in different banks. */
template <int D> struct Rows {
    enum { PITCH = D + 8 };
};

template <int D> static constexpr size_t shared_bytes(int rows)
{
    return (size_t)rows * Rows<D>::PITCH * sizeof(bf16);
}

/* `rows` rows from token `first` on, zeros behind the last token. */
template <int D>
__device__ static inline void rows_load(bf16 *to, const bf16 *from, int64_t ld, int first, int rows,
                                        int n)
{
    for (int i = threadIdx.x; i < rows * (D / 8); i += THREADS) {
        int row = i / (D / 8), col = i % (D / 8) * 8;
        Bits b =
            first + row < n ? bits_load(from + (int64_t)(first + row) * ld + col) : bits_zero();
        bits_store(to + row * Rows<D>::PITCH + col, b);
    }
}

/* c = own tile^T: the warp's sixteen rows with each of the tile. */
template <int D>
__device__ static inline void scores(float (&c)[TILE / 8][4], const bf16 *own, const bf16 *tile)
{
    enum { P = Rows<D>::PITCH };
    int lane = threadIdx.x % WARP;
    const bf16 *a_row = own + lane % 16 * P + lane / 16 * 8;
    const bf16 *b_row = tile + (lane % 8 + lane / 16 * 8) * P + lane / 8 % 2 * 8;
#pragma unroll
    for (int t = 0; t < TILE / 8; t++)
        for (int e = 0; e < 4; e++)
            c[t][e] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        unsigned a[4], b[4];
        matrices_load(a, a_row + k);
#pragma unroll
        for (int t = 0; t < TILE / 16; t++) {
            matrices_load(b, b_row + t * 16 * P + k);
            mma_add(c[2 * t], a, b[0], b[1]);
            mma_add(c[2 * t + 1], a, b[2], b[3]);
        }
    }
}

/* sum += p tile, p as `scores` left it. */
template <int D>
__device__ static inline void rows_add(float (&sum)[D / 8][4], const float (&p)[TILE / 8][4],
                                       const bf16 *tile)
{
    enum { P = Rows<D>::PITCH };
    int lane = threadIdx.x % WARP;
    const bf16 *row = tile + lane % 16 * P + lane / 16 * 8;
#pragma unroll
    for (int t = 0; t < TILE / 16; t++) {
        const float(&lo)[4] = p[2 * t], (&hi)[4] = p[2 * t + 1];
        unsigned b[4], a[4] = {pair_of_bf16(lo[0], lo[1]), pair_of_bf16(lo[2], lo[3]),
                               pair_of_bf16(hi[0], hi[1]), pair_of_bf16(hi[2], hi[3])};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            matrices_load_turned(b, row + t * 16 * P + d * 16);
            mma_add(sum[2 * d], a, b[0], b[1]);
            mma_add(sum[2 * d + 1], a, b[2], b[3]);
        }
    }
}

/* Rows token and token + 8 of the lane, each times its factor. */
template <int D>
__device__ static inline void rows_store(bf16 *to, int64_t ld, int token, int n,
                                         const float (&sum)[D / 8][4], float f0, float f1)
{
    int col = threadIdx.x % 4 * 2;
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
        unsigned lo = pair_of_bf16(sum[d][0] * f0, sum[d][1] * f0);
        unsigned hi = pair_of_bf16(sum[d][2] * f1, sum[d][3] * f1);
        bf16 *at = to + (int64_t)token * ld + d * 8 + col;
        if (token < n) *reinterpret_cast<unsigned *>(at) = lo;
        if (token + 8 < n) *reinterpret_cast<unsigned *>(at + 8 * ld) = hi;
    }
}

/* Over the four lanes of a row. */
__device__ static inline float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ static inline float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* The lane's two tokens and where their documents begin; beyond the last token nothing is visible. */
struct Queries {
    int token[2], first[2];
};

__device__ static inline Queries queries_of(const Args &a, int token)
{
    Queries q;
    for (int r = 0; r < 2; r++) {
        q.token[r] = token + 8 * r;
        q.first[r] = q.token[r] < a.n ? a.cu[doc_of(a.cu, a.n_docs, q.token[r])] : a.n;
    }
    return q;
}

/* An element of a result: which of the lane's rows, which column. */
__device__ static inline int row_of(int e)
{
    return e / 2;
}
__device__ static inline int col_of(int t, int e)
{
    return t * 8 + threadIdx.x % 4 * 2 + e % 2;
}

template <int D>
__global__ void __launch_bounds__(THREADS) attention_mma_fwd_kernel(const __grid_constant__ Args a)
{
    extern __shared__ uint4 shared[];
    bf16 *own = (bf16 *)shared, *k = own + OWN * Rows<D>::PITCH, *v = k + TILE * Rows<D>::PITCH;
    int head = blockIdx.y, kv = head / (a.n_heads / a.n_kv_heads), block = blockIdx.x * OWN;
    int warp = threadIdx.x / WARP;
    int64_t ld_q = (int64_t)a.n_heads * D, ld_k = (int64_t)a.n_kv_heads * D;
    Queries mine = queries_of(a, block + warp * 16 + threadIdx.x % WARP / 4);
    rows_load<D>(own, a.q + (int64_t)head * D, ld_q, block, OWN, a.n);
    const bf16 *q = own + warp * 16 * Rows<D>::PITCH;
    float sum[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    int end = block + OWN < a.n ? block + OWN : a.n;
    for (int at = a.cu[doc_of(a.cu, a.n_docs, block)]; at < end; at += TILE) {
        __syncthreads(); /* the last tile is still read */
        rows_load<D>(k, a.k + (int64_t)kv * D, ld_k, at, TILE, a.n);
        rows_load<D>(v, a.v + (int64_t)kv * D, ld_k, at, TILE, a.n);
        __syncthreads();
        float s[TILE / 8][4], top[2] = {most[0], most[1]}, shrink[2];
        scores<D>(s, q, k);
#pragma unroll
        for (int t = 0; t < TILE / 8; t++)
            for (int e = 0; e < 4; e++) {
                int r = row_of(e), key = at + col_of(t, e);
                bool sees = key >= mine.first[r] && key <= mine.token[r];
                s[t][e] = sees ? s[t][e] * a.scale : -INFINITY;
                top[r] = fmaxf(top[r], s[t][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = quad_max(top[r]);
            shrink[r] = weight_of(most[r], top[r]);
            total[r] *= shrink[r];
            most[r] = top[r];
        }
#pragma unroll
        for (int t = 0; t < TILE / 8; t++)
            for (int e = 0; e < 4; e++) {
                int r = row_of(e);
                s[t][e] = weight_of(s[t][e], most[r]);
                total[r] += s[t][e];
            }
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            for (int e = 0; e < 4; e++)
                sum[d][e] *= shrink[row_of(e)];
        rows_add<D>(sum, s, v);
    }
    for (int r = 0; r < 2; r++) {
        total[r] = quad_sum(total[r]);
        if (threadIdx.x % 4 == 0 && mine.token[r] < a.n)
            a.lse[(int64_t)mine.token[r] * a.n_heads + head] = most[r] + logf(total[r]);
    }
    rows_store<D>(a.o + (int64_t)head * D, a.ld_o, mine.token[0], a.n, sum, 1.0f / total[0],
                  1.0f / total[1]);
}

/* The gradient of a score before the scale, from the score, its row's log-sum and what reaches the probability. */
__device__ static inline float score_grad(float p, float dp, float delta)
{
    return p * (dp - delta);
}

template <int D>
__global__ void __launch_bounds__(THREADS) attention_mma_dq_kernel(const __grid_constant__ Args a)
{
    extern __shared__ uint4 shared[];
    bf16 *own_q = (bf16 *)shared, *own_g = own_q + OWN * Rows<D>::PITCH,
         *k = own_g + OWN * Rows<D>::PITCH, *v = k + TILE * Rows<D>::PITCH;
    int head = blockIdx.y, kv = head / (a.n_heads / a.n_kv_heads), block = blockIdx.x * OWN;
    int warp = threadIdx.x / WARP;
    int64_t ld_q = (int64_t)a.n_heads * D, ld_k = (int64_t)a.n_kv_heads * D;
    Queries mine = queries_of(a, block + warp * 16 + threadIdx.x % WARP / 4);
    rows_load<D>(own_q, a.q + (int64_t)head * D, ld_q, block, OWN, a.n);
    rows_load<D>(own_g, a.d_o + (int64_t)head * D, a.ld_do, block, OWN, a.n);
    const bf16 *q = own_q + warp * 16 * Rows<D>::PITCH, *g = own_g + warp * 16 * Rows<D>::PITCH;
    float lse[2], delta[2], sum[D / 8][4] = {};
    for (int r = 0; r < 2; r++) {
        int64_t i = (int64_t)(mine.token[r] < a.n ? mine.token[r] : 0) * a.n_heads + head;
        lse[r] = a.lse[i], delta[r] = a.delta[i];
    }
    int end = block + OWN < a.n ? block + OWN : a.n;
    for (int at = a.cu[doc_of(a.cu, a.n_docs, block)]; at < end; at += TILE) {
        __syncthreads();
        rows_load<D>(k, a.k + (int64_t)kv * D, ld_k, at, TILE, a.n);
        rows_load<D>(v, a.v + (int64_t)kv * D, ld_k, at, TILE, a.n);
        __syncthreads();
        float s[TILE / 8][4], dp[TILE / 8][4];
        scores<D>(s, q, k);
        scores<D>(dp, g, v);
#pragma unroll
        for (int t = 0; t < TILE / 8; t++)
            for (int e = 0; e < 4; e++) {
                int r = row_of(e), key = at + col_of(t, e);
                bool sees = key >= mine.first[r] && key <= mine.token[r];
                float p = sees ? __expf(s[t][e] * a.scale - lse[r]) : 0.0f;
                s[t][e] = score_grad(p, dp[t][e], delta[r]);
            }
        rows_add<D>(sum, s, k);
    }
    rows_store<D>(a.dq + (int64_t)head * D, ld_q, mine.token[0], a.n, sum, a.scale, a.scale);
}

/* Scores lie the other way round here: a row is a key. */
template <int D>
__global__ void __launch_bounds__(THREADS) attention_mma_dkv_kernel(const __grid_constant__ Args a)
{
    extern __shared__ uint4 shared[];
    __shared__ float lse[TILE], delta[TILE];
    __shared__ int first[TILE];
    bf16 *own_k = (bf16 *)shared, *own_v = own_k + OWN * Rows<D>::PITCH,
         *q = own_v + OWN * Rows<D>::PITCH, *g = q + TILE * Rows<D>::PITCH;
    int kv = blockIdx.y, group = a.n_heads / a.n_kv_heads, block = blockIdx.x * OWN;
    int warp = threadIdx.x / WARP, key0 = block + warp * 16 + threadIdx.x % WARP / 4;
    int64_t ld_q = (int64_t)a.n_heads * D, ld_k = (int64_t)a.n_kv_heads * D;
    rows_load<D>(own_k, a.k + (int64_t)kv * D, ld_k, block, OWN, a.n);
    rows_load<D>(own_v, a.v + (int64_t)kv * D, ld_k, block, OWN, a.n);
    const bf16 *k = own_k + warp * 16 * Rows<D>::PITCH, *v = own_v + warp * 16 * Rows<D>::PITCH;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    int last = block + OWN <= a.n ? block + OWN - 1 : a.n - 1;
    int end = a.cu[doc_of(a.cu, a.n_docs, last) + 1];
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int at = block; at < end; at += TILE) {
            __syncthreads();
            rows_load<D>(q, a.q + (int64_t)head * D, ld_q, at, TILE, a.n);
            rows_load<D>(g, a.d_o + (int64_t)head * D, a.ld_do, at, TILE, a.n);
            if (threadIdx.x < TILE) {
                int token = at + threadIdx.x;
                int64_t i = (int64_t)(token < a.n ? token : 0) * a.n_heads + head;
                lse[threadIdx.x] = a.lse[i];
                delta[threadIdx.x] = a.delta[i];
                first[threadIdx.x] = token < a.n ? a.cu[doc_of(a.cu, a.n_docs, token)] : a.n;
            }
            __syncthreads();
            float s[TILE / 8][4], dp[TILE / 8][4];
            scores<D>(s, k, q);
            scores<D>(dp, v, g);
#pragma unroll
            for (int t = 0; t < TILE / 8; t++)
                for (int e = 0; e < 4; e++) {
                    int col = col_of(t, e), key = key0 + 8 * row_of(e);
                    bool sees = key >= first[col] && key <= at + col;
                    float p = sees ? __expf(s[t][e] * a.scale - lse[col]) : 0.0f;
                    s[t][e] = p;
                    dp[t][e] = score_grad(p, dp[t][e], delta[col]);
                }
            rows_add<D>(dv, s, g);
            rows_add<D>(dk, dp, q);
        }
    rows_store<D>(a.dk + (int64_t)kv * D, ld_k, key0, a.n, dk, a.scale, a.scale);
    rows_store<D>(a.dv + (int64_t)kv * D, ld_k, key0, a.n, dv, 1, 1);
}

static void launch(Device *d, void (*kernel)(const Args), const Args &a, int heads, size_t bytes)
{
    CUDA_CHECK(cudaFuncSetAttribute((const void *)kernel,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    dim3 grid((unsigned)ceil_div(a.n, OWN), (unsigned)heads);
    kernel<<<grid, THREADS, bytes, cuda_stream(d)>>>(a);
    LAUNCHED();
}

template <int D> static void forward(Device *d, const Args &a)
{
    launch(d, attention_mma_fwd_kernel<D>, a, a.n_heads, shared_bytes<D>(OWN + 2 * TILE));
}

template <int D> static void backward(Device *d, const Args &a)
{
    launch(d, attention_mma_dkv_kernel<D>, a, a.n_kv_heads, shared_bytes<D>(2 * (OWN + TILE)));
    launch(d, attention_mma_dq_kernel<D>, a, a.n_heads, shared_bytes<D>(2 * (OWN + TILE)));
}

/* rows: o or d_o, the matrix that may have a pitch. */
bool cuda_attention_mma_takes(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *rows,
                              int n_heads)
{
    int64_t width = tensor_cols(q) / n_heads;
    return q->dtype == DT_BF16 && (width == 64 || width == 128) && vectors_fit<bf16>(q) &&
           vectors_fit<bf16>(k) && vectors_fit<bf16>(v) && vectors_fit<bf16>(rows);
}

static Args args_of(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *lse,
                    int n_heads, int n_kv_heads, const Docs *docs, float scale)
{
    Args a = {};
    a.q = (const bf16 *)tensor_data(q);
    a.k = (const bf16 *)tensor_data(k);
    a.v = (const bf16 *)tensor_data(v);
    a.lse = (float *)tensor_data(lse);
    a.n_heads = n_heads;
    a.n_kv_heads = n_kv_heads;
    a.cu = (const int32_t *)tensor_data(docs->cu);
    a.n_docs = docs->n_docs;
    a.n = (int)tensor_rows(q);
    a.scale = scale;
    return a;
}

void cuda_attention_fwd_mma(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                            const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    Args a = args_of(q, k, v, lse, n_heads, n_kv_heads, docs, scale);
    a.o = (bf16 *)tensor_data(o);
    a.ld_o = o->ld;
    if (tensor_cols(q) == (int64_t)n_heads * 64)
        forward<64>(d, a);
    else
        forward<128>(d, a);
}

void cuda_attention_bwd_mma(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                            const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *lse,
                            const float *delta, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    Args a = args_of(q, k, v, lse, n_heads, n_kv_heads, docs, scale);
    a.d_o = (const bf16 *)tensor_data(d_o);
    a.ld_do = d_o->ld;
    a.dq = (bf16 *)tensor_data(dq);
    a.dk = (bf16 *)tensor_data(dk);
    a.dv = (bf16 *)tensor_data(dv);
    a.delta = delta;
    if (tensor_cols(q) == (int64_t)n_heads * 64)
        backward<64>(d, a);
    else
        backward<128>(d, a);
}
