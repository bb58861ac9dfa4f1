/* Splitting q, k, v apart, norming heads (Qwen3) and rotating.
 *
 * Two forms.  Where a half head is whole vectors, in split_rope.cuh: a block a token, a thread one vector of each half in several heads, so
 * that the cosines and sines it holds serve all of them; q, k, v go in one launch.  Otherwise, and where the gradient of
 * a head norm is wanted: a warp a head of a token, here. */
#include "kernels/cuda/split_rope.cuh"
#include "kernels/cuda/table.h"

/* ---- a warp a head ---- */

enum { WARPS = CUDA_ROPE_WARPS, THREADS = WARPS * WARP, MAX_STEPS = 4 }; /* head widths up to 256 */

/* Element pairs (i, i + D/2) of one head, i = lane + 32 step. */
struct Pairs {
    float lo[MAX_STEPS], hi[MAX_STEPS];
};

template <typename T> __device__ static inline Pairs pairs_load(const T *x, int half)
{
    Pairs p;
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        p.lo[s] = i < half ? to_f32(x[i]) : 0.0f;
        p.hi[s] = i < half ? to_f32(x[i + half]) : 0.0f;
    }
    return p;
}

template <typename T>
__device__ static inline void pairs_store(T *y, const Pairs &p, int half, bool add)
{
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        if (i >= half) break;
        y[i] = from_f32<T>(add ? to_f32(y[i]) + p.lo[s] : p.lo[s]);
        y[i + half] = from_f32<T>(add ? to_f32(y[i + half]) + p.hi[s] : p.hi[s]);
    }
}

/* direction 1 turns forward, -1 back */
__device__ static inline void pairs_turn(Pairs *p, const float *rope, int half, float direction)
{
#pragma unroll
    for (int s = 0; s < MAX_STEPS; s++) {
        int i = threadIdx.x % WARP + s * WARP;
        if (i >= half) break;
        float c = rope[i], sn = rope[i + half] * direction, lo = p->lo[s], hi = p->hi[s];
        p->lo[s] = lo * c - hi * sn;
        p->hi[s] = hi * c + lo * sn;
    }
}

template <typename T>
__global__ void rope_fwd_kernel(T *y, float *rstd, const T *x, int64_t ld_x,
                                const int32_t *positions, const float *rope, const T *w,
                                int64_t n_items, int n_heads, int half, float eps)
{
    int64_t item = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    if (item >= n_items) return;
    int64_t token = item / n_heads;
    int head = (int)(item % n_heads);
    Pairs p = pairs_load(x + token * ld_x + (int64_t)head * 2 * half, half);
    if (w) {
        float sum = 0;
#pragma unroll
        for (int s = 0; s < MAX_STEPS; s++)
            sum += p.lo[s] * p.lo[s] + p.hi[s] * p.hi[s];
        float r = rsqrtf(warp_sum(sum) / (float)(2 * half) + eps);
        if (threadIdx.x % WARP == 0) rstd[item] = r;
        Pairs wp = pairs_load(w, half);
#pragma unroll
        for (int s = 0; s < MAX_STEPS; s++) {
            p.lo[s] = to_f32(from_f32<T>(to_f32(from_f32<T>(p.lo[s] * r)) * wp.lo[s]));
            p.hi[s] = to_f32(from_f32<T>(to_f32(from_f32<T>(p.hi[s] * r)) * wp.hi[s]));
        }
    }
    pairs_turn(&p, rope + (int64_t)positions[token] * 2 * half, half, 1);
    pairs_store(y + item * 2 * half, p, half, false);
}

