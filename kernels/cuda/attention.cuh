/* What the attention kernels of our own share. */
#pragma once

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
