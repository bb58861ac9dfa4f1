/* Loops over floats that compilers turn into vector instructions without -ffast-math: sums and maxima run in
 * LANES independent lanes, in an order that the length alone decides, and exp_f32 has neither branch nor
 * call. */
#pragma once

#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

/* On a function with such loops: compiled for wider x86-64 vectors, too; the loader takes the machine's widest.  All
 * give the same bits, since lanes are fixed and products are never fused with sums (-ffp-contract=off).  clang 14
 * cannot do this for static functions. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#    define VECTORISED __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#    define VECTORISED
#endif

/* Before a loop: what an iteration writes, no other reads. */
#ifdef __clang__
#    define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#    define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* Into each of the variants. */
#define INLINED static inline __attribute__((always_inline))

/* e^x to 2 ulp (Cephes' expf: Cody-Waite reduction, degree 5); clamped to the range of normal floats, so that
 * e^-inf is 1e-38 and e^+inf is 2e38; NaN stays NaN. */
INLINED float exp_f32(float x)
{
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    /* Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits. */
    const float magic = 12582912.0f;
    float shifted = x * 1.44269504088896341f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23; /* 0x4B400000 is magic; 2^n */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

INLINED float sigmoid_f32(float x)
{
    return 1.0f / (1.0f + exp_f32(-x));
}

INLINED double lanes_sum(const double *lane)
{
    double sum = 0;
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

INLINED double vec_sum(const float *x, int64_t n)
{
    double lane[LANES] = {0}, rest = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (double)x[i + l];
    for (; i < n; i++)
        rest += (double)x[i];
    return lanes_sum(lane) + rest;
}

INLINED double vec_dot(const float *x, const float *y, int64_t n)
{
    double lane[LANES] = {0}, rest = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (double)x[i + l] * (double)y[i + l];
    for (; i < n; i++)
        rest += (double)x[i] * (double)y[i];
    return lanes_sum(lane) + rest;
}

/* n > 0.  A NaN may be passed over: what is computed from the maximum meets it again. */
INLINED float vec_max(const float *x, int64_t n)
{
    float lane[LANES], max = x[0];
    for (int l = 0; l < LANES; l++)
        lane[l] = max;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int l = 0; l < LANES; l++)
        max = lane[l] > max ? lane[l] : max;
    return max;
}

/* y = exp(x - max), y may be x or NULL; returns the sum of y. */
INLINED double vec_exp(float *y, const float *x, float max, int64_t n)
{
    double sum = 0;
    enum { BLOCK = 256 };
    float block[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t len = n - i < BLOCK ? n - i : BLOCK;
        float *out = y ? y + i : block;
        for (int64_t j = 0; j < len; j++)
            out[j] = exp_f32(x[i + j] - max);
        sum += vec_sum(out, len);
    }
    return sum;
}
