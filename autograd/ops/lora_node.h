/* What the ops of a base with adapters beside it (linear_lora.c, linear_dora.c) have in common: the layout of their nodes, and
 * which values an adapter drops. */
#pragma once

#include "autograd/ops.h"

/* Of in[]; the second slice's a, b follow. */
enum { LORA_X, LORA_W, LORA_BIAS, LORA_RESIDUAL, LORA_A0, LORA_B0 };
/* Of saved[]; a, b, u of each slice follow. */
enum { LORA_SAVE_X, LORA_SAVE_W, LORA_SAVE_BIAS, LORA_SAVE_RESIDUAL, LORA_SAVE_SLICE };

/* Node.args. */
typedef struct LoraArgs {
    LoraSlice slices[LORA_MAX_SLICES];
    int n;
    const Tensor *samples, *positions;
} LoraArgs;

/* In the pass's arena; arguments as op_linear_lora's. */
LoraArgs *lora_args_new(Ctx *c, const LoraSlice *lora, int n, const Tensor *samples,
                        const Tensor *positions);
/* The mask of slice s: a function of counters, so that backward draws it again. */
DropoutArgs lora_dropout(const Ctx *c, const LoraArgs *args, const LoraSlice *s);
/* tape_record with all that backward and remake need, u = drop(x) a^T of each slice included. */
void lora_record(Ctx *c, const Op *op, int n_out, Tensor *const *out, Tensor *x, Tensor *w,
                 Tensor *bias, Tensor *residual, LoraArgs *args, Tensor *const *u);
