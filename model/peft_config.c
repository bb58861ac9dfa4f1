/* adapter_config.json, read as PEFT reads it and written so that every PEFT version loads it.  References: peft
 * config.py, tuners/lora/config.py. */
#include "model/peft_config.h"

#include "base/fs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct Reader {
    const Json *root;
    const char *name;
    Err *err;
} Reader;

static Status bad(const Reader *r, const char *key, const char *want, const Json *found)
{
    return err_set(r->err, E_INPUT, "%s: %s: must be %s, found %s", r->name, key, want,
                   json_kind_name(found));
}

/* NULL for an absent key and for null: both mean PEFT's default. */
static const Json *value_of(const Reader *r, const char *key)
{
    const Json *j = json_get(r->root, key);
    return j && json_kind(j) != JK_NULL ? j : NULL;
}

/* What Python takes for false. */
static bool is_falsy(const Json *j)
{
    bool b = false;
    double v = 1;
    size_t n = 1;
    const char *s;
    switch (json_kind(j)) {
    case JK_NULL:
        return true;
    case JK_BOOL:
        return json_bool(j, &b) && !b;
    case JK_INT:
    case JK_REAL:
        return json_number(j, &v) && v == 0;
    case JK_STRING:
        return json_str(j, &s, &n) && n == 0;
    default:
        return json_size(j) == 0;
    }
}

static Status read_bool(const Reader *r, const char *key, bool *out)
{
    const Json *j = value_of(r, key);
    *out = false;
    return !j || json_bool(j, out) ? OK : bad(r, key, "true or false", j);
}

static Status read_number(const Reader *r, const char *key, double def, double min, double *out)
{
    const Json *j = value_of(r, key);
    *out = def;
    if (!j) return OK;
    if (!json_number(j, out)) return bad(r, key, "a number", j);
    if (!(*out >= min && isfinite(*out)))
        return err_set(r->err, E_INPUT, "%s: %s: must be at least %g, found %g", r->name, key, min,
                       *out);
    return OK;
}

static Status read_strings(const Reader *r, const char *key, const Json *list, char ***out, int *n)
{
    size_t count = json_size(list);
    *out = count ? xcalloc(count, sizeof **out) : NULL;
    *n = 0;
    for (size_t i = 0; i < count; i++) {
        const char *s;
        size_t len;
        if (!json_str(json_at(list, i), &s, &len))
            return bad(r, key, "a list of strings", json_at(list, i));
        if (len == 0 || strlen(s) != len)
            return err_set(r->err, E_INPUT, "%s: %s: holds an empty name", r->name, key);
        (*out)[(*n)++] = xstrdup(s);
    }
    return OK;
}

/* --- what changes the mathematics ---------------------------------------------------------------------- */

static Status refuse(const Reader *r, const char *key, const char *why)
{
    const Json *j = json_get(r->root, key);
    StrBuf text = {0};
    json_write(&text, j, 0);
    err_set(r->err, E_INPUT, "%s: %s: %.60s is not supported%s%s", r->name, key, text.data,
            why ? ", " : "", why ? why : "");
    strbuf_clear(&text);
    return E_INPUT;
}

static Status check_kind(const Reader *r)
{
    const char *type;
    const Json *j = value_of(r, "peft_type");
    if (!j) return err_set(r->err, E_INPUT, "%s: peft_type: is missing", r->name);
    if (!json_str(j, &type, NULL)) return bad(r, "peft_type", "a string", j);
    if (!str_eq(type, "LORA")) return refuse(r, "peft_type", "only LORA");
    j = value_of(r, "task_type");
    if (j && !json_str(j, &type, NULL)) return bad(r, "task_type", "a string", j);
    if (j && !str_eq(type, "CAUSAL_LM")) return refuse(r, "task_type", "only CAUSAL_LM");
    return OK;
}

/* Initialisations that only draw A and B leave nothing behind; the others (PiSSA, OLoRA, CorDA, LoftQ) also changed
 * the base that the adapter belongs to. */
static Status check_init(const Reader *r, LoraOpts *o)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    const Json *j = value_of(r, "init_lora_weights");
    const char *how;
    if (!j || json_kind(j) == JK_BOOL) return OK;
    if (!json_str(j, &how, NULL)) return bad(r, "init_lora_weights", "a bool or a string", j);
    o->gaussian_init = strcasecmp(how, "gaussian") == 0;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strcasecmp(how, harmless[i]) == 0) return OK;
    return refuse(r, "init_lora_weights", "the base was changed with it");
}

