/* What is in a file of weights, and where two of them part: numbers for `lorac inspect`, which prints them. */
#pragma once

#include "base/parallel.h"
#include "tensor/safetensors.h"

/* What a path holds.  A trace is a folder as autograd/trace.h writes it. */
typedef enum InspectKind {
    INSPECT_FILE,
    INSPECT_MODEL,
    INSPECT_ADAPTER,
    INSPECT_TRACE
} InspectKind;

typedef struct TensorInfo {
    char *name;
    SafeDType dtype;
    int n_dims;
    int64_t *shape; /* n_dims */
    int64_t numel;
    size_t bytes;
    bool has_numbers;      /* below; types of less than 8 bits and complex ones have none */
    double norm, min, max; /* of the finite elements: Frobenius norm; 0 when there is none */
    int64_t n_nan, n_inf;
} TensorInfo;

typedef struct Inspection {
    InspectKind kind;
    TensorInfo *items; /* numbers in names counted as numbers: layers.2 before layers.10 */
    int n;
    int64_t numel, n_nan, n_inf;
    uint64_t bytes;
    int64_t numel_of[ST_N]; /* by dtype */
} Inspection;

/* path: a safetensors file, an index, a model folder, an adapter folder or a trace.  pool may be NULL. */
Status inspect_weights(Inspection *out, const char *path, Pool *pool, Err *err) MUST_CHECK;
void inspection_clear(Inspection *r);
/* E_INPUT with file and name of the first tensor below path that holds NaN or infinity. */
Status inspect_finite(const char *path, Pool *pool, Err *err) MUST_CHECK;
Status inspect_finite_tensor(const SafeTensor *tensor, Pool *pool, Err *err) MUST_CHECK;

typedef enum DiffKind { DIFF_NONE, DIFF_VALUES, DIFF_SHAPE, DIFF_ONLY_A, DIFF_ONLY_B } DiffKind;

typedef struct TensorDiff {
    char *name;
    DiffKind kind;
    bool other_dtype; /* of equal shape and another dtype: compared as numbers */
    double max_abs;   /* largest |a - b|; infinite where one is NaN and the other not */
    double max_rel;   /* that by the largest finite |b| */
    int64_t at;       /* the element of max_abs */
    double value_a, value_b;
    int64_t n_different; /* elements */
} TensorDiff;

typedef struct DiffReport {
    TensorDiff *items; /* as in Inspection; of traces in the order in which they ran */
    int n;
    int n_different; /* tensors beyond the tolerance, or in one only */
    int first;       /* the first of them, -1: none */
} DiffReport;

/* Tensors of the same name in two paths of any kind; different when max_rel > tolerance (0: any difference). */
Status inspect_diff(DiffReport *out, const char *a, const char *b, double tolerance, Pool *pool,
                    Err *err) MUST_CHECK;
void diff_report_clear(DiffReport *r);
