/* Reads config.json of the Llama family: defaults and deltas by architecture, both spellings of the RoPE
 * parameters, and by name what cannot be run exactly.  References: transformers configuration_llama.py and
 * sisters, modeling_rope_utils.py.  Writing is llama_config_write.c's, named shapes llama_presets.c's. */
#include "model/llama.h"

#include "base/fs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Limits far above any model, so that no product of two sizes overflows. */
enum {
    MAX_VOCAB = 1 << 26,
    MAX_WIDTH = 1 << 20,
    MAX_FFN = 1 << 22,
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 256, /* what all kernels take */
    MAX_CONTEXT = 1 << 28,
};

typedef struct Reader {
    const Json *root;
    const char *path;
    Err *err;
} Reader;

static Status bad_kind(const Reader *r, const char *where, const char *key, const char *want,
                       const Json *found)
{
    return err_set(r->err, E_INPUT, "%s: %s%s: must be %s, found %s", r->path, where, key, want,
                   json_kind_name(found));
}

/* An absent key and null both mean "the default", as in transformers' optional fields. */
static const Json *value_of(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && json_kind(j) != JK_NULL ? j : NULL;
}

static Status read_int(const Reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                       int64_t *out)
{
    const Json *j = value_of(r->root, key);
    *out = def;
    if (!j) return OK;
    if (!json_int(j, out)) return bad_kind(r, "", key, "an integer", j);
    if (*out < min || *out > max)
        return err_set(r->err, E_INPUT, "%s: %s: must be %lld to %lld, found %lld", r->path, key,
                       (long long)min, (long long)max, (long long)*out);
    return OK;
}

static Status read_bool(const Reader *r, const char *key, bool def, bool *out)
{
    const Json *j = value_of(r->root, key);
    *out = def;
    if (j && !json_bool(j, out)) return bad_kind(r, "", key, "true or false", j);
    return OK;
}

/* What becomes 0 as a float is no positive number. */
static const double SMALLEST = 1e-30;

/* A number above 0, at most max, of `object`, whose own name (with a dot) is `where`. */
static Status read_positive(const Reader *r, const Json *object, const char *where, const char *key,
                            double def, double max, double *out)
{
    const Json *j = value_of(object, key);
    *out = def;
    if (!j) return OK;
    if (!json_number(j, out)) return bad_kind(r, where, key, "a number", j);
    if (!(*out >= SMALLEST && *out <= max))
        return err_set(r->err, E_INPUT, "%s: %s%s: must be at least %g and at most %g, found %g",
                       r->path, where, key, SMALLEST, max, *out);
    return OK;
}

/* --- what kind of model ------------------------------------------------------------------------- */

static const char *const ARCH_NAMES[ARCH_N] = {"llama", "mistral", "qwen2", "qwen3"};