/* Keys that no plain LoRA has.  Of keys unknown even to us, those that switch something on are refused; PEFT
 * would drop them. */
static Status check_variants(const Reader *r)
{
    static const char *const variants[] = {
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "layer_replication",
        "target_parameters",
        "megatron_config",
        "trainable_token_indices",
        "arrow_config",
        "alora_invocation_tokens",
        "lora_ga_config",
        "velora_config",
        "monteclora_config",
        "kasa_config",
        "corda_config",
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const Json *j = value_of(r, variants[i]);
        if (j && !is_falsy(j)) return refuse(r, variants[i], NULL);
    }
    for (void *it = json_first(r->root); it; it = json_next(r->root, it)) {
        const char *key = json_iter_key(it);
        if (str_starts(key, "use_") && !str_eq(key, "use_rslora") && !str_eq(key, "use_dora") &&
            !is_falsy(json_iter_value(it)))
            return refuse(r, key, NULL);
    }
    const Json *bias = value_of(r, "bias");
    const char *which = "none";
    if (bias && !json_str(bias, &which, NULL)) return bad(r, "bias", "a string", bias);
    return str_eq(which, "none") ? OK : refuse(r, "bias", "only \"none\"");
}

Status lora_error_in_file(Err *err, Status s, const char *dir)
{
    static const char *const names[][2] = {{"targets", "target_modules"},
                                           {"exclude", "exclude_modules"},
                                           {"layers", "layers_to_transform"},
                                           {"save_modules", "modules_to_save"},
                                           {"rank", "r"},
                                           {"alpha", "lora_alpha"}};
    const char *key = err->key;
    for (size_t i = 0; key && i < sizeof names / sizeof *names; i++)
        if (str_eq(key, names[i][0])) {
            key = names[i][1];
            break;
        }
    char *file = path_join(dir, "adapter_config.json");
    err_wrap(err, s, "%s%s%s", file, key ? ": " : "", key ? key : "");
    free(file);
    return s;
}

/* --- what is taken over ---------------------------------------------------------------------------------- */

static Status read_targets(const Reader *r, LoraOpts *o)
{
    const Json *j = value_of(r, "target_modules");
    const char *s;
    if (!j) { /* PEFT's default for these architectures */
        o->targets = xcalloc(2, sizeof *o->targets);
        o->targets[o->n_targets++] = xstrdup("q_proj");
        o->targets[o->n_targets++] = xstrdup("v_proj");
    } else if (json_str(j, &s, NULL)) {
        if (strcasecmp(s, "all-linear") == 0) {
            o->targets = xcalloc(1, sizeof *o->targets);
            o->targets[o->n_targets++] = xstrdup("all-linear");
        } else {
            o->target_pattern = xstrdup(s);
        }
    } else if (json_kind(j) == JK_ARRAY) {
        TRY(read_strings(r, "target_modules", j, &o->targets, &o->n_targets));
    } else {
        return bad(r, "target_modules", "a list or a string", j);
    }
    j = value_of(r, "exclude_modules");
    if (!j) return OK;
    if (json_str(j, &s, NULL)) {
        if (s[0]) o->exclude_pattern = xstrdup(s);
        return OK;
    }
    if (json_kind(j) != JK_ARRAY) return bad(r, "exclude_modules", "a list or a string", j);
    return read_strings(r, "exclude_modules", j, &o->exclude, &o->n_exclude);
}

static Status read_layers(const Reader *r, LoraOpts *o)
{
    const Json *j = value_of(r, "layers_to_transform");
    if (!j) return OK;
    int64_t one;
    bool list = json_kind(j) == JK_ARRAY;
    if (!list && !json_int(j, &one))
        return bad(r, "layers_to_transform", "an integer or a list", j);
    size_t n = list ? json_size(j) : 1;
    if (n == 0) return OK;
    if (o->target_pattern)
        return err_set(r->err, E_INPUT,
                       "%s: layers_to_transform: needs target_modules as a list, found a string",
                       r->name);
    o->layers = xcalloc(n, sizeof *o->layers);
    for (size_t i = 0; i < n; i++) {
        const Json *v = list ? json_at(j, i) : j;
        if (!json_int(v, &o->layers[i])) return bad(r, "layers_to_transform", "integers", v);
        o->n_layers++;
    }

    /* All our layers stand under "model.layers.N". */
    j = value_of(r, "layers_pattern");
    const char *s = "";
    list = j && json_kind(j) == JK_ARRAY;
    bool found = !j || (list && json_size(j) == 0);
    for (size_t i = 0; j && i < (list ? json_size(j) : 1); i++) {
        if (!json_str(list ? json_at(j, i) : j, &s, NULL))
            return bad(r, "layers_pattern", "a string or a list of strings", j);
        found |= str_eq(s, "layers") || str_eq(s, "model.layers") || (!list && !s[0]);
    }
    return found ? OK : refuse(r, "layers_pattern", "only \"layers\"");
}

