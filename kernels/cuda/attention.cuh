/* What the attention kernels of our own share. */
#pragma once

#include <math.h>
#include <stdint.h>

/* The document of a token: the last one that starts at or before it (empty ones end before). */
__device__ static inline int doc_of(const int32_t *cu, int n_docs, int token)
{
    int lo = 0, hi = n_docs - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (cu[mid] <= token)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* exp(x - largest), 0 where there is nothing: no keys in x, or none at all */
__device__ static inline float weight_of(float x, float largest)
{
    return x == -INFINITY ? 0.0f : __expf(x - largest);
}