static Status refuse_experts(const Reader *r)
{
    static const char *const keys[] = {"num_local_experts", "num_experts", "n_routed_experts",
                                       "moe_intermediate_size"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (value_of(r->root, keys[i]))
            return err_set(r->err, E_INPUT,
                           "%s: %s: this is a mixture of experts, which lorac cannot run", r->path,
                           keys[i]);
    return OK;
}

static Status read_arch(const Reader *r, LlamaArch *out)
{
    const Json *j = value_of(r->root, "model_type");
    const char *type;
    if (!j)
        return err_set(r->err, E_INPUT,
                       "%s: model_type: is missing; one of llama, mistral, qwen2, qwen3", r->path);
    if (!json_str(j, &type, NULL)) return bad_kind(r, "", "model_type", "a string", j);
    for (int a = 0; a < ARCH_N; a++) {
        if (!str_eq(type, ARCH_NAMES[a])) continue;
        *out = (LlamaArch)a;
        return OK;
    }
    TRY(refuse_experts(r));
    return err_set(r->err, E_INPUT,
                   "%s: model_type: '%s' is not supported; one of llama, mistral, qwen2, qwen3",
                   r->path, type);
}

/* A classifier has other tensors than ours; its folder says so here. */
static Status check_head(const Reader *r)
{
    const Json *list = value_of(r->root, "architectures");
    if (!list) return OK;
    if (json_kind(list) != JK_ARRAY) return bad_kind(r, "", "architectures", "a list", list);
    const char *name = NULL;
    for (size_t i = 0; i < json_size(list); i++) {
        if (!json_str(json_at(list, i), &name, NULL))
            return bad_kind(r, "", "architectures", "a list of strings", json_at(list, i));
        if (str_ends(name, "ForCausalLM")) return OK;
    }
    if (!name) return OK;
    return err_set(r->err, E_INPUT,
                   "%s: architectures: '%s' is no causal language model (...ForCausalLM)", r->path,
                   name);
}

static Status read_quantisation(const Reader *r, LlamaConfig *c)
{
    const Json *q = value_of(r->root, "quantization_config");
    return q ? quant_file_read(&c->quant, q, r->path, r->err) : OK;
}

static Status check_activation(const Reader *r)
{
    const Json *j = value_of(r->root, "hidden_act");
    const char *act = "silu";
    if (j && !json_str(j, &act, NULL)) return bad_kind(r, "", "hidden_act", "a string", j);
    if (str_eq(act, "silu") || str_eq(act, "swish")) return OK;
    return err_set(r->err, E_INPUT, "%s: hidden_act: '%s' is not supported, only silu", r->path,
                   act);
}

/* --- sizes --------------------------------------------------------------------------------------- */

static Status read_sizes(const Reader *r, LlamaConfig *c)
{
    bool qwen = c->arch == ARCH_QWEN2 || c->arch == ARCH_QWEN3;
    bool mistral = c->arch == ARCH_MISTRAL;
    TRY(read_int(r, "vocab_size", qwen ? 151936 : 32000, 1, MAX_VOCAB, &c->vocab_size));
    TRY(read_int(r, "hidden_size", 4096, 1, MAX_WIDTH, &c->hidden_size));
    TRY(read_int(r, "intermediate_size",
                 qwen      ? 22016
                 : mistral ? 14336
                           : 11008,
                 1, MAX_FFN, &c->intermediate_size));
    TRY(read_int(r, "num_hidden_layers", 32, 1, MAX_LAYERS, &c->n_layers));
    TRY(read_int(r, "num_attention_heads", 32, 1, MAX_HEADS, &c->n_heads));
    /* An absent key takes the class's default, null takes the number of heads. */
    int64_t kv = c->n_heads;
    if (!json_get(r->root, "num_key_value_heads") && c->arch != ARCH_LLAMA) kv = mistral ? 8 : 32;
    TRY(read_int(r, "num_key_value_heads", kv, 1, MAX_HEADS, &c->n_kv_heads));
    if (c->n_heads % c->n_kv_heads != 0)
        return err_set(r->err, E_INPUT,
                       "%s: num_key_value_heads: must divide num_attention_heads %lld, found %lld",
                       r->path, (long long)c->n_heads, (long long)c->n_kv_heads);

    bool has_dim = value_of(r->root, "head_dim") || c->arch == ARCH_QWEN3;
    if (!has_dim && c->hidden_size % c->n_heads != 0)
        return err_set(r->err, E_INPUT,
                       "%s: num_attention_heads: must divide hidden_size %lld (there is no "
                       "head_dim), found %lld",
                       r->path, (long long)c->hidden_size, (long long)c->n_heads);
    TRY(read_int(r, "head_dim", c->arch == ARCH_QWEN3 ? 128 : c->hidden_size / c->n_heads, 1,
                 MAX_HEAD_DIM, &c->head_dim));
    if (c->head_dim % 2 != 0 || c->head_dim > MAX_HEAD_DIM)
        return err_set(r->err, E_INPUT, "%s: head_dim: must be even and at most %d, found %lld%s",
                       r->path, (int)MAX_HEAD_DIM, (long long)c->head_dim,
                       has_dim ? "" : " (hidden_size / num_attention_heads)");
    int64_t context = qwen ? 32768 : mistral ? 131072 : 2048;
    TRY(read_int(r, "max_position_embeddings", context, 1, MAX_CONTEXT,
                 &c->max_position_embeddings));

    double eps;
    TRY(read_positive(r, r->root, "", "rms_norm_eps", 1e-6, 1, &eps));
    c->rms_norm_eps = (float)eps;
    return read_positive(r, r->root, "", "initializer_range", 0.02, 1, &c->initializer_range);
}

static Status read_switches(const Reader *r, LlamaConfig *c)
{
    TRY(read_bool(r, "tie_word_embeddings", false, &c->tie_word_embeddings));
    bool bias = false;
    TRY(read_bool(r, "attention_bias", false, &bias));
    /* Mistral has none whatever the file says; Qwen2 always has q, k and v. */
    c->attention_bias = c->arch == ARCH_QWEN2 || (bias && c->arch != ARCH_MISTRAL);
    TRY(read_bool(r, "mlp_bias", false, &bias));
    c->mlp_bias = bias && c->arch == ARCH_LLAMA;
    c->qk_norm = c->arch == ARCH_QWEN3;
    return OK;
}

/* The shortest window that any layer has, 0 for none. */
static Status read_window(const Reader *r, LlamaConfig *c)
{
    c->sliding_window = 0;
    if (c->arch == ARCH_LLAMA) return OK;
    int64_t window, first;
    bool absent = !json_get(r->root, "sliding_window");
    TRY(read_int(r, "sliding_window", absent ? 4096 : 0, 1, INT64_MAX, &window));
    if (c->arch == ARCH_MISTRAL) {
        c->sliding_window = window;
        return OK;
    }
    bool use;
    TRY(read_bool(r, "use_sliding_window", false, &use));
    TRY(read_int(r, "max_window_layers", 28, 0, INT64_MAX, &first));
    bool any = first < c->n_layers;
    const Json *types = value_of(r->root, "layer_types");
    if (types) {
        if (json_kind(types) != JK_ARRAY) return bad_kind(r, "", "layer_types", "a list", types);
        any = false;
        for (size_t i = 0; i < json_size(types); i++) {
            const char *t;
            if (!json_str(json_at(types, i), &t, NULL))
                return bad_kind(r, "", "layer_types", "a list of strings", json_at(types, i));
            if (!str_eq(t, "full_attention") && !str_eq(t, "sliding_attention"))
                return err_set(r->err, E_INPUT, "%s: layer_types: '%s' is not supported", r->path,
                               t);
            any |= str_eq(t, "sliding_attention");
        }
    }
    if (use && any) c->sliding_window = window;
    return OK;
}

/* --- RoPE ---------------------------------------------------------------------------------------- */

static bool is_truthy(const Json *j)
{
    return j && json_kind(j) != JK_NULL && (json_kind(j) != JK_OBJECT || json_size(j) > 0);
}

/* Transformers 4 has rope_theta beside rope_scaling, 5 has all in rope_parameters; a rope_scaling in the file
 * replaces rope_parameters whole, and only its theta then comes from the top level. */
static Status read_rope(const Reader *r, LlamaConfig *c)
{
    const char *where = "rope_scaling.";
    const Json *o = json_get(r->root, "rope_scaling");
    if (!is_truthy(o)) {
        where = "rope_parameters.";
        o = json_get(r->root, "rope_parameters");
    }
    if (!is_truthy(o)) o = NULL;
    if (o && json_kind(o) != JK_OBJECT)
        return err_set(r->err, E_INPUT, "%s: %.*s: must be an object or null, found %s", r->path,
                       (int)strlen(where) - 1, where, json_kind_name(o));
    for (void *it = o ? json_first(o) : NULL; it; it = json_next(o, it))
        if (json_kind(json_iter_value(it)) == JK_OBJECT)
            return err_set(r->err, E_INPUT,
                           "%s: %s%s: RoPE parameters by kind of layer are not supported", r->path,
                           where, json_iter_key(it));

    double theta, partial;
    TRY(read_positive(r, r->root, "", "rope_theta", 10000, 1e30, &theta));
    TRY(read_positive(r, o, where, "rope_theta", theta, 1e30, &c->rope_theta));
    TRY(read_positive(r, r->root, "", "partial_rotary_factor", 1, 1e30, &partial));
    TRY(read_positive(r, o, where, "partial_rotary_factor", partial, 1e30, &partial));
    if (partial != 1)
        return err_set(r->err, E_INPUT, "%s: partial_rotary_factor: %g is not supported, only 1",
                       r->path, partial);

    const char *type = "default", *key = "rope_type";
    if (!value_of(o, key)) key = "type";
    const Json *t = value_of(o, key);
    if (t && !json_str(t, &type, NULL)) return bad_kind(r, where, key, "a string", t);
    if (!t && value_of(o, "factor"))
        return err_set(r->err, E_INPUT,
                       "%s: %srope_type: is missing, and there is a factor; name it (linear, "
                       "llama3), or take the factor out",
                       r->path, where);
    if (str_eq(type, "default")) {
        c->rope_type = ROPE_DEFAULT;
        return OK;
    }
    if (str_eq(type, "linear"))
        c->rope_type = ROPE_LINEAR;
    else if (str_eq(type, "llama3"))
        c->rope_type = ROPE_LLAMA3;
    else
        return err_set(r->err, E_INPUT,
                       "%s: %s%s: '%s' is not supported; one of default, linear, llama3", r->path,
                       where, key, type);

    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor"};
    for (int i = 0; i < (c->rope_type == ROPE_LLAMA3 ? 3 : 1); i++)
        if (!value_of(o, needed[i]))
            return err_set(r->err, E_INPUT, "%s: %s%s: is missing, rope type '%s' needs it",
                           r->path, where, needed[i], type);
    TRY(read_positive(r, o, where, "factor", 1, 1e30, &c->rope_factor));
    if (c->rope_type == ROPE_LINEAR) return OK;
    TRY(read_positive(r, o, where, "low_freq_factor", 1, 1e30, &c->rope_low_freq));
    TRY(read_positive(r, o, where, "high_freq_factor", 4, 1e30, &c->rope_high_freq));
    if (c->rope_high_freq <= c->rope_low_freq)
        return err_set(r->err, E_INPUT,
                       "%s: %shigh_freq_factor: must be above low_freq_factor %g, found %g",
                       r->path, where, c->rope_low_freq, c->rope_high_freq);
    double original;
    TRY(read_positive(r, o, where, "original_max_position_embeddings",
                      (double)c->max_position_embeddings, MAX_CONTEXT, &original));
    c->rope_original_max = (int64_t)original;
    if ((double)c->rope_original_max != original)
        return err_set(r->err, E_INPUT,
                       "%s: %soriginal_max_position_embeddings: must be an integer, found %g",
                       r->path, where, original);
    return OK;
}

/* --- special tokens ------------------------------------------------------------------------------ */

static Status read_token(const Reader *r, const char *key, const Json *j, int64_t vocab, int *out)
{
    int64_t id;
    if (!json_int(j, &id)) return bad_kind(r, "", key, "a token id", j);
    /* -1 is how some files say "none". */
    if (id < -1 || id >= vocab)
        return err_set(r->err, E_INPUT, "%s: %s: must be below vocab_size %lld, found %lld",
                       r->path, key, (long long)vocab, (long long)id);
    *out = (int)id;
    return OK;
}

static Status read_special_tokens(const Reader *r, LlamaConfig *c)
{
    bool defaults = c->arch == ARCH_LLAMA || c->arch == ARCH_MISTRAL;
    c->bos_id = -1;
    c->n_eos = 0;
    const Json *bos = json_get(r->root, "bos_token_id");
    if (bos && json_kind(bos) != JK_NULL)
        TRY(read_token(r, "bos_token_id", bos, c->vocab_size, &c->bos_id));
    else if (!bos && defaults && c->vocab_size > 1)
        c->bos_id = 1;

    const Json *eos = json_get(r->root, "eos_token_id");
    if (!eos && defaults && c->vocab_size > 2) c->eos_ids[c->n_eos++] = 2;
    if (!eos || json_kind(eos) == JK_NULL) return OK;
    bool list = json_kind(eos) == JK_ARRAY;
    size_t n = list ? json_size(eos) : 1;
    if (n > sizeof c->eos_ids / sizeof *c->eos_ids)
        return err_set(r->err, E_INPUT, "%s: eos_token_id: at most %zu ids, found %zu", r->path,
                       sizeof c->eos_ids / sizeof *c->eos_ids, n);
    for (size_t i = 0; i < n; i++) {
        int id;
        TRY(read_token(r, "eos_token_id", list ? json_at(eos, i) : eos, c->vocab_size, &id));
        if (id >= 0) c->eos_ids[c->n_eos++] = id;
    }
    return OK;
}

/* ------------------------------------------------------------------------------------------------- */

Status llama_config_read(LlamaConfig *out, const Json *root, const char *name, Err *err)
{
    Reader r = {root, name, err};
    LlamaConfig c = {0};
    if (json_kind(root) != JK_OBJECT)
        return err_set(err, E_INPUT, "%s: must hold a JSON object, found %s", name,
                       json_kind_name(root));
    TRY(read_arch(&r, &c.arch));
    TRY(refuse_experts(&r));
    TRY(check_head(&r));
    TRY(read_quantisation(&r, &c));
    TRY(check_activation(&r));
    TRY(read_sizes(&r, &c));
    TRY(read_switches(&r, &c));
    TRY(read_window(&r, &c));
    TRY(read_rope(&r, &c));
    TRY(read_special_tokens(&r, &c));
    *out = c;
    return OK;
}

/* GPTQ's older place for what config.json's quantization_config says. */
static Status read_quantize_config(LlamaConfig *c, const char *dir, Err *err)
{
    char *file = path_join(dir, "quantize_config.json");
    Json *root = NULL;
    Status s = OK;
    if (path_is_dir(dir) && path_exists(file)) {
        s = json_parse_file(&root, file, err);
        if (s == OK) s = quant_file_read(&c->quant, root, file, err);
    }
    json_free(root);
    free(file);
    return s;
}

Status llama_config_load(LlamaConfig *out, const char *path, Err *err)
{
    char *file = path_is_dir(path) ? path_join(path, "config.json") : xstrdup(path);
    Json *root = NULL;
    Status s = json_parse_file(&root, file, err);
    if (s == OK) s = llama_config_read(out, root, file, err);
    if (s == OK && out->quant.method == QUANT_METHOD_NONE) s = read_quantize_config(out, path, err);
    if (s == OK && path_is_dir(path)) s = quant_file_look(&out->quant, path, err);
    json_free(root);
    free(file);
    return s;
}

const char *llama_arch_name(LlamaArch a)
{
    return ARCH_NAMES[a];
}

int64_t llama_n_params(const LlamaConfig *c)
{
    int64_t C = c->hidden_size, F = c->intermediate_size, D = c->head_dim;
    int64_t q = c->n_heads * D, kv = c->n_kv_heads * D;
    int64_t block = 2 * C + (q + 2 * kv) * C + C * q + 3 * F * C;
    if (c->attention_bias) block += q + 2 * kv + (c->arch == ARCH_QWEN2 ? 0 : C);
    if (c->mlp_bias) block += 2 * F + C;
    if (c->qk_norm) block += 2 * D;
    return c->vocab_size * C * (c->tie_word_embeddings ? 1 : 2) + c->n_layers * block + C;
}
