/* Splitting, norming and rotating in vectors: a block a token, a thread one vector of each half of a head in several heads, forward and
 * back (split_rope.cu). */
#pragma once

#include "kernels/cuda/cuda.cuh"

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
    if (!BACK) early_go();
    int64_t token = blockIdx.x;
    Share s = share_of(half / N, per_pass, to.n_q, to.n_kv);
    Turn<N> t =
        turn_load<N>(rope + (int64_t)positions[token] * 2 * half, half, s.slot, BACK ? -1 : 1);
    if (!BACK) early_wait();
    for (int base = 0; base < s.n_all; base += HEADS * s.step) {
        Bits lo[HEADS], hi[HEADS];
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            int h = base + s.first + i * s.step;
            const T *p = from.at(token, h < s.n_all ? h : 0) + s.slot * N;
            lo[i] = h < s.n_all ? bits_load_last(p) : bits_zero();
            hi[i] = h < s.n_all ? bits_load_last(p + half) : bits_zero();
        }
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
