/* Tables of shapes on which kernels are tested, against references here and against each other where there
 * are two backends. */
#pragma once

#include "tests/support/bed.h"

/* pad: columns beyond cols in the pitch of every matrix that may have one. */
typedef struct MatmulCase {
    const char *name;
    int64_t m, n, k;
    bool trans_a, trans_b;
    float alpha, beta;
    int64_t pad;
} MatmulCase;
extern const MatmulCase matmul_cases[];
extern const int n_matmul_cases;

typedef struct RowsCase {
    const char *name;
    int64_t rows, cols, pad;
} RowsCase;
extern const RowsCase rows_cases[];
extern const int n_rows_cases;

typedef struct HeadsCase {
    const char *name;
    int n_heads, n_kv_heads, head_dim;
    int n_docs;
    int32_t lens[BED_MAX_DOCS];
    int64_t pad;
} HeadsCase;
extern const HeadsCase heads_cases[];
extern const int n_heads_cases;
