/* One block of the model: its parameters and its forward pass. */
#include "model/llama_block.h"

#include "base/str.h"
#include "model/kv_cache.h"

#include <stdio.h>
#include <stdlib.h>

enum { SITES_PER_BLOCK = 8 }; /* q k v o gate up down, and one to spare */

static void init_vector(Param *p, const char *prefix, const char *what, DType dtype, int64_t n,
                        int unit)
{
    char *name = str_format("%s.%s.weight", prefix, what);
    param_init(p, name, dtype, n, 0, unit);
    free(name);
}

void llama_block_init(LlamaBlock *b, Llama *m, int layer)
{
    const LlamaConfig *cfg = &m->cfg;
    DType dtype = m->dev->compute;
    int unit = 1 + layer;
    int64_t C = cfg->hidden_size, F = cfg->intermediate_size, D = cfg->head_dim;
    int64_t q = cfg->n_heads * D, kv = cfg->n_kv_heads * D;
    *b = (LlamaBlock){.layer = layer, .model = m};
    snprintf(b->name, sizeof b->name, "block %d", layer);

    char *prefix = str_format("model.layers.%d", layer);
    char *attn = str_format("%s.self_attn", prefix), *mlp = str_format("%s.mlp", prefix);
    uint64_t site = (uint64_t)layer * SITES_PER_BLOCK;
    init_vector(&b->attn_norm, prefix, "input_layernorm", dtype, C, unit);
    fused_linear_init(&b->qkv, attn, 3, (const char *const[]){"q_proj", "k_proj", "v_proj"},
                      (const int64_t[]){q, kv, kv}, C, cfg->attention_bias, dtype, unit, site);
    if (cfg->qk_norm) {
        init_vector(&b->q_norm, attn, "q_norm", dtype, D, unit);
        init_vector(&b->k_norm, attn, "k_norm", dtype, D, unit);
    }
    fused_linear_init(&b->o, attn, 1, (const char *const[]){"o_proj"}, &C, q,
                      cfg->attention_bias && cfg->arch != ARCH_QWEN2, dtype, unit, site + 3);
    init_vector(&b->ffn_norm, prefix, "post_attention_layernorm", dtype, C, unit);
    fused_linear_init(&b->gate_up, mlp, 2, (const char *const[]){"gate_proj", "up_proj"},
                      (const int64_t[]){F, F}, C, cfg->mlp_bias, dtype, unit, site + 4);
    fused_linear_init(&b->down, mlp, 1, (const char *const[]){"down_proj"}, &C, F, cfg->mlp_bias,
                      dtype, unit, site + 6);
    free(prefix);
    free(attn);
    free(mlp);
}

void llama_block_clear(LlamaBlock *b)
{
    param_clear(&b->attn_norm);
    param_clear(&b->ffn_norm);
    if (b->model->cfg.qk_norm) {
        param_clear(&b->q_norm);
        param_clear(&b->k_norm);
    }
    fused_linear_clear(&b->qkv);
    fused_linear_clear(&b->o);
    fused_linear_clear(&b->gate_up);
    fused_linear_clear(&b->down);
}

void llama_block_params(LlamaBlock *b, ParamSet *set)
{
    paramset_add(set, &b->attn_norm);
    fused_linear_params(&b->qkv, set);
    if (b->model->cfg.qk_norm) {
        paramset_add(set, &b->q_norm);
        paramset_add(set, &b->k_norm);
    }
    fused_linear_params(&b->o, set);
    paramset_add(set, &b->ffn_norm);
    fused_linear_params(&b->gate_up, set);
    fused_linear_params(&b->down, set);
}

/* The product of a normed x. */
static Tensor *normed_linear(Ctx *c, LlamaBlock *b, Param *norm, const char *norm_name,
                             FusedLinear *l, const char *name, Tensor *x, const Batch *in)
{
    float eps = b->model->cfg.rms_norm_eps;
    if (fused_linear_can_norm(c, l, tensor_rows(x))) {
        c->module = name;
        return fused_linear_normed(c, l, x, norm, eps);
    }
    c->module = norm_name;
    Tensor *h = op_rmsnorm(c, x, &norm->t, eps, fused_linear_pad(l));
    c->module = name;
    return fused_linear(c, l, h, NULL, in);
}

static Tensor *attention(Ctx *c, LlamaBlock *b, Tensor *x, const Batch *in)
{
    const LlamaConfig *cfg = &b->model->cfg;
    int n_heads = (int)cfg->n_heads, n_kv_heads = (int)cfg->n_kv_heads;
    Tensor *q_norm = cfg->qk_norm ? &b->q_norm.t : NULL;
    Tensor *k_norm = cfg->qk_norm ? &b->k_norm.t : NULL;
    Tensor *q, *k, *v; /* (N,H*D) (N,K*D) (N,K*D), dense; q and k rotated */
    Tensor *qkv = normed_linear(c, b, &b->attn_norm, "attention norm", &b->qkv, "qkv", x, in);
    c->module = "attention";
    op_split_rope(c, qkv, in->positions, &b->model->rope, q_norm, k_norm, n_heads, n_kv_heads,
                  cfg->rms_norm_eps, &q, &k, &v);
    int64_t pad = fused_linear_pad(&b->o);
    if (!in->kv) return op_attention(c, q, k, v, n_heads, n_kv_heads, &in->docs, pad);
    KvCache *kv = in->kv;
    return op_attention_cached(c, q, k, v, n_heads, n_kv_heads, &kv->k[b->layer], &kv->v[b->layer],
                               &in->docs, &kv->past, kv->max_past, pad);
}

Tensor *llama_block_forward(Ctx *c, void *self, Tensor *x, const void *batch)
{
    LlamaBlock *b = self;
    const Batch *in = batch;

    Tensor *a = attention(c, b, x, in);
    c->module = "o";
    x = fused_linear(c, &b->o, a, x, in); /* the residual is the product's beta */

    Tensor *gu = normed_linear(c, b, &b->ffn_norm, "ffn norm", &b->gate_up, "gate_up", x, in);
    c->module = "swiglu";
    Tensor *g = op_swiglu(c, gu, fused_linear_pad(&b->down)); /* (N,2F) -> (N,F) */
    c->module = "down";
    segment_last(c);
    return fused_linear(c, &b->down, g, x, in);
}
