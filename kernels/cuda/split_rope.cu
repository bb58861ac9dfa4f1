/* Splitting q, k, v apart, norming heads (Qwen3) and rotating.
 *
 * Two forms.  Where a half head is whole vectors: a block a token, a thread one vector of each half in several heads, so
 * that the cosines and sines it holds serve all of them; q, k, v go in one launch.  Otherwise, and where the gradient of
 * a head norm is wanted: a warp a head of a token. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

/* ---- vectors ---- */

enum { HEADS = 3, MAX_TOKEN_THREADS = 512 }; /* heads that a thread has in flight */
enum { FEW_TOKENS = 8 }; /* then one: more threads are as good as free, and each has less to do */

/* One token's q, k, v side by side or apart: where head h of all (q, then k, then v) begins. */
template <typename T> struct Heads {
    T *q, *k, *v;
    int64_t ld_q, ld_kv;
    int n_q, n_kv, width;

    __device__ T *at(int64_t token, int h) const
    {
        if (h < n_q) return q + token * ld_q + h * width;
        h -= n_q;
        if (h < n_kv) return k + token * ld_kv + h * width;
        return v + token * ld_kv + (h - n_kv) * width;
    }
};

/* What a thread does: the same `slot` (vector of a half) in heads first, first + step, ... of a token. */
struct Share {
    int slots, slot, first, step, n_rotated, n_all;
};

__device__ static inline Share share_of(int half_vecs, int per_pass, int n_q, int n_kv)
{
    Share s = {half_vecs,
               (int)threadIdx.x % half_vecs,
               (int)threadIdx.x / half_vecs,
               per_pass,
               n_q + n_kv,
               n_q + 2 * n_kv};
    if (s.first >= per_pass) s.first = s.n_all; /* fills up the last warp */
    return s;
}

/* cosines and sines of the thread's N pairs */
template <int N> struct Turn {
    float cos[N], sin[N];
};

template <int N>
__device__ static inline Turn<N> turn_load(const float *rope, int half, int slot, float direction)
{
    Turn<N> t;
#pragma unroll
    for (int j = 0; j < N; j += 4) {
        float c[4], s[4];
        bits_to_f32(c, bits_load(rope + slot * N + j));
        bits_to_f32(s, bits_load(rope + half + slot * N + j));
#pragma unroll
        for (int l = 0; l < 4; l++)
            t.cos[j + l] = c[l], t.sin[j + l] = s[l] * direction;
    }
    return t;
}

template <int N>
__device__ static inline void turn(float (&lo)[N], float (&hi)[N], const Turn<N> &t)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        float a = lo[j], b = hi[j];
        lo[j] = a * t.cos[j] - b * t.sin[j];
        hi[j] = b * t.cos[j] + a * t.sin[j];
    }
}

