/* Random numbers as a pure function of a key and a counter (Philox 4x32-10, Salmon et al. 2011,
 * "Parallel random numbers: as easy as 1, 2, 3"): no state, so a draw does not depend on what was
 * drawn before, on the split of the work or on a resume.  Plain C that nvcc compiles for the device
 * as well. */
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#    define RNG_FN static __host__ __device__ inline
#else
#    define RNG_FN static inline
#endif

typedef struct Rng4 {
    uint32_t v[4];
} Rng4;

RNG_FN Rng4 philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo)
{
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (uint32_t)p1, c2 = n2, c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    Rng4 r;
    r.v[0] = c0, r.v[1] = c1, r.v[2] = c2, r.v[3] = c3;
    return r;
}

/* A 64-bit mix (finalizer of MurmurHash3) for making keys out of parts. */
RNG_FN uint64_t rng_mix(uint64_t a, uint64_t b)
{
    uint64_t h = a ^ (b + 0x9E3779B97F4A7C15ull + (a << 6) + (a >> 2));
    h ^= h >> 33, h *= 0xFF51AFD7ED558CCDull, h ^= h >> 33, h *= 0xC4CEB9FE1A85EC53ull;
    return h ^ (h >> 33);
}

/* Uniform in [0,1) with 24 bits. */
RNG_FN float rng_unit(uint32_t bits)
{
    return (float)(bits >> 8) * (1.0f / 16777216.0f);
}

RNG_FN uint64_t rng_word(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

RNG_FN double rng_unit53(uint64_t bits)
{
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

/* The i-th draw of the stream `key`: uniform in [0,1) with 53 bits. */
RNG_FN double rng_uniform(uint64_t key, uint64_t i)
{
    Rng4 r = philox(key, 0, i);
    return rng_unit53(rng_word(r.v[0], r.v[1]));
}

/* The i-th draw, standard normal: Box and Muller's transform; 1 - u keeps the logarithm's argument in (0,1]. */
RNG_FN double rng_normal(uint64_t key, uint64_t i)
{
    Rng4 r = philox(key, 0, i);
    double u = rng_unit53(rng_word(r.v[0], r.v[1])), angle = rng_unit53(rng_word(r.v[2], r.v[3]));
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586476925 * angle);
}

/* The i-th draw, an integer below n (n > 0, unbiased to 2^-64).  In rng.c. */
#ifdef __cplusplus
extern "C" {
#endif
uint64_t rng_below(uint64_t key, uint64_t i, uint64_t n);
/* perm[0..n): a permutation of 0..n-1 that depends on key alone (Fisher-Yates). */
void rng_permutation(uint64_t key, int64_t *perm, int64_t n);
#ifdef __cplusplus
}
#endif
