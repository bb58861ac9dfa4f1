/* Which modules carry adapters and which are trained whole, after PEFT's rules (tuners_utils.py,
 * check_target_module_exists; utils/other.py, get_pattern_key and _set_trainable). */
#include "model/lora_plan.h"

#include "base/str.h"
#include "model/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_RANK = 1 << 15 };

/* The first pattern that matches the end of the path at a dot; -1: none. */
static Status pattern_find(const LoraPattern *list, int n, const char *module, int *out, Err *err)
{
    *out = -1;
    for (int i = 0; i < n; i++) {
        char *text = str_format("(?:.*\\.)?(?:%s)", list[i].key);
        Pattern *p = NULL;
        Status s = pattern_compile(&p, text, err);
        free(text);
        TRY(s);
        bool match = pattern_matches(p, module);
        pattern_free(p);
        if (!match) continue;
        *out = i;
        return OK;
    }
    return OK;
}

static Status pattern_value(const LoraPattern *list, int n, const char *key, const char *module,
                            double def, double *out, Err *err)
{
    int i;
    TRY(err_about(err, pattern_find(list, n, module, &i, err), key));
    *out = i < 0 ? def : list[i].value;
    return OK;
}

Status lora_module_size(const LoraOpts *o, const char *module, int64_t *rank, double *alpha,
                        Err *err)
{
    const double rank_else = (double)o->rank, alpha_else = o->alpha;
    double r;
    TRY(pattern_value(o->ranks, o->n_ranks, "rank_pattern", module, rank_else, &r, err));
    TRY(pattern_value(o->alphas, o->n_alphas, "alpha_pattern", module, alpha_else, alpha, err));
    Status s = OK;
    if (!(r >= 1 && r <= MAX_RANK && r == floor(r))) {
        s = err_set(err, E_INPUT, "LoRA rank of %s: must be an integer from 1 to %d, found %g",
                    module, (int)MAX_RANK, r);
        return err_about(err, s, r == rank_else ? "rank" : "rank_pattern");
    }
    if (!isfinite(*alpha)) {
        s = err_set(err, E_INPUT, "LoRA alpha of %s: must be finite", module);
        return err_about(err, s, isfinite(alpha_else) ? "alpha_pattern" : "alpha");
    }
    *rank = (int64_t)r;
    return OK;
}

float lora_scale(const LoraOpts *o, int64_t rank, double alpha)
{
    return (float)(alpha / (o->rslora ? sqrt((double)rank) : (double)rank));
}

/* --- matching ---------------------------------------------------------------------------------------- */

/* The path is the entry or ends with it at a dot. */
static bool names_module(const char *entry, const char *module)
{
    size_t n = strlen(module), k = strlen(entry);
    if (k == 0 || k > n || strcmp(module + n - k, entry) != 0) return false;
    return k == n || module[n - k - 1] == '.';
}

/* One component of the path, or several in a row, is the entry. */
static bool names_component(const char *entry, const char *module)
{
    size_t k = strlen(entry);
    for (const char *at = module; k && (at = strstr(at, entry)) != NULL; at++)
        if ((at == module || at[-1] == '.') && (at[k] == 0 || at[k] == '.')) return true;
    return false;
}

typedef struct Matcher {
    const LoraOpts *opts;
    bool all_linear;
    Pattern *target, *exclude;
    bool *target_used, *save_used, *layer_used; /* by index of the option's list */
} Matcher;

static Status matcher_init(Matcher *k, const LoraOpts *o, Err *err)
{
    *k = (Matcher){.opts = o};
    k->all_linear = o->n_targets == 1 && strcasecmp(o->targets[0], "all-linear") == 0;
    if (o->target_pattern)
        TRY(err_about(err, pattern_compile(&k->target, o->target_pattern, err), "targets"));
    if (o->exclude_pattern)
        TRY(err_about(err, pattern_compile(&k->exclude, o->exclude_pattern, err), "exclude"));
    k->target_used = xcalloc((size_t)o->n_targets, sizeof(bool));
    k->save_used = xcalloc((size_t)o->n_save_modules, sizeof(bool));
    k->layer_used = xcalloc((size_t)o->n_layers, sizeof(bool));
    return OK;
}

