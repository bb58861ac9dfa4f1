/* Reads config.json of the Llama family: defaults and deltas by architecture, both spellings of the RoPE
 * parameters, and by name what cannot be run exactly.  References: transformers configuration_llama.py and
 * sisters, modeling_rope_utils.py.  RoPE is llama_config_rope.c's, writing llama_config_write.c's, named shapes llama_presets.c's. */
#include "model/llama_config_rope.h"

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
};

/* What is asked of several values together is asked where each of them was read: one fault is one line. */
static bool read_int(const JsonFields *r, const char *key, int64_t def, int64_t min, int64_t max,
                     int64_t *out)
{
    int64_t v = *out = def;
    if (!fields_int(r, key, &v)) return false;
    if (fields_value(r, key) && (v < min || v > max)) {
        problems_add(r->faults, "%s: %s: must be %lld to %lld, found %lld", r->file, key,
                     (long long)min, (long long)max, (long long)v);
        return false;
    }
    *out = v;
    return true;
}

/* --- what kind of model ------------------------------------------------------------------------- */

static const char *const ARCH_NAMES[ARCH_N] = {"llama", "mistral", "qwen2", "qwen3"};

static bool has_experts(const JsonFields *r)
{
    static const char *const keys[] = {"num_local_experts", "num_experts", "n_routed_experts",
                                       "moe_intermediate_size"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!fields_value(r, keys[i])) continue;
        problems_add(r->faults, "%s: %s: this is a mixture of experts, which lorac cannot run",
                     r->file, keys[i]);
        return true;
    }
    return false;
}

/* ARCH_LLAMA, with whose defaults the rest can be read, where the file names none that is known. */
static LlamaArch read_arch(const JsonFields *r)
{
    const Json *j = fields_value(r, "model_type");
    const char *type = NULL;
    bool text = json_str(j, &type, NULL);
    for (int a = 0; text && a < ARCH_N; a++)
        if (str_eq(type, ARCH_NAMES[a])) {
            has_experts(r);
            return (LlamaArch)a;
        }
    if (has_experts(r)) return ARCH_LLAMA; /* says more than the type's name */
    if (!j)
        problems_add(r->faults, "%s: model_type: is missing; one of llama, mistral, qwen2, qwen3",
                     r->file);
    else if (!text)
        fields_bad_kind(r, "model_type", "a string", j);
    else
        problems_add(r->faults,
                     "%s: model_type: '%s' is not supported; one of llama, mistral, qwen2, qwen3",
                     r->file, type);
    return ARCH_LLAMA;
}

/* A classifier has other tensors than ours; its folder says so here. */
static void check_head(const JsonFields *r)
{
    const Json *list = fields_value(r, "architectures");
    const char *name = NULL;
    if (list && json_kind(list) != JK_ARRAY) fields_bad_kind(r, "architectures", "a list", list);
    for (size_t i = 0; json_kind(list) == JK_ARRAY && i < json_size(list); i++) {
        if (!json_str(json_at(list, i), &name, NULL)) {
            fields_bad_kind(r, "architectures", "a list of strings", json_at(list, i));
            return;
        }
        if (str_ends(name, "ForCausalLM")) return;
    }
    if (name)
        problems_add(r->faults,
                     "%s: architectures: '%s' is no causal language model (...ForCausalLM)",
                     r->file, name);
}

static void read_quantisation(const JsonFields *r, LlamaConfig *c)
{
    const Json *q = fields_value(r, "quantization_config");
    Err err = {.more = r->faults};
    if (q && quant_file_read(&c->quant, q, r->file, &err) != OK)
        problems_add(r->faults, "%s", err.line);
}

static void check_activation(const JsonFields *r)
{
    const Json *j = fields_value(r, "hidden_act");
    const char *act = "silu";
    if (j && !json_str(j, &act, NULL))
        fields_bad_kind(r, "hidden_act", "a string", j);
    else if (!str_eq(act, "silu") && !str_eq(act, "swish"))
        problems_add(r->faults, "%s: hidden_act: '%s' is not supported, only silu", r->file, act);
}

/* --- sizes --------------------------------------------------------------------------------------- */

