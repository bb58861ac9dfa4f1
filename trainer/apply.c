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