static void matcher_clear(Matcher *k)
{
    pattern_free(k->target);
    pattern_free(k->exclude);
    free(k->target_used);
    free(k->save_used);
    free(k->layer_used);
}

static bool is_saved(Matcher *k, const char *module)
{
    bool saved = false;
    for (int i = 0; i < k->opts->n_save_modules; i++) {
        if (!k->opts->save_modules[i][0] || !str_ends(module, k->opts->save_modules[i])) continue;
        k->save_used[i] = saved = true;
    }
    return saved;
}

static bool is_target(Matcher *k, const LoraModule *x)
{
    const LoraOpts *o = k->opts;
    const char *module = x->name;
    if (x->in == 0) return false; /* a norm */
    if (k->exclude && pattern_matches(k->exclude, module)) return false;
    for (int i = 0; i < o->n_exclude; i++)
        if (names_module(o->exclude[i], module)) return false;
    for (int i = 0; i < o->n_save_modules; i++)
        if (names_component(o->save_modules[i], module)) return false;

    bool found = k->all_linear && x->is_linear;
    if (k->target) found = pattern_matches(k->target, module);
    for (int i = 0; i < o->n_targets; i++) {
        if (k->all_linear || !names_module(o->targets[i], module)) continue;
        k->target_used[i] = found = true;
    }
    if (!found || o->n_layers == 0) return found;
    bool in_layer = false;
    for (int i = 0; i < o->n_layers; i++) {
        if (o->layers[i] != x->layer) continue;
        k->layer_used[i] = in_layer = true;
    }
    return in_layer;
}

/* --- the model's modules -------------------------------------------------------------------------------- */

static void add_module(LoraPlan *p, int64_t layer, const char *name, bool is_linear, int64_t rows,
                       int64_t in)
{
    p->items = xrealloc(p->items, (size_t)(p->n + 1) * sizeof *p->items);
    char *full =
        layer < 0 ? xstrdup(name) : str_format("model.layers.%lld.%s", (long long)layer, name);
    p->items[p->n++] =
        (LoraModule){.name = full, .layer = layer, .is_linear = is_linear, .rows = rows, .in = in};
}

static void list_modules(LoraPlan *p, const LlamaConfig *c)
{
    int64_t C = c->hidden_size, F = c->intermediate_size, D = c->head_dim;
    int64_t q = c->n_heads * D, kv = c->n_kv_heads * D;
    add_module(p, -1, "model.embed_tokens", false, c->vocab_size, C);
    for (int64_t i = 0; i < c->n_layers; i++) {
        add_module(p, i, "input_layernorm", false, C, 0);
        add_module(p, i, "self_attn.q_proj", true, q, C);
        add_module(p, i, "self_attn.k_proj", true, kv, C);
        add_module(p, i, "self_attn.v_proj", true, kv, C);
        if (c->qk_norm) add_module(p, i, "self_attn.q_norm", false, D, 0);
        if (c->qk_norm) add_module(p, i, "self_attn.k_norm", false, D, 0);
        add_module(p, i, "self_attn.o_proj", true, C, q);
        add_module(p, i, "post_attention_layernorm", false, C, 0);
        add_module(p, i, "mlp.gate_proj", true, F, C);
        add_module(p, i, "mlp.up_proj", true, F, C);
        add_module(p, i, "mlp.down_proj", true, C, F);
    }
    add_module(p, -1, "model.norm", false, C, 0);
    add_module(p, -1, "lm_head", false, c->vocab_size, C);
}

static Status assign(LoraModule *x, Matcher *k, Err *err)
{
    bool whole = is_saved(k, x->name), target = is_target(k, x);
    if (whole && target) {
        Status s = err_set(err, E_INPUT,
                           "%s: would carry an adapter and be trained whole; name it in one of the "
                           "two lists",
                           x->name);
        return err_about(err, s, "save_modules");
    }
    if (whole) x->role = ROLE_WHOLE;
    if (!target) return OK;
    x->role = ROLE_ADAPTER;
    return lora_module_size(k->opts, x->name, &x->rank, &x->alpha, err);
}

