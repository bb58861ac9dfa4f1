/* FusedLinear: one matrix that holds one to three of a checkpoint's linear modules as row slices, with an
 * optional bias and an optional adapter for each. */
#pragma once

#include "autograd/ops.h"
#include "autograd/param.h"

typedef struct Lora Lora; /* model/lora.h */

typedef struct FusedLinear {
    Param w; /* (rows of all slices, in) */
    Quant
        quant; /* what w.t.quant points at when w is quantised; else parts with a type are in codes in the file (quant.h) */
    Param bias; /* (rows); has_bias */
    bool has_bias;
    int n_slices;
    char *modules[PARAM_MAX_SLICES]; /* "model.layers.0.self_attn.q_proj" */
    int64_t row0[PARAM_MAX_SLICES], rows[PARAM_MAX_SLICES], in;
    uint64_t site;                /* of slice 0; slice i has site + i */
    Lora *lora[PARAM_MAX_SLICES]; /* or NULL; owned by the adapter set */
    bool augmented;               /* w has room for the adapters: op_linear_augmented */
    uint64_t norms_of,
        base_norms_of; /* versions that the adapters' norms were measured of; 0: none */
} FusedLinear;

/* prefix "model.layers.0.self_attn", names "q_proj", ...; params without storage.  `site` numbers the first slice
 * in the model, for dropout. */
void fused_linear_init(FusedLinear *l, const char *prefix, int n, const char *const *names,
                       const int64_t *rows, int64_t in, bool bias, DType dtype, int unit,
                       uint64_t site);
void fused_linear_clear(FusedLinear *l);

struct Batch;
/* After lora[] was set or cleared, before w has a storage: chooses the form that computes it (augmented for a
 * frozen matrix without dropout, separate otherwise) and makes room. */
void fused_linear_choose_form(FusedLinear *l);
/* Columns that the input must have beyond its own in its pitch. */
int64_t fused_linear_pad(const FusedLinear *l);
/* Appends the matrix, the bias and the adapters to a set. */
void fused_linear_params(FusedLinear *l, ParamSet *set);
/* Whether fused_linear_normed can make the product of so many rows. */
bool fused_linear_can_norm(const Ctx *c, const FusedLinear *l, int64_t n_rows);
/* fused_linear of rmsnorm(x) by norm (in), without a residual. */
Tensor *fused_linear_normed(Ctx *c, FusedLinear *l, Tensor *x, Param *norm, float eps);
/* x (N,in), residual (N,out) or NULL -> (N,out), through the adapters of the slices. */
Tensor *fused_linear(Ctx *c, FusedLinear *l, Tensor *x, Tensor *residual,
                     const struct Batch *batch);