/* Items of a warp are strided, so that each warp sums its share of dw over many tokens. */
template <typename T>
__global__ void rope_bwd_kernel(T *dx, int64_t ld_dx, float beta, float *dw_part, const T *dy,
                                const T *x, int64_t ld_x, const float *rstd,
                                const int32_t *positions, const float *rope, const T *w,
                                int64_t n_items, int n_heads, int half)
{
    int64_t warp = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    Pairs dw = {};
    for (int64_t item = warp; item < n_items; item += (int64_t)gridDim.x * WARPS) {
        int64_t token = item / n_heads;
        int head = (int)(item % n_heads);
        Pairs g = pairs_load(dy + item * 2 * half, half);
        pairs_turn(&g, rope + (int64_t)positions[token] * 2 * half, half, -1);
        if (w) {
            Pairs xp = pairs_load(x + token * ld_x + (int64_t)head * 2 * half, half);
            Pairs wp = pairs_load(w, half);
            float r = rstd[item], dot = 0;
#pragma unroll
            for (int s = 0; s < MAX_STEPS; s++) {
                dw.lo[s] += g.lo[s] * xp.lo[s] * r;
                dw.hi[s] += g.hi[s] * xp.hi[s] * r;
                dot += g.lo[s] * wp.lo[s] * xp.lo[s] + g.hi[s] * wp.hi[s] * xp.hi[s];
            }
            float mean = warp_sum(dot) / (float)(2 * half) * r * r;
#pragma unroll
            for (int s = 0; s < MAX_STEPS; s++) {
                g.lo[s] = r * (g.lo[s] * wp.lo[s] - xp.lo[s] * mean);
                g.hi[s] = r * (g.hi[s] * wp.hi[s] - xp.hi[s] * mean);
            }
        }
        pairs_store(dx + token * ld_dx + (int64_t)head * 2 * half, g, half, beta != 0);
    }
    if (dw_part) pairs_store(dw_part + warp * 2 * half, dw, half, false);
}

template <typename T>
static void part_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *qkv, int64_t col,
                     const Tensor *positions, const Tensor *rope, const Tensor *w, int n_heads,
                     int half, float eps)
{
    int64_t items = tensor_rows(qkv) * n_heads;
    rope_fwd_kernel<T><<<(unsigned)ceil_div(items, WARPS), THREADS, 0, cuda_stream(d)>>>(
        (T *)tensor_data(y), w ? (float *)tensor_data(rstd) : NULL,
        (const T *)tensor_data(qkv) + col, qkv->ld, (const int32_t *)tensor_data(positions),
        (const float *)tensor_data(rope), w ? (const T *)tensor_data(w) : NULL, items, n_heads,
        half, eps);
    LAUNCHED();
}

void cuda_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q, Tensor *rstd_k,
                         const Tensor *qkv, const Tensor *positions, const Tensor *rope,
                         const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads,
                         float eps)
{
    int width = (int)tensor_cols(rope), half = width / 2;
    ASSERT(half <= MAX_STEPS * WARP, "head width %d", width);
    if (tensor_rows(qkv) == 0) return;
    int64_t col_k = (int64_t)n_heads * width, col_v = col_k + (int64_t)n_kv_heads * width;
    DISPATCH(qkv, T, {
        int each = tensor_rows(qkv) <= FEW_TOKENS ? 1 : (int)HEADS;
        int per_pass = heads_per_pass<T>(half, n_heads + 2 * n_kv_heads, q_norm, each);
        if (per_pass && vectors_fit<T>(qkv) && apart_fit<T>(q, k, v, q_norm, k_norm)) {
            auto kernel = q_norm ? split_kernel<T, true, false> : split_kernel<T, false, false>;
            launch_early(d, kernel, (unsigned)tensor_rows(qkv),
                         token_threads(per_pass, half / Vec<T>::N), 0,
                         heads_apart<T>(q, k, v, n_heads, n_kv_heads, width), false,
                         heads_fused<const T>(qkv, n_heads, n_kv_heads, width), Heads<const T>{},
                         norms_of<T>(rstd_q, rstd_k, q_norm, k_norm),
                         (const int32_t *)tensor_data(positions), (const float *)tensor_data(rope),
                         half, per_pass, eps);
            return;
        }
        part_fwd<T>(d, q, rstd_q, qkv, 0, positions, rope, q_norm, n_heads, half, eps);
        part_fwd<T>(d, k, rstd_k, qkv, col_k, positions, rope, k_norm, n_kv_heads, half, eps);
    });
    Tensor from = tensor_slice_cols(qkv, col_v, (int64_t)n_kv_heads * width);
    cuda_copy(d, v, &from);
}

