/* A softmax over keys as they come, in registers: a lane has neighbouring elements of a head, a few lanes a key
 * (attention_cached.cu). */
#pragma once

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

/* Of the keys that the lanes of one key have had. */
template <int GROUP> struct Online {
    float most[GROUP], sum[GROUP], acc[GROUP][SHARE];
};

/* exp(x - largest), 0 where there is nothing: no keys in x, or none at all */
__device__ static inline float weight_of(float x, float largest)
{
    return x == -INFINITY ? 0.0f : __expf(x - largest);
}

/* KEYS scores and values, those that do not exist -infinity and 0. */
template <typename T, int GROUP, int KEYS>
__device__ static inline void online_add(Online<GROUP> *o, float (&score)[KEYS][GROUP],
                                         const Share<T> (&v)[KEYS])
{
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float largest = o->most[g];
#pragma unroll
        for (int u = 0; u < KEYS; u++)
            largest = fmaxf(largest, score[u][g]);
        float f = weight_of(o->most[g], largest);
        o->most[g] = largest;
        o->sum[g] *= f;
#pragma unroll
        for (int u = 0; u < KEYS; u++) {
            score[u][g] = weight_of(score[u][g], largest);
            o->sum[g] += score[u][g];
        }
#pragma unroll
        for (int e = 0; e < SHARE; e++)
            o->acc[g][e] *= f;
    }
#pragma unroll
    for (int u = 0; u < KEYS; u++) {
        float y[SHARE];
        share_to_f32(y, v[u]);
#pragma unroll
        for (int g = 0; g < GROUP; g++)
#pragma unroll
            for (int e = 0; e < SHARE; e++)
                o->acc[g][e] += score[u][g] * y[e];
    }
}