static void read_heads(const JsonFields *r, LlamaConfig *c)
{
    bool width = read_int(r, "hidden_size", 4096, 1, MAX_WIDTH, &c->hidden_size),
         heads = read_int(r, "num_attention_heads", 32, 1, MAX_HEADS, &c->n_heads);
    /* An absent key takes the class's default, null takes the number of heads. */
    int64_t kv = c->n_heads;
    if (!json_get(r->object, "num_key_value_heads") && c->arch != ARCH_LLAMA)
        kv = c->arch == ARCH_MISTRAL ? 8 : 32;
    if (read_int(r, "num_key_value_heads", kv, 1, MAX_HEADS, &c->n_kv_heads) && heads &&
        c->n_heads % c->n_kv_heads != 0)
        problems_add(r->faults,
                     "%s: num_key_value_heads: must divide num_attention_heads %lld, found %lld",
                     r->file, (long long)c->n_heads, (long long)c->n_kv_heads);

    bool has_dim = fields_value(r, "head_dim") || c->arch == ARCH_QWEN3;
    bool known = has_dim || (width && heads);
    if (!has_dim && known && c->hidden_size % c->n_heads != 0) {
        problems_add(r->faults,
                     "%s: num_attention_heads: must divide hidden_size %lld (there is no "
                     "head_dim), found %lld",
                     r->file, (long long)c->hidden_size, (long long)c->n_heads);
        return;
    }
    known &= read_int(r, "head_dim", c->arch == ARCH_QWEN3 ? 128 : c->hidden_size / c->n_heads, 1,
                      MAX_HEAD_DIM, &c->head_dim);
    if (known && (c->head_dim % 2 != 0 || c->head_dim > MAX_HEAD_DIM))
        problems_add(r->faults, "%s: head_dim: must be even and at most %d, found %lld%s", r->file,
                     (int)MAX_HEAD_DIM, (long long)c->head_dim,
                     has_dim ? "" : " (hidden_size / num_attention_heads)");
}

static void read_sizes(const JsonFields *r, LlamaConfig *c)
{
    bool qwen = c->arch == ARCH_QWEN2 || c->arch == ARCH_QWEN3;
    bool mistral = c->arch == ARCH_MISTRAL;
    if (!read_int(r, "vocab_size", qwen ? 151936 : 32000, 1, MAX_VOCAB, &c->vocab_size))
        c->vocab_size = MAX_VOCAB; /* no token is blamed for it */
    read_int(r, "intermediate_size",
             qwen      ? 22016
             : mistral ? 14336
                       : 11008,
             1, MAX_FFN, &c->intermediate_size);
    read_int(r, "num_hidden_layers", 32, 1, MAX_LAYERS, &c->n_layers);
    read_heads(r, c);
    int64_t context = qwen ? 32768 : mistral ? 131072 : 2048;
    read_int(r, "max_position_embeddings", context, 1, LLAMA_MAX_CONTEXT,
             &c->max_position_embeddings);

    double eps = 1e-6;
    fields_positive(r, "rms_norm_eps", 1, &eps);
    c->rms_norm_eps = (float)eps;
    c->initializer_range = 0.02;
    fields_positive(r, "initializer_range", 1, &c->initializer_range);
}

static void read_switches(const JsonFields *r, LlamaConfig *c)
{
    fields_bool(r, "tie_word_embeddings", &c->tie_word_embeddings);
    bool bias = false, mlp_bias = false;
    fields_bool(r, "attention_bias", &bias);
    /* Mistral has none whatever the file says; Qwen2 always has q, k and v. */
    c->attention_bias = c->arch == ARCH_QWEN2 || (bias && c->arch != ARCH_MISTRAL);
    fields_bool(r, "mlp_bias", &mlp_bias);
    c->mlp_bias = mlp_bias && c->arch == ARCH_LLAMA;
    c->qk_norm = c->arch == ARCH_QWEN3;
}

