/* One function an op: computes now, and records its rule when there is a tape.  Shapes in parentheses,
 * letters as in kernels/kernels.h.  w, bias, norms: parameters (&param->t) or any tensor. */
#pragma once

#include "autograd/tape.h"

/* ids (N) i32, w (V,C) -> (N,C) */
Tensor *op_embedding(Ctx *c, const Tensor *ids, Tensor *w);
/* Of a frozen w that is not on the device: rows (N,C) of the compute dtype were looked up already, and lie in host memory that
 * stays as it is until the device has copied them. */
Tensor *op_embedding_staged(Ctx *c, const void *rows, int64_t n, int64_t cols);

/* `pad`, here and below: columns beyond the result's in its pitch, room for what the next product's adapters write
 * beside it (op_linear_augmented). */

/* x (N,C), w (C) -> (N,C) */
Tensor *op_rmsnorm(Ctx *c, Tensor *x, Tensor *w, float eps, int64_t pad);

/* x (N,I), w (O,I), bias (O) or NULL, residual (N,O) or NULL -> residual + x w^T + bias  (N,O) */
Tensor *op_linear(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual);

/* The same of rmsnorm(x) by norm (I), for products straight from codes (operand_is_direct): a kernel may do both.  No tape. */
Tensor *op_linear_normed(Ctx *c, Tensor *x, Tensor *norm, float eps, Tensor *w, Tensor *bias);

/* x (M,C), w (V,C) -> x w^T (M,V) in f32 whatever the device computes in: who draws from it compares neighbours.  No
 * tape. */
Tensor *op_logits(Ctx *c, Tensor *x, Tensor *w);

/* For the ops that do more beside it.  A result of at least `pad` columns beyond its own, and of the residual's pitch where
 * that is larger: then its gradient is handed on to the residual as it is. */
Tensor *linear_output(Ctx *c, const Tensor *x, const Tensor *w, const Tensor *residual,
                      int64_t pad);
/* What it computes, into y. */
void linear_forward(Ctx *c, Tensor *y, const Tensor *x, Tensor *w, const Tensor *bias,
                    const Tensor *residual);

/* dx (N,I) = beta * dx + dy (N,O) w; w may be quantised. */
void linear_dx(Ctx *c, Tensor *dx, float beta, const Tensor *dy, Tensor *w);

/* An adapter on rows [row0, row0 + rows of b) of the base matrix: y[:, row0...] += scale * drop(x) a^T b^T.
 * a (R,I), b (rows,R).  `site` numbers the target module in the model: each has its own dropout mask, as in
 * PEFT. */
typedef struct LoraSlice {
    Tensor *a, *b;
    int64_t row0;
    float scale;   /* alpha / R, or alpha / sqrt(R) for rsLoRA */
    float dropout; /* 0 in evaluation */
    uint64_t site;
} LoraSlice;

enum { LORA_MAX_SLICES = 3 };

/* op_linear with 1..LORA_MAX_SLICES adapters.  samples (N) i64 and positions (N) i32 key the dropout; they may be NULL
 * when no slice drops.  Two forms under one test may compute it; see docs/numerics.md. */
Tensor *op_linear_lora(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                       const LoraSlice *lora, int n_lora, const Tensor *samples,
                       const Tensor *positions);

/* DoRA's half of a linear op, behind one of the forms without bias and residual: of z = x (W + s B A)^T (N,O) the columns
 * [row0, row0 + rows of m) become z * m / norm; m (rows) is trained, norm (rows) f32 are the row norms of W + s B A
 * (dora_norms), which no gradient goes through.  Slices ascend.  bias (O) or NULL and residual (N,O) or NULL are added -> (N,O) */
typedef struct DoraSlice {
    Tensor *m, *norm;
    int64_t row0;
} DoraSlice;
Tensor *op_dora(Ctx *c, Tensor *z, Tensor *bias, Tensor *residual, const DoraSlice *slices,
                int n_slices);