static Status read_patterns(const Reader *r, const char *key, LoraPattern **out, int *n)
{
    const Json *j = value_of(r, key);
    if (!j) return OK;
    if (json_kind(j) != JK_OBJECT) return bad(r, key, "an object", j);
    *out = json_size(j) ? xcalloc(json_size(j), sizeof **out) : NULL;
    for (void *it = json_first(j); it; it = json_next(j, it)) {
        double v;
        if (!json_number(json_iter_value(it), &v))
            return bad(r, key, "an object of numbers", json_iter_value(it));
        (*out)[(*n)++] = (LoraPattern){xstrdup(json_iter_key(it)), v};
    }
    return OK;
}

/* PEFT takes any number; 0 leaves the adapter out, and below 0 it is taken away. */
static Status check_alpha(const Reader *r, const char *key, double alpha)
{
    if (alpha > 0 && isfinite(alpha)) return OK;
    return err_set(r->err, E_INPUT, "%s: %s: must be a finite number above 0, found %g", r->name,
                   key, alpha);
}

static Status read_all(const Reader *r, LoraOpts *o)
{
    TRY(check_kind(r));
    TRY(check_variants(r));
    TRY(check_init(r, o));
    const Json *rank = value_of(r, "r");
    o->rank = 8;
    if (rank && !json_int(rank, &o->rank)) return bad(r, "r", "an integer", rank);
    if (o->rank < 1 || o->rank > 1 << 15)
        return err_set(r->err, E_INPUT, "%s: r: must be 1 to %d, found %lld", r->name, 1 << 15,
                       (long long)o->rank);
    TRY(read_number(r, "lora_alpha", 8, -INFINITY, &o->alpha));
    TRY(check_alpha(r, "lora_alpha", o->alpha));
    TRY(read_number(r, "lora_dropout", 0, 0, &o->dropout));
    if (o->dropout >= 1)
        return err_set(r->err, E_INPUT, "%s: lora_dropout: must be below 1, found %g", r->name,
                       o->dropout);
    TRY(read_bool(r, "use_rslora", &o->rslora));
    TRY(read_bool(r, "use_dora", &o->dora));
    TRY(read_targets(r, o));
    TRY(read_layers(r, o));
    TRY(read_patterns(r, "rank_pattern", &o->ranks, &o->n_ranks));
    TRY(read_patterns(r, "alpha_pattern", &o->alphas, &o->n_alphas));
    for (int i = 0; i < o->n_alphas; i++)
        TRY(check_alpha(r, "alpha_pattern", o->alphas[i].value));
    const Json *j = value_of(r, "modules_to_save");
    if (j && json_kind(j) != JK_ARRAY) return bad(r, "modules_to_save", "a list", j);
    TRY(read_strings(r, "modules_to_save", j, &o->save_modules, &o->n_save_modules));

    bool tie;
    TRY(read_bool(r, "ensure_weight_tying", &tie));
    if (tie && o->n_save_modules) return refuse(r, "ensure_weight_tying", NULL);
    o->lenient = true;
    return OK;
}

Status lora_opts_read(LoraOpts *out, char **base_model, const Json *root, const char *name,
                      Err *err)
{
    Reader r = {root, name, err};
    if (json_kind(root) != JK_OBJECT)
        return err_set(err, E_INPUT, "%s: must hold a JSON object, found %s", name,
                       json_kind_name(root));
    LoraOpts o = {0};
    Status s = read_all(&r, &o);
    const char *base = NULL;
    const Json *j = value_of(&r, "base_model_name_or_path");
    if (s == OK && j && !json_str(j, &base, NULL))
        s = bad(&r, "base_model_name_or_path", "a string", j);
    if (s != OK) {
        lora_opts_clear(&o);
        return s;
    }
    *out = o;
    if (base_model) *base_model = base ? xstrdup(base) : NULL;
    return OK;
}

Status lora_opts_load(LoraOpts *out, char **base_model, const char *dir, Err *err)
{
    char *file = path_is_dir(dir) ? path_join(dir, "adapter_config.json") : xstrdup(dir);
    Json *root = NULL;
    Status s = json_parse_file(&root, file, err);
    if (s == OK) s = lora_opts_read(out, base_model, root, file, err);
    json_free(root);
    free(file);
    return s;
}

