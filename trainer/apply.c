/* The counterpart of torchtitan's parallelize.py: walks the model's segments and parameters. */
#include "trainer/apply.h"

#include "base/str.h"

#include <stdlib.h>

void apply_recompute(Llama *m, const TrainConfig *c, Problems *p)
{
    recompute_apply(m, c->n_recompute_layers == 0 ? c->mix : (RecomputeMix){RECOMPUTE_NONE, 0});
    for (int i = 0; i < c->n_recompute_layers; i++) {
        int64_t layer = c->recompute_layers[i];
        if (layer < m->cfg.n_layers)
            m->segments[layer].recompute = c->mix.level;
        else
            config_problem(c, p, "train.recompute_layers",
                           "there is no layer %lld; the model has %lld", (long long)layer,
                           (long long)m->cfg.n_layers);
    }
}

void apply_embedding(Llama *m, TrainConfig *c, Problems *p)
{
    if (!c->embed_on_host) return;
    const char *needed = llama_needs_embedding(m);
    if (!needed) {
        llama_embed_on_host(m, (int)c->threads);
        return;
    }
    c->embed_on_host = false;
    if (c->embedding == EMBEDDING_HOST)
        config_problem(c, p, "model.embedding",
                       "host is not possible, for %s; set it to device, or leave it out", needed);
}

enum { QKV, O, GATE_UP, DOWN }; /* of llama_linear's four a block */

/* A plain matrix is its own operand and takes no place among the decoded. */
static void expect(Llama *m, Operands *o, int64_t linear)
{
    const Tensor *w = &llama_linear(m, linear)->w.t;
    if (w->quant) operands_expect(o, w);
}

/* Of a block's backward pass.  Its last product is never made again; the attention is with the last level alone, and asks
 * for qkv before it asks for what follows it. */
static void expect_backward(Llama *m, Operands *o, int64_t layer)
{
    static const int kept[] = {DOWN, GATE_UP, O, QKV},
                     made_again[] = {DOWN, O, GATE_UP, GATE_UP, O, QKV, QKV},
                     all[] = {DOWN, QKV, O, GATE_UP, GATE_UP, O, QKV};
    Recompute level = m->segments[layer].recompute;
    const int *order = level == RECOMPUTE_FULL        ? all
                       : level == RECOMPUTE_ATTENTION ? made_again
                                                      : kept;
    int n = level >= RECOMPUTE_ATTENTION ? 7 : 4;
    for (int i = 0; i < n; i++)
        expect(m, o, 4 * layer + order[i]);
}

void apply_operands(Llama *m, Operands *o)
{
    for (int64_t i = 0; i < 4 * m->cfg.n_layers; i++)
        expect(m, o, i);
    operands_expect(o, NULL);
    for (int64_t layer = m->cfg.n_layers - 1; layer >= 0; layer--)
        expect_backward(m, o, layer);
}

void apply_full(Llama *m)
{
    for (int i = 0; i < m->params.n; i++)
        param_set_trained(m->params.items[i], true);
    llama_collect_params(m);
}

/* The head's product follows the last segment, so its unit stays; a tied head reads the embedding's there. */
void apply_shards(Llama *m, ShardSet *s)
{
    int n_blocks = (int)m->cfg.n_layers, n = n_blocks + 2;
    Segment **segments = xcalloc((size_t)n, sizeof(Segment *));
    ShardUse *uses = xcalloc((size_t)n, sizeof *uses);
    for (int i = 0; i < n; i++) {
        segments[i] = llama_segment(m, i);
        uses[i] = (ShardUse){.units = {i}, .n_units = 1, .name = segments[i]->name};
    }
    uses[0].blind = true;
    uses[n - 1].hold = true;
    if (m->tied) uses[n - 1].n_units = 2; /* its second unit is 0 */
    shards_watch(s, segments, uses, n);
    free(segments);
    free(uses);
}