/* Whether a layer has a window, as layer_types says it; `any` where it does not. */
static bool read_layer_types(const JsonFields *r, bool any)
{
    const Json *types = fields_value(r, "layer_types");
    if (!types) return any;
    if (json_kind(types) != JK_ARRAY) return fields_bad_kind(r, "layer_types", "a list", types);
    any = false;
    for (size_t i = 0; i < json_size(types); i++) {
        const char *t;
        if (!json_str(json_at(types, i), &t, NULL))
            return fields_bad_kind(r, "layer_types", "a list of strings", json_at(types, i));
        if (!str_eq(t, "full_attention") && !str_eq(t, "sliding_attention")) {
            problems_add(r->faults, "%s: layer_types: '%s' is not supported", r->file, t);
            return false;
        }
        any |= str_eq(t, "sliding_attention");
    }
    return any;
}

/* The shortest window that any layer has, 0 for none. */
static void read_window(const JsonFields *r, LlamaConfig *c)
{
    c->sliding_window = 0;
    if (c->arch == ARCH_LLAMA) return;
    int64_t window, first;
    bool absent = !json_get(r->object, "sliding_window");
    read_int(r, "sliding_window", absent ? 4096 : 0, 1, INT64_MAX, &window);
    if (c->arch == ARCH_MISTRAL) {
        c->sliding_window = window;
        return;
    }
    bool use = false;
    fields_bool(r, "use_sliding_window", &use);
    read_int(r, "max_window_layers", 28, 0, INT64_MAX, &first);
    bool any = read_layer_types(r, first < c->n_layers);
    if (use && any) c->sliding_window = window;
}

/* --- special tokens ------------------------------------------------------------------------------ */

/* Below 0 there is no token, and "none" is null. */
static bool read_token(const JsonFields *r, const char *key, const Json *j, int64_t vocab, int *out)
{
    int64_t id;
    if (!json_int(j, &id)) return fields_bad_kind(r, key, "a token id", j);
    if (id >= 0 && id < vocab) {
        *out = (int)id;
        return true;
    }
    if (id < 0)
        problems_add(r->faults, "%s: %s: must be a token id, or null for none, found %lld", r->file,
                     key, (long long)id);
    else
        problems_add(r->faults, "%s: %s: must be below vocab_size %lld, found %lld", r->file, key,
                     (long long)vocab, (long long)id);
    return false;
}

static void read_special_tokens(const JsonFields *r, LlamaConfig *c)
{
    bool defaults = c->arch == ARCH_LLAMA || c->arch == ARCH_MISTRAL;
    c->bos_id = -1;
    c->n_eos = 0;
    const Json *bos = json_get(r->object, "bos_token_id");
    if (bos && json_kind(bos) != JK_NULL)
        read_token(r, "bos_token_id", bos, c->vocab_size, &c->bos_id);
    else if (!bos && defaults && c->vocab_size > 1)
        c->bos_id = 1;

    const Json *eos = json_get(r->object, "eos_token_id");
    if (!eos && defaults && c->vocab_size > 2) c->eos_ids[c->n_eos++] = 2;
    if (!eos || json_kind(eos) == JK_NULL) return;
    bool list = json_kind(eos) == JK_ARRAY;
    size_t n = list ? json_size(eos) : 1, most = sizeof c->eos_ids / sizeof *c->eos_ids;
    if (n > most)
        problems_add(r->faults, "%s: eos_token_id: at most %zu ids, found %zu", r->file, most, n);
    for (size_t i = 0; n <= most && i < n; i++) {
        const Json *id = list ? json_at(eos, i) : eos;
        if (read_token(r, "eos_token_id", id, c->vocab_size, &c->eos_ids[c->n_eos])) c->n_eos++;
    }
}

/* ------------------------------------------------------------------------------------------------- */

Status llama_config_read(LlamaConfig *out, const Json *root, const char *name, Err *err)
{
    Problems faults = {0};
    const JsonFields r = {root, name, "", &faults};
    if (json_kind(root) != JK_OBJECT)
        return err_set(err, E_INPUT, "%s: must hold a JSON object, found %s", name,
                       json_kind_name(root));
    LlamaConfig c = {.arch = read_arch(&r)};
    check_head(&r);
    read_quantisation(&r, &c);
    check_activation(&r);
    read_sizes(&r, &c);
    read_switches(&r, &c);
    read_window(&r, &c);
    llama_rope_read(&r, &c);
    read_special_tokens(&r, &c);
    if (faults.n == 0) *out = c;
    return err_of_problems(err, &faults);
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
