/* Attention of new tokens to a cache of keys and values: inference only. */
#include "autograd/ops.h"

#include <math.h>

static const Op attention_cached_op = {.name = "attention_cached"};

Tensor *op_attention_cached(Ctx *c, Tensor *q, Tensor *k, Tensor *v, int n_heads, int n_kv_heads,
                            Tensor *cache_k, Tensor *cache_v, const Docs *docs, const Tensor *past,
                            int64_t max_past, int64_t pad)
{
    op_begin(c, &attention_cached_op);
    ASSERT(!c->tape, "attention_cached has no backward pass");
    Tensor *o = tensor_new_padded(c, tensor_rows(q), tensor_cols(q), pad);
    float scale = (float)(1.0 / sqrt((double)tensor_cols(q) / n_heads));
    c->dev->k->attention_cached(c->dev, o, cache_k, cache_v, q, k, v, n_heads, n_kv_heads, docs,
                                past, max_past, scale);
    tape_record(c, &attention_cached_op, 1, (Tensor *[]){o}, 0, NULL);
    return o;
}
