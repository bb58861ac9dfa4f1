/* An adapter merged into its base: W' = W + scale * B A, accumulated in fp32 and rounded once to the base's dtype.
 * Works tensor by tensor on mapped files; no model is loaded. */
#pragma once

#include "base/log.h"
#include "base/parallel.h"
#include "model/quant.h"

/* Quantising base and merged model (again), to be measured: how, and an f32 device to do it on. */
typedef struct MergeAgain {
    QuantOpts opts; /* a type that weights can be encoded as */
    Device *dev;
} MergeAgain;

/* With Q the values that the codes decode to, C = Q(W') - Q(W) is what is left of delta when both models are quantised,
 * over the matrices of the blocks, and C = survived * delta + a rest that is orthogonal to it. */
typedef struct MergeLoss {
    double
        survived; /* <C, delta> / <delta, delta>: near 1 what was learned is in the codes, near 0 they are the base's */
    double
        noise; /* |rest| / |delta|: codes that went elsewhere, which no direction of delta accounts for */
} MergeLoss;

/* A tensor that the adapter changed. */
typedef struct MergedTensor {
    char *name;
    int64_t rank;      /* 0: replaced whole (modules_to_save) */
    double delta_norm; /* Frobenius norm of scale * B A, or of what replaced minus what was there */
    double
        kept; /* share of the delta that survived rounding: <W' - W, delta> / <delta, delta>; 1 for a delta of 0 */
} MergedTensor;

typedef struct MergeReport {
    MergedTensor *items; /* as written: by file, larger dtypes first, then by name */
    int n;
    int n_tensors; /* of the base */
    int n_merged, n_replaced;
    bool untied;       /* lm_head.weight was written beside the embedding that it was tied to */
    double delta_norm; /* of all changes together */
    double kept;
    MergeLoss again; /* where it was asked for */
} MergeReport;

/* Writes the folder `out`: the base's shards with the adapter in them, config.json changed only where a tied pair came
 * apart, every other file of the base byte for byte.  Written beside and renamed; `out` may exist if it is empty.
 * An adapter that does not fit is E_INPUT naming tensors.  again: NULL: not measured; else some rows of each matrix are encoded
 * again.  pool may be NULL. */
Status merge_adapter(const char *base, const char *adapter, const char *out,
                     const MergeAgain *again, Pool *pool, Log *log, MergeReport *report,
                     Err *err) MUST_CHECK;
void merge_report_clear(MergeReport *r);