/* For adapters that drop their input, of which only the dropped input's product is scaled (peft tuners/lora/dora.py): with
 * x_i = drop(x) of slice i
 *   z_i = x_i (W + s B A)^T,  rest_i = residual + bias + (x - x_i) W^T,  elsewhere z = 0, rest = residual + bias + x W^T
 * and op_dora(z, NULL, rest) is the result.  z, rest (N,O).  w is frozen; samples and positions as op_linear_lora's. */
void op_linear_dora(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                    const LoraSlice *lora, int n_lora, const Tensor *samples,
                    const Tensor *positions, Tensor **z, Tensor **rest);
/* Row norms (rows) f32 of an adapter's slice: `norm` of W + s B A, `base` of W. */
typedef struct DoraNorms {
    Tensor *norm, *base;
    bool measure_base; /* base is not known yet */
} DoraNorms;
/* Writes norms[i].norm for adapter i, and base where it is to be measured. */
void dora_norms(Ctx *c, Tensor *w, const LoraSlice *lora, const DoraNorms *norms, int n);

/* The same mathematics in one product each way: w lies in a larger matrix M = [[W, sB], [A, .]] of pitch >= I + R, R the
 * sum of the ranks, with R rows of A behind W's (zero where a slice meets another's adapter).  u = x a^T is written
 * behind x's columns, du behind dy's:
 *
 *   y = [x u] [W sB]^T,   [du] = dy sB,   dx = [dy du] [W; A]
 *
 * so x must have a pitch >= I + R; y gets one of O + R or more.  `version` counts the contents of A and B, from 1: M's
 * room is written when it holds another (Param.room_version).  No dropout; w frozen.  Measured on an H200 at rank 16: 4.5 % over the base products instead of 14 %. */
Tensor *op_linear_augmented(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                            const LoraSlice *lora, int n_lora, uint64_t version);
/* Columns that R ranks need behind a matrix: R rounded up so that rows stay aligned. */
int64_t lora_pad(int64_t total_rank);

/* qkv (N,(H+2K)D) -> q (N,H*D), k (N,K*D), v (N,K*D); normed per head when q_norm, k_norm (D) are given;
 * rotated by positions (N) i32 in rope (P,D) f32. */
void op_split_rope(Ctx *c, Tensor *qkv, const Tensor *positions, const Tensor *rope, Tensor *q_norm,
                   Tensor *k_norm, int n_heads, int n_kv_heads, float eps, Tensor **q, Tensor **k,
                   Tensor **v);

/* q (N,H*D), k, v (N,K*D) -> (N,H*D); causal inside each document; scale D^-1/2.  docs lives until backward
 * is done. */
Tensor *op_attention(Ctx *c, Tensor *q, Tensor *k, Tensor *v, int n_heads, int n_kv_heads,
                     const Docs *docs, int64_t pad);

/* Stores k, v in the cache and attends to it; no tape. */
Tensor *op_attention_cached(Ctx *c, Tensor *q, Tensor *k, Tensor *v, int n_heads, int n_kv_heads,
                            Tensor *cache_k, Tensor *cache_v, const Docs *docs, const Tensor *past,
                            int64_t max_past, int64_t pad);

/* gate_up (N,2F) -> silu(gate) * up (N,F) */
Tensor *op_swiglu(Ctx *c, Tensor *gate_up, int64_t pad);

/* x (N,C) -> rows of it (M,C); rows (M) i32, ascending, distinct */
Tensor *op_gather_rows(Ctx *c, Tensor *x, const Tensor *rows);

/* Final product and loss in one: h (M,C), w (V,C), targets (M) i32.  Adds to *loss_sum (1) f32 the sum of
 * -log softmax(h w^T)[target].  Goes through M in chunks, so the logits of all rows never exist; with a tape, dh and dw of
 * grad_scale * sum are computed in the forward pass and handed on by the rule (the result's own gradient is not
 * read).  Returns a node-carrying tensor (1): the loss sum of this call, seed of backward.  chunk_rows 0: a default.
 * row_loss (M) f32 or NULL receives each row's loss. */
Tensor *op_linear_xent(Ctx *c, Tensor *h, Tensor *w, const Tensor *targets, float grad_scale,
                       Tensor *loss_sum, Tensor *row_loss, int64_t chunk_rows);
