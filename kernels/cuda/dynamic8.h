/* The place of a number among the magnitudes of a dynamic map (tensor/quant.h) without a search: a guess that is right or one
 * too low, and one comparison.  Plain C, so that the tests try it without a GPU.
 *
 * A map has 0, then for the decades [1e-7, 1e-6) ... [0.1, 1) the middles of `cells` 2^k equal cells, k = 0 ... 6, then 1.  Within a
 * decade the cell's number is linear in x, and where decades meet both lines have the same value.  What is nearer to a middle
 * than to its neighbours is its cell, except behind a decade's end, where a fifth of the first cell is nearer to the last
 * middle before it: so the line lies a little more than a fifth lower, and the comparison lifts what that made too low. */
#pragma once

#include "base/rng.h"

enum {
    DYNAMIC_DECADES = 7,
    DYNAMIC_M_CELLS = 1, /* of the signed map on one side of 0 */
    DYNAMIC_V_CELLS = 2, /* of the unsigned one */
    DYNAMIC_M_N = 129,   /* magnitudes, 0 and 1 among them */
    DYNAMIC_V_N = 256
};

/* guess = slope x + shift, rounded to the nearest. */
typedef struct DynamicLine {
    float slope, shift;
} DynamicLine;

RNG_FN DynamicLine dynamic_line(int decade, int cells)
{
    double n = (double)(cells << decade), power = 1e6;
    for (int i = 0; i < decade; i++)
        power /= 10;
    DynamicLine l;
    l.slope = (float)(n * power / 0.9);
    l.shift = (float)(n * 0.8 / 0.9 - (cells - 1) - 0.21 - 0.5);
    return l;
}

/* Edge k of n magnitudes: what lies above it belongs to index k or a higher one. */
RNG_FN float dynamic_edge(const float *magnitudes, int n, int k)
{
    if (k == 0) return -1.0f;
    if (k == n) return 2.0f;
    return (magnitudes[k - 1] + magnitudes[k]) * 0.5f;
}

/* |x| < 2^22: adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits, above DYNAMIC_ROUND. */
#define DYNAMIC_ROUND 0x4B400000u
RNG_FN uint32_t dynamic_round(float x)
{
    union {
        float f;
        uint32_t u;
    } b;
    b.f = x + 12582912.0f;
    return b.u;
}

RNG_FN float dynamic_saturate(float x)
{
#ifdef __CUDA_ARCH__
    return __saturatef(x); /* costs nothing behind a sum */
#else
    return x < 0 ? 0 : x > 1 ? 1 : x;
#endif
}

/* The decade of x by its binary logarithm, and the guess by the decade's line, both rounded as above; x 0 or tiny: decade 0.
 * The nearest of n magnitudes, the lower of two, is the guess, or one more where x lies above the next edge. */
RNG_FN uint32_t dynamic_decade(float log2_of_x)
{
    const float per_decade = 0.30102999566f / DYNAMIC_DECADES;
    return dynamic_round(dynamic_saturate(log2_of_x * per_decade + 1.0f) * DYNAMIC_DECADES - 0.5f);
}
RNG_FN uint32_t dynamic_guess(float x, DynamicLine l, int n)
{
    float guess = x * l.slope + l.shift, most = (float)(n - 1);
    return dynamic_round(guess < most ? guess : most);
}