template <typename T>
static void part_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dw, float dw_beta,
                     const Tensor *dy, const Tensor *qkv, int64_t col, const Tensor *rstd,
                     const Tensor *positions, const Tensor *rope, const Tensor *w, int n_heads,
                     int half)
{
    int n_sms = cuda_impl(d)->n_sms;
    int64_t rows = tensor_rows(dy), items = rows * n_heads;
    int64_t blocks = cuda_rope_blocks(rows, n_heads, dw, n_sms);
    float *part =
        dw ? (float *)workspace_take(d, cuda_rope_scratch(rows, n_heads, 2 * half, n_sms)) : NULL;
    rope_bwd_kernel<T><<<(unsigned)blocks, THREADS, 0, cuda_stream(d)>>>(
        (T *)tensor_data(dqkv) + col, dqkv->ld, beta, part, (const T *)tensor_data(dy),
        w ? (const T *)tensor_data(qkv) + col : NULL, w ? qkv->ld : 0,
        w ? (const float *)tensor_data(rstd) : NULL, (const int32_t *)tensor_data(positions),
        (const float *)tensor_data(rope), w ? (const T *)tensor_data(w) : NULL, items, n_heads,
        half);
    LAUNCHED();
    if (!dw) return;
    cuda_sum_partials(d, dw, dw_beta, part, blocks * WARPS, 2 * half);
    workspace_give(d);
}

void cuda_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm, float dq_norm_beta,
                         Tensor *dk_norm, float dk_norm_beta, const Tensor *dq, const Tensor *dk,
                         const Tensor *dv, const Tensor *qkv, const Tensor *rstd_q,
                         const Tensor *rstd_k, const Tensor *positions, const Tensor *rope,
                         const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads)
{
    int width = (int)tensor_cols(rope), half = width / 2;
    if (tensor_rows(dq) == 0) {
        if (dq_norm && dq_norm_beta == 0) tensor_zero(d, dq_norm);
        if (dk_norm && dk_norm_beta == 0) tensor_zero(d, dk_norm);
        return;
    }
    int64_t col_k = (int64_t)n_heads * width, col_v = col_k + (int64_t)n_kv_heads * width;
    DISPATCH(dqkv, T, {
        int per_pass = heads_per_pass<T>(half, n_heads + 2 * n_kv_heads, q_norm, HEADS);
        if (per_pass && !dq_norm && !dk_norm && vectors_fit<T>(dqkv) &&
            (!q_norm || vectors_fit<T>(qkv)) && apart_fit<T>(dq, dk, dv, q_norm, k_norm)) {
            auto kernel = q_norm ? split_kernel<T, true, true> : split_kernel<T, false, true>;
            Heads<const T> x = {};
            if (q_norm) x = heads_fused<const T>(qkv, n_heads, n_kv_heads, width);
            kernel<<<(unsigned)tensor_rows(dq), token_threads(per_pass, half / Vec<T>::N), 0,
                     cuda_stream(d)>>>(heads_fused<T>(dqkv, n_heads, n_kv_heads, width), beta != 0,
                                       heads_apart<const T>(dq, dk, dv, n_heads, n_kv_heads, width),
                                       x, norms_of<T>(rstd_q, rstd_k, q_norm, k_norm),
                                       (const int32_t *)tensor_data(positions),
                                       (const float *)tensor_data(rope), half, per_pass, 0);
            LAUNCHED();
            return;
        }
        part_bwd<T>(d, dqkv, beta, dq_norm, dq_norm_beta, dq, qkv, 0, rstd_q, positions, rope,
                    q_norm, n_heads, half);
        part_bwd<T>(d, dqkv, beta, dk_norm, dk_norm_beta, dk, qkv, col_k, rstd_k, positions, rope,
                    k_norm, n_kv_heads, half);
    });
    Tensor to = tensor_slice_cols(dqkv, col_v, (int64_t)n_kv_heads * width);
    if (beta == 0)
        cuda_copy(d, &to, dv);
    else
        cuda_axpy(d, &to, 1, dv);
}
