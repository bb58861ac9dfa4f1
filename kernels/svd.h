/* Principal singular vectors of matrices in host memory: arithmetic of initialisation, not of steps, so it stands beside the
 * table of kernels.  Products run in the pool in parts that the shapes decide, so results do not depend on its threads. */
#pragma once

#include "base/parallel.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct SvdOpts {
    int64_t rank; /* r, at most min(m, n) */
    int iterations; /* of the randomised way (Halko et al. 2011, algorithm 4.4); 0: the whole decomposition */
    uint64_t key; /* of its random start */
} SvdOpts;

/* The r largest singular values s (r) of w (m,n), descending, and their vectors u (m,r) and vt (r,n); all dense.  False: the library
 * found none, since w holds NaN or infinity. */
bool svd_principal(Pool *pool, float *u, float *s, float *vt, const float *w, int64_t m, int64_t n,
                   const SvdOpts *opts);

/* w (m,n) -= scale * b (m,r) a (r,n) */
void svd_subtract(Pool *pool, float *w, const float *b, const float *a, int64_t m, int64_t n,
                  int64_t r, float scale);
