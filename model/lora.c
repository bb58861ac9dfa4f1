/* Adapters on a model: their options, their parameters, where they sit.  Which module carries one is
 * lora_plan.c's to say. */
#include "model/lora.h"

#include "model/lora_plan.h"
#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- options ---------------------------------------------------------------------------------------- */

static void free_strings(char **s, int n)
{
    for (int i = 0; i < n; i++)
        free(s[i]);
    free(s);
}

static void free_patterns(LoraPattern *p, int n)
{
    for (int i = 0; i < n; i++)
        free(p[i].key);
    free(p);
}

void lora_opts_clear(LoraOpts *o)
{
    free_strings(o->targets, o->n_targets);
    free_strings(o->exclude, o->n_exclude);
    free_strings(o->save_modules, o->n_save_modules);
    free_patterns(o->ranks, o->n_ranks);
    free_patterns(o->alphas, o->n_alphas);
    free(o->target_pattern);
    free(o->exclude_pattern);
    free(o->layers);
    *o = (LoraOpts){0};
}

static char **copy_strings(char **from, int n)
{
    char **to = n ? xcalloc((size_t)n, sizeof *to) : NULL;
    for (int i = 0; i < n; i++)
        to[i] = xstrdup(from[i]);
    return to;
}

static LoraPattern *copy_patterns(const LoraPattern *from, int n)
{
    LoraPattern *to = n ? xcalloc((size_t)n, sizeof *to) : NULL;
    for (int i = 0; i < n; i++)
        to[i] = (LoraPattern){xstrdup(from[i].key), from[i].value};
    return to;
}

void lora_opts_copy(LoraOpts *to, const LoraOpts *from)
{
    *to = *from;
    to->targets = copy_strings(from->targets, from->n_targets);
    to->exclude = copy_strings(from->exclude, from->n_exclude);
    to->save_modules = copy_strings(from->save_modules, from->n_save_modules);
    to->ranks = copy_patterns(from->ranks, from->n_ranks);
    to->alphas = copy_patterns(from->alphas, from->n_alphas);
    if (from->target_pattern) to->target_pattern = xstrdup(from->target_pattern);
    if (from->exclude_pattern) to->exclude_pattern = xstrdup(from->exclude_pattern);
    size_t bytes = (size_t)from->n_layers * sizeof *from->layers;
    to->layers = bytes ? memcpy(xmalloc(bytes), from->layers, bytes) : NULL;
}

/* --- attaching --------------------------------------------------------------------------------------- */

static Lora *lora_new(Device *d, const FusedLinear *l, int slice, const LoraOpts *o,
                      const LoraModule *planned)
{
    DType dtype = d->compute;
    Lora *x = xcalloc(1, sizeof *x);
    x->module = xstrdup(l->modules[slice]);
    x->rank = planned->rank;
    x->alpha = planned->alpha;
    x->scale = lora_scale(o, x->rank, x->alpha);
    x->dropout = (float)o->dropout;
    char *a = str_format("%s.lora_A.weight", x->module);
    char *b = str_format("%s.lora_B.weight", x->module);
    param_init(&x->a, a, dtype, x->rank, l->in, l->w.unit);
    param_init(&x->b, b, dtype, l->rows[slice], x->rank, l->w.unit);
    free(a);
    free(b);
    x->linear = (FusedLinear *)(uintptr_t)l;
    x->slice = slice;
    x->has_m = o->dora;
    if (x->has_m) {
        char *m = str_format("%s.lora_magnitude_vector", x->module);
        param_init(&x->m, m, dtype, l->rows[slice], 0, l->w.unit);
        free(m);
        x->m.adapter = true;
        param_set_trained(&x->m, true);
        x->norm = tensor_alloc(d, DT_F32, 1, &l->rows[slice], MEM_ADAPTER);
        x->base_norm = tensor_alloc(d, DT_F32, 1, &l->rows[slice], MEM_ADAPTER);
    }
    if (o->b_lr_ratio > 0) x->b.lr_scale = (float)o->b_lr_ratio;
    x->a.adapter = x->b.adapter = true;
    param_set_trained(&x->a, true);
    param_set_trained(&x->b, true);
    return x;
}

static void lora_free(Lora *x)
{
    param_clear(&x->a);
    param_clear(&x->b);
    if (x->has_m) {
        param_clear(&x->m);
        tensor_clear(&x->norm);
        tensor_clear(&x->base_norm);
    }
    free(x->module);
    free(x);
}

static Status attach_linear(LoraSet *s, Llama *m, FusedLinear *l, const LoraPlan *plan, Err *err)
{
    int n_whole = 0;
    Status status = OK;
    for (int i = 0; i < l->n_slices; i++) {
        const LoraModule *x = lora_plan_find(plan, l->modules[i]);
        n_whole += x->role == ROLE_WHOLE;
        if (x->role != ROLE_ADAPTER) continue;
        l->lora[i] = lora_new(m->dev, l, i, &s->opts, x);
        s->items[s->n++] = l->lora[i];
    }
    if (n_whole > 0 && n_whole < l->n_slices)
        status = err_set(err, E_INPUT,
                         "%s to %s are one matrix in memory; train all of them whole, or give "
                         "them adapters",
                         l->modules[0], l->modules[l->n_slices - 1]);
    else if (n_whole > 0 && l->w.t.quant)
        status =
            err_set(err, E_INPUT, "%s is quantised and cannot be trained whole; give it an adapter",
                    l->modules[0]);
    TRY(err_about(err, status, "save_modules"));
    if (n_whole > 0) {
        param_set_trained(&l->w, true);
        if (l->has_bias) param_set_trained(&l->bias, true);
    }
    fused_linear_choose_form(l);
    return OK;
}

