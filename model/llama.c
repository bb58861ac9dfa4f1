/* The whole model: its parameters in order, its segments, its forward pass. */
#include "model/llama.h"

#include "base/str.h"
#include "model/llama_block.h"

#include <stdlib.h>

static Tensor *embed_forward(Ctx *c, void *self, Tensor *x, const void *batch)
{
    Llama *m = self;
    (void)x;
    c->module = "embedding";
    if (m->rows) return host_rows_take(c, m->rows, tensor_numel(((const Batch *)batch)->ids));
    return op_embedding(c, ((const Batch *)batch)->ids, &m->embed.t);
}

static Tensor *norm_forward(Ctx *c, void *self, Tensor *x, const void *batch)
{
    Llama *m = self;
    (void)batch;
    c->module = "final norm";
    return op_rmsnorm(c, x, &m->norm.t, m->cfg.rms_norm_eps, 0);
}

static void make_rope(Llama *m, int64_t n_positions)
{
    int64_t shape[2] = {n_positions, m->cfg.head_dim};
    m->rope = tensor_alloc(m->dev, DT_F32, 2, shape, MEM_WEIGHT);
    m->rope.name = "rope";
    float *table = xmalloc((size_t)(shape[0] * shape[1]) * sizeof *table);
    llama_rope_table(&m->cfg, table, n_positions);
    tensor_write(m->dev, &m->rope, table);
    free(table);
}

static int head_unit(const Llama *m)
{
    return 1 + (int)m->cfg.n_layers;
}

void llama_init(Llama *m, const LlamaConfig *cfg, Device *d, int64_t max_positions)
{
    ASSERT(max_positions > 0, "%lld positions", (long long)max_positions);
    *m = (Llama){.cfg = *cfg, .dev = d, .tied = cfg->tie_word_embeddings};
    int64_t V = cfg->vocab_size, C = cfg->hidden_size;
    param_init(&m->embed, "model.embed_tokens.weight", d->compute, V, C, 0);
    m->embed.fp32_states = true;
    param_init(&m->norm, "model.norm.weight", d->compute, C, 0, head_unit(m));
    if (!m->tied) param_init(&m->head, "lm_head.weight", d->compute, V, C, head_unit(m));
    make_rope(m, max_positions);

    size_t n = (size_t)cfg->n_layers;
    m->blocks = xcalloc(n, sizeof *m->blocks);
    m->segments = xcalloc(n, sizeof *m->segments);
    m->embed_segment = (Segment){.fn = embed_forward, .self = m, .name = "embedding"};
    m->norm_segment = (Segment){.fn = norm_forward, .self = m, .name = "norm and head"};
    for (size_t i = 0; i < n; i++) {
        LlamaBlock *b = &m->blocks[i];
        llama_block_init(b, m, (int)i);
        m->segments[i] = (Segment){.fn = llama_block_forward, .self = b, .name = b->name};
    }
    llama_collect_params(m);
}

void llama_clear(Llama *m)
{
    for (int64_t i = 0; i < m->cfg.n_layers; i++)
        llama_block_clear(&m->blocks[i]);
    free(m->blocks);
    free(m->segments);
    host_rows_free(m->rows);
    param_clear(&m->embed);
    param_clear(&m->norm);
    param_clear(&m->head);
    tensor_clear(&m->rope);
    paramset_clear(&m->params);
    *m = (Llama){0};
}

void llama_alloc(Llama *m)
{
    for (int i = 0; i < m->params.n; i++)
        if (!param_is_there(m->params.items[i])) param_alloc(m->dev, m->params.items[i]);
}

void llama_untie(Llama *m)
{
    if (!m->tied) return;
    m->tied = false;
    param_init(&m->head, "lm_head.weight", m->dev->compute, m->cfg.vocab_size, m->cfg.hidden_size,
               head_unit(m));
    if (m->embed.t.storage) {
        param_alloc(m->dev, &m->head);
        m->dev->backend->copy(m->dev, tensor_data(&m->head.t), tensor_data(&m->embed.t),
                              tensor_bytes(&m->embed.t), COPY_ON_DEVICE);
    }
    llama_collect_params(m);
}

const char *llama_needs_embedding(const Llama *m)
{
    if (m->embed.trained) return "the embedding is trained";
    return m->tied ? "the head is the embedding (tie_word_embeddings), which products read" : NULL;
}

void llama_embed_on_host(Llama *m, int threads)
{
    ASSERT(!llama_needs_embedding(m) && !m->rows, "%s", llama_needs_embedding(m));
    param_set_on_host(&m->embed);
    m->rows = host_rows_new(m->dev, &m->embed, threads);
}

void llama_stage(Llama *m, const int32_t *ids, int64_t n)
{
    if (m->rows) host_rows_stage(m->rows, ids, n);
}

Segment *llama_segment(Llama *m, int unit)
{
    if (unit == 0) return &m->embed_segment;
    return unit == head_unit(m) ? &m->norm_segment : &m->segments[unit - 1];
}

void llama_collect_params(Llama *m)
{
    paramset_clear(&m->params);
    paramset_add(&m->params, &m->embed);
    for (int64_t i = 0; i < m->cfg.n_layers; i++)
        llama_block_params(&m->blocks[i], &m->params);
    paramset_add(&m->params, &m->norm);
    if (!m->tied) paramset_add(&m->params, &m->head);

    for (int unit = 0; unit <= head_unit(m); unit++)
        llama_segment(m, unit)->trained = false;
    for (int i = 0; i < m->params.n; i++) {
        const Param *p = m->params.items[i];
        /* the head's product is no part of a segment */
        if (p->trained && p != &m->head) llama_segment(m, p->unit)->trained = true;
    }
}

FusedLinear *llama_linear(Llama *m, int64_t i)
{
    if (i < 0 || i / 4 >= m->cfg.n_layers) return NULL;
    LlamaBlock *b = &m->blocks[i / 4];
    FusedLinear *four[4] = {&b->qkv, &b->o, &b->gate_up, &b->down};
    return four[i % 4];
}

Tensor *llama_forward(Ctx *c, Llama *m, const Batch *batch)
{
    Tensor *x = segment_run(c, &m->embed_segment, NULL, batch);
    for (int64_t i = 0; i <= m->cfg.n_layers; i++) {
        Segment *s = i < m->cfg.n_layers ? &m->segments[i] : &m->norm_segment;
        Tensor *y = segment_run(c, s, x, batch);
        scope_drop(c->scope, x); /* the tape holds what backward needs */
        x = y;
    }
    return x;
}

Tensor *llama_head(Llama *m)
{
    return m->tied ? &m->embed.t : &m->head.t;
}

Tensor *llama_logits(Ctx *c, Llama *m, Tensor *h)
{
    c->module = "head";
    return op_logits(c, h, llama_head(m));
}
