/* One pre-norm block: x += attention(norm(x)); x += swiglu(norm(x)).  Only llama.c calls these. */
#pragma once

#include "model/llama.h"

void llama_block_init(LlamaBlock *b, Llama *m, int layer);
void llama_block_clear(LlamaBlock *b);
/* Appends the block's parameters in the order of the forward pass. */
void llama_block_params(LlamaBlock *b, ParamSet *set);
/* A SegmentFn: self is the block, batch a Batch; x (N,C) -> (N,C). */
Tensor *llama_block_forward(Ctx *c, void *self, Tensor *x, const void *batch);
