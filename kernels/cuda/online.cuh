/* A softmax over keys as they come, in registers: a lane has neighbouring elements of a head, a few lanes a key
 * (attention_cached.cu). */
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda.cuh"

enum { SHARE = CUDA_CACHED_SHARE };

/* ---- a lane's share of a head: SHARE neighbouring elements ---- */

template <typename T> struct Share {
    enum { N = SHARE / Vec<T>::N };
    Bits b[N];
};

/* left: elements of the head from x on.  WHOLE: heads are whole shares, and all addresses are whole vectors. */
template <typename T, bool WHOLE> __device__ static inline Share<T> share_load(const T *x, int left)
{
    Share<T> s;
#pragma unroll
    for (int i = 0; i < Share<T>::N; i++) {
        if (WHOLE) {
            s.b[i] = left > 0 ? bits_load(x + i * Vec<T>::N) : bits_zero();
        } else {
            float y[Vec<T>::N];
#pragma unroll
            for (int e = 0; e < Vec<T>::N; e++)
                y[e] = i * Vec<T>::N + e < left ? to_f32(x[i * Vec<T>::N + e]) : 0.0f;
            s.b[i] = bits_from_f32(y);
        }
    }
    return s;
}

template <typename T>
__device__ static inline void share_to_f32(float (&y)[SHARE], const Share<T> &s)
{
#pragma unroll
    for (int i = 0; i < Share<T>::N; i++) {
        float part[Vec<T>::N];
        bits_to_f32(part, s.b[i]);
#pragma unroll
        for (int e = 0; e < Vec<T>::N; e++)
            y[i * Vec<T>::N + e] = part[e];
    }
}

template <typename T, bool WHOLE>
__device__ static inline void share_store(T *x, const Share<T> &s, int left)
{
    float y[SHARE];
    share_to_f32(y, s);
#pragma unroll
    for (int i = 0; i < Share<T>::N; i++)
        if (WHOLE && left > 0) bits_store(x + i * Vec<T>::N, s.b[i]);
#pragma unroll
    for (int e = 0; e < SHARE; e++)
        if (!WHOLE && e < left) x[e] = from_f32<T>(y[e]);
}

/* ---- softmax over keys as they come (Milakov & Gimelshein 2018) ---- */

/* LANES lanes have KEYS keys at a time, for GROUP heads: as many scores as lanes, about, of which each lane is left with PER
 * neighbours, number head * KEYS + key. */
template <int GROUP, int KEYS, int LANES> struct Spread {
    enum { N = GROUP * KEYS, PER = N > LANES ? N / LANES : 1 };
    enum { ALIKE = N > LANES ? 1 : LANES / N }; /* lanes with the same ones */
    enum { OF_HEAD = LANES / GROUP };           /* lanes with those of one head, neighbours */
    static_assert(PER <= KEYS, "a lane has one head's");

    __device__ static int first(void) /* the lane's */
    {
        return threadIdx.x % LANES / ALIKE * PER;
    }
    __device__ static int lane_of(int n) /* among all lanes of a warp, with the same key's */
    {
        return threadIdx.x % WARP / LANES * LANES + n / PER * ALIKE;
    }
};

/* Sums over 2 O lanes of x's N values: in x, the lane's own of them (Spread).  Half of what is left goes at each step. */
template <int N, int O> __device__ static inline void sum_and_spread(float *x)
{
    const bool upper = threadIdx.x & O;
#pragma unroll
    for (int i = 0; i < (N > 1 ? N / 2 : 1); i++) {
        float goes = x[i], stays = x[i];
        if (N > 1) goes = upper ? x[i] : x[i + N / 2], stays = upper ? x[i + N / 2] : x[i];
        x[i] = stays + __shfl_xor_sync(0xffffffffu, goes, O);
    }
    if constexpr (O > 1) sum_and_spread<(N > 1 ? N / 2 : 1), O / 2>(x);
}

/* Of the keys that a warp has had: the largest score, and the sum over the lane's own, of the lane's head; of all heads, values
 * times weights over the lane's own keys. */
template <int GROUP> struct Online {
    float most, sum, acc[GROUP][SHARE];
};

/* The lane's PER scores, -infinity where there is no key, and all values, then 0.  A warp together. */
template <typename T, int GROUP, int KEYS, int LANES>
__device__ static inline void online_add(Online<GROUP> *o, const float *score,
                                         const Share<T> (&v)[KEYS])
{
    typedef Spread<GROUP, KEYS, LANES> S;
    float largest = o->most, weight[S::PER];
#pragma unroll
    for (int i = 0; i < S::PER; i++)
        largest = fmaxf(largest, score[i]);
#pragma unroll
    for (int d = 1; d < WARP; d *= 2)
        if (d < S::OF_HEAD || d >= LANES)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    float f = weight_of(o->most, largest);
    o->most = largest;
    o->sum *= f;
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        weight[i] = weight_of(score[i], largest);
        if (threadIdx.x % S::ALIKE == 0) o->sum += weight[i];
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float of_head = __shfl_sync(0xffffffffu, f, S::lane_of(g * KEYS));
#pragma unroll
        for (int e = 0; e < SHARE; e++)
            o->acc[g][e] *= of_head;
    }
#pragma unroll
    for (int u = 0; u < KEYS; u++) {
        float y[SHARE];
        share_to_f32(y, v[u]);
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float w = __shfl_sync(0xffffffffu, weight[u % S::PER], S::lane_of(g * KEYS + u));
#pragma unroll
            for (int e = 0; e < SHARE; e++)
                o->acc[g][e] += w * y[e];
        }
    }
}

/* Sums of the warp in each of its lanes. */
template <int GROUP, int KEYS, int LANES> __device__ static inline void online_sum(Online<GROUP> *o)
{
#pragma unroll
    for (int d = 1; d < WARP; d *= 2) {
        if (d >= Spread<GROUP, KEYS, LANES>::OF_HEAD && d < LANES) continue;
        o->sum += __shfl_xor_sync(0xffffffffu, o->sum, d);
    }
#pragma unroll
    for (int d = LANES; d < WARP; d *= 2)
#pragma unroll
        for (int g = 0; g < GROUP; g++)
#pragma unroll
            for (int e = 0; e < SHARE; e++)
                o->acc[g][e] += __shfl_xor_sync(0xffffffffu, o->acc[g][e], d);
}