/* The sum over the threads of a head: `slots`, a power of two, neighbouring lanes. */
__device__ static inline float head_sum(float x, int slots)
{
    for (int o = slots / 2; o > 0; o /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

template <typename T> struct Norms { /* rstd_q (N,H), rstd_k (N,K); weights (D) */
    float *rstd_q, *rstd_k;
    const T *q, *k;
};

/* What a thread knows of one head of its token. */
struct Head {
    int64_t token;
    int index; /* among all */
    int slot, slots, half, n_q, n_kv;
    __device__ bool rotated() const
    {
        return index < n_q + n_kv;
    }
    /* where its 1/rms lies; of a thread that only takes part in sums, some head's */
    __device__ float *rstd(float *of_q, float *of_k) const
    {
        if (index < n_q || !rotated()) return of_q + token * n_q + (rotated() ? index : 0);
        return of_k + token * n_kv + index - n_q;
    }
};

/* The head's weights: the vectors of this slot, both halves. */
template <typename T, int N>
__device__ static inline void weights_load(float (&lo)[N], float (&hi)[N], const Norms<T> &norms,
                                           const Head &h)
{
    const T *w = (h.index < h.n_q ? norms.q : norms.k) + h.slot * N;
    bits_to_f32(lo, bits_load(w));
    bits_to_f32(hi, bits_load(w + h.half));
}

/* All threads of a head together: a, b = the normed head, rounded where transformers rounds. */
template <typename T, int N>
__device__ static inline void head_norm(float (&a)[N], float (&b)[N], const Norms<T> &norms,
                                        const Head &h, float eps)
{
    float sum = 0, wa[N], wb[N];
    for (int j = 0; j < N; j++)
        sum += a[j] * a[j] + b[j] * b[j];
    float r = rsqrtf(head_sum(sum, h.slots) / (float)(2 * h.half) + eps);
    if (!h.rotated()) return;
    if (h.slot == 0) *h.rstd(norms.rstd_q, norms.rstd_k) = r;
    for (int j = 0; j < N; j++)
        a[j] *= r, b[j] *= r;
    bits_to_f32(a, bits_from_f32(a));
    bits_to_f32(b, bits_from_f32(b));
    weights_load<T, N>(wa, wb, norms, h);
    for (int j = 0; j < N; j++)
        a[j] *= wa[j], b[j] *= wb[j];
    bits_to_f32(a, bits_from_f32(a));
    bits_to_f32(b, bits_from_f32(b));
}

/* All threads of a head together: the gradient a, b of the normed head becomes x's, which forward read. */
template <typename T, int N>
__device__ static inline void head_norm_back(float (&a)[N], float (&b)[N], const T *x,
                                             const Norms<T> &norms, const Head &h)
{
    float xa[N], xb[N], wa[N], wb[N], dot = 0, r = *h.rstd(norms.rstd_q, norms.rstd_k);
    bool normed = h.rotated();
    bits_to_f32(xa, bits_load_last(x));
    bits_to_f32(xb, bits_load_last(x + h.half));
    weights_load<T, N>(wa, wb, norms, h);
    for (int j = 0; j < N; j++) {
        wa[j] *= normed ? a[j] : 0.0f;
        wb[j] *= normed ? b[j] : 0.0f;
        dot += wa[j] * xa[j] + wb[j] * xb[j];
    }
    float mean = head_sum(dot, h.slots) / (float)(2 * h.half) * r * r;
    for (int j = 0; normed && j < N; j++) {
        a[j] = r * (wa[j] - xa[j] * mean);
        b[j] = r * (wb[j] - xb[j] * mean);
    }
}

template <typename T, int N>
__device__ static inline void add_what_is_there(float (&a)[N], const T *y)
{
    float old[N];
    bits_to_f32(old, bits_load(y));
    for (int j = 0; j < N; j++)
        a[j] += old[j];
}

/* Both directions.  Forward: norm, turn.  BACK: turn back, the norm's gradient; x: what forward read. */
template <typename T, bool NORM, bool BACK>
__global__ void __launch_bounds__(MAX_TOKEN_THREADS)
    split_kernel(Heads<T> to, bool add, Heads<const T> from, Heads<const T> x, Norms<T> norms,
                 const int32_t *positions, const float *rope, int half, int per_pass, float eps)
{
    enum { N = Vec<T>::N };
    if (!BACK) {
        early_go();
        early_wait();
    }
    int64_t token = blockIdx.x;
    Share s = share_of(half / N, per_pass, to.n_q, to.n_kv);
    int position = positions[token];
    for (int base = 0; base < s.n_all; base += HEADS * s.step) {
        Bits lo[HEADS], hi[HEADS];
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            int h = base + s.first + i * s.step;
            const T *p = from.at(token, h < s.n_all ? h : 0) + s.slot * N;
            lo[i] = h < s.n_all ? bits_load_last(p) : bits_zero();
            hi[i] = h < s.n_all ? bits_load_last(p + half) : bits_zero();
        }
        Turn<N> t = turn_load<N>(rope + (int64_t)position * 2 * half, half, s.slot, BACK ? -1 : 1);
#pragma unroll
        for (int i = 0; i < HEADS; i++) { /* all threads: the sums of norms go over warps */
            int h = base + s.first + i * s.step;
            Head head = {token, h, s.slot, s.slots, half, to.n_q, to.n_kv};
            float a[N], b[N];
            bits_to_f32(a, lo[i]);
            bits_to_f32(b, hi[i]);
            if (NORM && !BACK) head_norm<T, N>(a, b, norms, head, eps);
            if (h < s.n_rotated) turn(a, b, t);
            if (NORM && BACK)
                head_norm_back<T, N>(a, b, x.at(token, head.rotated() ? h : 0) + s.slot * N, norms,
                                     head);
            if (h >= s.n_all) continue;
            T *y = to.at(token, h) + s.slot * N;
            if (BACK && add) {
                add_what_is_there<T, N>(a, y);
                add_what_is_there<T, N>(b, y + half);
            }
            bits_store_last(y, bits_from_f32(a));
            bits_store_last(y + half, bits_from_f32(b));
        }
    }
}

/* Heads that a block takes at a time, `each` a thread if that goes; 0: the shape does not fit. */
template <typename T> static int heads_per_pass(int half, int n_all, bool norm, int each)
{
    int slots = half / Vec<T>::N;
    if (half % Vec<T>::N != 0) return 0;
    if (norm && (slots > WARP || (slots & (slots - 1)) != 0)) return 0;
    int most = MAX_TOKEN_THREADS / slots, want = (int)ceil_div(n_all, each);
    return want < most ? want : most;
}

static unsigned token_threads(int per_pass, int slots)
{
    return (unsigned)(ceil_div(per_pass * slots, WARP) * WARP);
}

/* q, k, v in one matrix, or apart. */
template <typename T> static Heads<T> heads_fused(const Tensor *qkv, int n_q, int n_kv, int width)
{
    T *q = (T *)tensor_data(qkv), *k = q + (int64_t)n_q * width;
    return {q, k, k + (int64_t)n_kv * width, qkv->ld, qkv->ld, n_q, n_kv, width};
}
template <typename T>
static Heads<T> heads_apart(const Tensor *q, const Tensor *k, const Tensor *v, int n_q, int n_kv,
                            int width)
{
    return {(T *)tensor_data(q),
            (T *)tensor_data(k),
            (T *)tensor_data(v),
            q->ld,
            k->ld,
            n_q,
            n_kv,
            width};
}
template <typename T>
static Norms<T> norms_of(const Tensor *rstd_q, const Tensor *rstd_k, const Tensor *q_norm,
                         const Tensor *k_norm)
{
    if (!q_norm) return {};
    return {(float *)tensor_data(rstd_q), (float *)tensor_data(rstd_k),
            (const T *)tensor_data(q_norm), (const T *)tensor_data(k_norm)};
}

template <typename T>
static bool apart_fit(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *q_norm,
                      const Tensor *k_norm)
{
    return vectors_fit<T>(q) && vectors_fit<T>(k) && vectors_fit<T>(v) && k->ld == v->ld &&
           (!q_norm || (vectors_fit<T>(q_norm) && vectors_fit<T>(k_norm)));
}

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