/* Embedding, head and norms, whose Param's name is the module's with ".weight". */
static Status attach_other(Llama *m, const LoraModule *x, Err *err)
{
    if (x->role == ROLE_NONE || x->is_linear) return OK;
    if (x->role == ROLE_ADAPTER) {
        Status s =
            err_set(err, E_INPUT,
                    "%s: adapters on the embedding and the head are not supported here; train it "
                    "whole (save_modules), or merge this adapter into its base first",
                    x->name);
        return err_about(err, s, "targets");
    }
    char *name = str_format("%s.weight", x->name);
    int slice;
    Param *p = paramset_find(&m->params, name, &slice);
    ASSERT(p, "%s is no parameter", name);
    free(name);
    param_set_trained(p, true);
    return OK;
}

static bool is_whole(const LoraPlan *plan, const char *module)
{
    return lora_plan_find(plan, module)->role == ROLE_WHOLE;
}

static Status attach_all(LoraSet *s, Llama *m, const LoraPlan *plan, Err *err)
{
    /* PEFT copies each module that it trains whole, so a tied pair comes apart. */
    if (is_whole(plan, "model.embed_tokens") || is_whole(plan, "lm_head")) llama_untie(m);
    for (int i = 0; i < plan->n; i++)
        TRY(attach_other(m, &plan->items[i], err));
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++)
        TRY(attach_linear(s, m, l, plan, err));
    return OK;
}

Status lora_attach(LoraSet *out, Llama *m, const LoraOpts *opts, Err *err)
{
    LoraSet s = {0};
    lora_opts_copy(&s.opts, opts);
    s.items = xcalloc((size_t)m->cfg.n_layers * 4 * PARAM_MAX_SLICES, sizeof(Lora *));
    for (int i = 0; i < m->params.n; i++)
        param_set_trained(m->params.items[i], false);
    LoraPlan plan = {0};
    Status status = lora_plan(&plan, &m->cfg, &s.opts, err);
    if (status == OK) status = attach_all(&s, m, &plan, err);
    lora_plan_clear(&plan);
    if (status != OK) {
        lora_detach(&s, m);
        return status;
    }
    llama_collect_params(m);
    *out = s;
    return OK;
}

void lora_detach(LoraSet *s, Llama *m)
{
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++) {
        for (int j = 0; j < l->n_slices; j++)
            l->lora[j] = NULL;
        l->augmented = false;
    }
    for (int i = 0; i < m->params.n; i++)
        param_set_trained(m->params.items[i], false);
    llama_collect_params(m);
    for (int i = 0; i < s->n; i++)
        lora_free(s->items[i]);
    free(s->items);
    lora_opts_clear(&s->opts);
    *s = (LoraSet){0};
}

/* The working copies are what the base loses: their product is subtracted as it will be added.  a and b become them. */
void lora_set_principal(Lora *x, Device *d, float *a, float *b)
{
    Param *params[2] = {&x->a, &x->b};
    float *values[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        Param *p = params[i];
        size_t bytes = (size_t)tensor_numel(&p->t) * sizeof(float);
        param_open(p);
        param_write(d, p, 0, values[i]);
        tensor_read_f32(d, &p->t, values[i]);
        param_close(p, true);
        param_changed(p);
        free(p->twin);
        p->twin = memcpy(xmalloc(bytes), values[i], bytes);
        p->twin_beside = i == 1;
    }
    for (int64_t i = 0; i < tensor_numel(&x->b.t); i++)
        x->b.twin[i] = -x->b.twin[i];
}

/* The row norms of W, since B is 0. */
static void init_magnitudes(Device *d, Lora *x)
{
    Param *w = &x->linear->w;
    float *m = xmalloc((size_t)x->linear->rows[x->slice] * sizeof *m);
    param_open(w);
    param_row_norms(d, w, x->slice, m);
    param_close(w, false);
    param_open(&x->m);
    param_write(d, &x->m, 0, m);
    param_close(&x->m, true);
    param_changed(&x->m);
    free(m);
}

void lora_init_weights(LoraSet *s, Device *d, uint64_t seed)
{
    for (int i = 0; i < s->n; i++) {
        Lora *x = s->items[i];
        int64_t in = x->a.t.shape[1];
        param_open(&x->a); /* b lies beside it */
        if (s->opts.gaussian_init)
            weight_draw(d, &x->a, 0, DRAW_NORMAL, 1.0 / (double)x->rank, seed);
        else
            weight_draw(d, &x->a, 0, DRAW_UNIFORM, 1.0 / sqrt((double)in), seed);
        tensor_zero(d, &x->b.t);
        if (x->b.low.storage) tensor_zero(d, &x->b.low);
        param_close(&x->a, true);
        param_changed(&x->a);
        param_changed(&x->b);
        if (x->has_m) init_magnitudes(d, x);
    }
}
