/* The same tensors on the CPU in f32 and on a GPU in bf16, and whether kernels make the same of them.  Values are rounded to bf16
 * first, so that only the kernels' own rounding remains. */
#pragma once

#include "kernels/kernels.h"

typedef struct Pair { /* the same tensor on both devices */
    Tensor cpu, gpu;
} Pair;

typedef struct Pairs {
    Device cpu, gpu;
    Pair *made[64];
    int n_made, n_failed;
    uint64_t key;
    bool deterministic;
} Pairs;

/* False, said aloud, without a GPU; dies where $LORAC_TEST_BACKEND asks for one. */
bool pairs_open(Pairs *b, bool deterministic);
void pairs_drop(Pairs *b); /* all that were made */
void pairs_close(Pairs *b);

/* Owned by b until pairs_drop.  gpu, cpu: dtypes; pad: elements by which rows are apart beyond their width. */
Pair *pair_make(Pairs *b, DType gpu, DType cpu, int n_dims, const int64_t *shape, int64_t pad);
/* Normal draws, rounded to bf16 where the GPU's side is.  Returns p. */
Pair *pair_fill(Pairs *b, Pair *p, double sigma, double mean);
Pair *pair_matrix(Pairs *b, int64_t rows, int64_t cols, int64_t pad);
/* A matrix whose first element lies `shift` elements behind an aligned address. */
Pair *pair_shifted(Pairs *b, int64_t rows, int64_t cols, int64_t pad, int64_t shift);
Pair *pair_vector(Pairs *b, int64_t n, DType gpu);
Pair *pair_ints(Pairs *b, const int32_t *v, int64_t n);
Pair *pair_zeros(Pairs *b, DType dtype, int64_t n);

/* Relative to the largest value, and in the mean: a wrong element among many right ones must show.  Counts in n_failed. */
void pair_same(Pairs *b, const char *what, const Pair *p, double tolerance);
void pair_same_bytes(Pairs *b, const char *name, const Pair *p);

static const double BF16 = 1.0 / 128; /* a few roundings of 2^-9 */

/* Calls one kernel on both sides. */
#define BOTH(b, kernel, on_cpu, on_gpu)                                                            \
    do {                                                                                           \
        (b)->cpu.k->kernel on_cpu;                                                                 \
        (b)->gpu.k->kernel on_gpu;                                                                 \
    } while (0)
