/* Draws of a stream: the i-th draw is made from one Philox block, so any of them can be had alone. */
#include "base/rng.h"

__extension__ typedef unsigned __int128 Wide;

/* The high half of bits * n is below n and as even as 2^64 draws can be. */
uint64_t rng_below(uint64_t key, uint64_t i, uint64_t n)
{
    Rng4 r = philox(key, 0, i);
    return (uint64_t)((Wide)rng_word(r.v[0], r.v[1]) * n >> 64);
}

void rng_permutation(uint64_t key, int64_t *perm, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        perm[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)rng_below(key, (uint64_t)i, (uint64_t)i + 1);
        int64_t t = perm[i];
        perm[i] = perm[j];
        perm[j] = t;
    }
}