/* --- writing ------------------------------------------------------------------------------------------- */

static void put_string(StrBuf *b, const char *key, const char *value)
{
    strbuf_printf(b, "  \"%s\": ", key);
    if (value)
        json_write_string(b, value, strlen(value));
    else
        strbuf_puts(b, "null");
    strbuf_puts(b, ",\n");
}

/* 16, not 16.0: alpha is an integer in most files. */
static void put_number(StrBuf *b, double v)
{
    if (v == floor(v) && fabs(v) < 1e15)
        strbuf_printf(b, "%lld", (long long)v);
    else
        json_write_number(b, v);
}

static void put_strings(StrBuf *b, const char *key, char *const *items, int n)
{
    strbuf_printf(b, "  \"%s\": ", key);
    for (int i = 0; i < n; i++) {
        strbuf_puts(b, i ? ",\n    " : "[\n    ");
        json_write_string(b, items[i], strlen(items[i]));
    }
    strbuf_puts(b, n ? "\n  ],\n" : "null,\n");
}

static void put_patterns(StrBuf *b, const char *key, const LoraPattern *items, int n, double factor)
{
    strbuf_printf(b, "  \"%s\": {", key);
    for (int i = 0; i < n; i++) {
        strbuf_puts(b, i ? ",\n    " : "\n    ");
        json_write_string(b, items[i].key, strlen(items[i].key));
        strbuf_puts(b, ": ");
        put_number(b, items[i].value * factor);
    }
    strbuf_puts(b, n ? "\n  },\n" : "},\n");
}

/* "all-linear" is written as what it came to mean here, so that the file says it by itself. */
static void put_targets(StrBuf *b, const LoraSet *s)
{
    const LoraOpts *o = &s->opts;
    if (o->target_pattern) {
        put_string(b, "target_modules", o->target_pattern);
        return;
    }
    if (o->n_targets != 1 || strcasecmp(o->targets[0], "all-linear") != 0) {
        put_strings(b, "target_modules", o->targets, o->n_targets);
        return;
    }
    char *names[16];
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        char *name = strrchr(s->items[i]->module, '.') + 1;
        bool known = false;
        for (int j = 0; j < n; j++)
            known |= str_eq(names[j], name);
        if (!known && n < 16) names[n++] = name;
    }
    put_strings(b, "target_modules", names, n);
}

void peft_config_write(StrBuf *b, const LoraSet *s, const char *base)
{
    const LoraOpts *o = &s->opts;
    /* with twins files have twice the rank, at the same scale */
    double ranks = o->pissa ? 2 : 1, alphas = o->rslora ? sqrt(ranks) : ranks;
    strbuf_puts(b, "{\n");
    put_patterns(b, "alpha_pattern", o->alphas, o->n_alphas, alphas);
    put_string(b, "base_model_name_or_path", base);
    put_string(b, "bias", "none");
    if (o->exclude_pattern)
        put_string(b, "exclude_modules", o->exclude_pattern);
    else if (o->n_exclude) /* unknown to PEFT before 0.14, so only where it says something */
        put_strings(b, "exclude_modules", o->exclude, o->n_exclude);
    strbuf_puts(b, "  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n");
    strbuf_printf(b, "  \"init_lora_weights\": %s,\n", o->gaussian_init ? "\"gaussian\"" : "true");
    strbuf_puts(b, "  \"layers_pattern\": null,\n  \"layers_to_transform\": ");
    for (int i = 0; i < o->n_layers; i++)
        strbuf_printf(b, "%s%lld", i ? ",\n    " : "[\n    ", (long long)o->layers[i]);
    strbuf_puts(b, o->n_layers ? "\n  ],\n  \"lora_alpha\": " : "null,\n  \"lora_alpha\": ");
    put_number(b, o->alpha * alphas);
    strbuf_puts(b, ",\n  \"lora_dropout\": ");
    json_write_number(b, o->dropout);
    strbuf_puts(b, ",\n");
    put_strings(b, "modules_to_save", o->save_modules, o->n_save_modules);
    put_string(b, "peft_type", "LORA");
    strbuf_printf(b, "  \"r\": %lld,\n", (long long)o->rank * (o->pissa ? 2 : 1));
    put_patterns(b, "rank_pattern", o->ranks, o->n_ranks, ranks);
    put_targets(b, s);
    put_string(b, "task_type", "CAUSAL_LM");
    if (o->dora) strbuf_puts(b, "  \"use_dora\": true,\n");
    strbuf_printf(b, "  \"use_rslora\": %s\n}\n", o->rslora ? "true" : "false");
}
