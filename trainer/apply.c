/* The counterpart of torchtitan's parallelize.py: walks the model's segments and parameters. */
#include "trainer/apply.h"

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

void apply_full(Llama *m)
{
    for (int i = 0; i < m->params.n; i++)
        param_set_trained(m->params.items[i], true);
    llama_collect_params(m);
}