/* Each is the first that matches some adapter. */
static Status check_patterns(const LoraPlan *p, const LoraPattern *list, int n, Err *err)
{
    bool *used = xcalloc((size_t)n + 1, sizeof *used);
    Status s = OK;
    for (int k = 0, i; k < p->n && s == OK; k++) {
        if (p->items[k].role != ROLE_ADAPTER) continue;
        s = pattern_find(list, n, p->items[k].name, &i, err);
        if (s == OK && i >= 0) used[i] = true;
    }
    for (int i = 0; i < n && s == OK; i++)
        if (!used[i])
            s = err_set(err, E_INPUT,
                        "'%s' matches no adapter's module, or only such as an earlier pattern "
                        "matches",
                        list[i].key);
    free(used);
    return s;
}

static Status check_targets(const Matcher *k, Err *err)
{
    const LoraOpts *o = k->opts;
    for (int i = 0; i < o->n_targets; i++)
        for (int j = 0; j < o->n_save_modules; j++)
            if (str_eq(o->targets[i], o->save_modules[j]))
                return err_set(err, E_INPUT,
                               "'%s' is one of save_modules, too; train it whole, or give it an "
                               "adapter",
                               o->targets[i]);
    for (int i = 0; i < o->n_targets; i++)
        if (!k->all_linear && !k->target_used[i])
            return err_set(err, E_INPUT,
                           "LoRA target '%s' matches no module; there are q_proj, k_proj, v_proj, "
                           "o_proj, gate_proj, up_proj and down_proj",
                           o->targets[i]);
    return OK;
}

static Status check_layers(const Matcher *k, const LlamaConfig *cfg, Err *err)
{
    const LoraOpts *o = k->opts;
    for (int i = 0; i < o->n_layers; i++)
        if (!k->layer_used[i])
            return err_set(err, E_INPUT, "LoRA layer %lld: %s", (long long)o->layers[i],
                           o->layers[i] < 0 || o->layers[i] >= cfg->n_layers
                               ? "the model has none of this number"
                               : "holds no target");
    return OK;
}

static Status check_saved(const Matcher *k, Err *err)
{
    for (int i = 0; i < k->opts->n_save_modules; i++)
        if (!k->save_used[i])
            return err_set(err, E_INPUT,
                           "'%s' matches no module that could be trained whole; there are "
                           "embed_tokens, lm_head, norm, input_layernorm, "
                           "post_attention_layernorm and the projections",
                           k->opts->save_modules[i]);
    return OK;
}

static Status check_some(const LoraPlan *p, Err *err)
{
    for (int i = 0; i < p->n; i++)
        if (p->items[i].role == ROLE_ADAPTER) return OK;
    return err_set(err, E_INPUT, "LoRA targets match no module of the model");
}

static Status check_used(const LoraPlan *p, const Matcher *k, const LlamaConfig *cfg, Err *err)
{
    const LoraOpts *o = k->opts;
    if (!o->lenient) {
        TRY(err_about(err, check_targets(k, err), "targets"));
        TRY(err_about(err, check_layers(k, cfg, err), "layers"));
    }
    TRY(err_about(err, check_saved(k, err), "save_modules"));
    if (!o->lenient) {
        TRY(err_about(err, check_patterns(p, o->ranks, o->n_ranks, err), "rank_pattern"));
        TRY(err_about(err, check_patterns(p, o->alphas, o->n_alphas, err), "alpha_pattern"));
    }
    if (check_some(p, err) == OK) return OK;
    if (check_layers(k, cfg, err) != OK) return err_about(err, E_INPUT, "layers");
    return err_about(err, check_some(p, err), "targets");
}

Status lora_plan(LoraPlan *out, const LlamaConfig *cfg, const LoraOpts *opts, Err *err)
{
    LoraPlan p = {0};
    list_modules(&p, cfg);
    Matcher k;
    Status s = matcher_init(&k, opts, err);
    for (int i = 0; i < p.n && s == OK; i++)
        s = assign(&p.items[i], &k, err);
    if (s == OK) s = check_used(&p, &k, cfg, err);
    matcher_clear(&k);
    if (s == OK)
        *out = p;
    else
        lora_plan_clear(&p);
    return s;
}

void lora_plan_clear(LoraPlan *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->items[i].name);
    free(p->items);
    *p = (LoraPlan){0};
}

const LoraModule *lora_plan_find(const LoraPlan *p, const char *module)
{
    for (int i = 0; i < p->n; i++)
        if (str_eq(p->items[i].name, module)) return &p->items[i];
    panic("%s is no module of the model", module);
}
