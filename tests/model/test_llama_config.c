/* config.json: both spellings of the RoPE parameters, defaults by family, everything that is refused, presets, and
 * text that reads back. */
#include "model/llama.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static Status read_text(LlamaConfig *c, const char *text, Err *err)
{
    Json *root = NULL;
    Status s = json_parse(&root, text, strlen(text), "config.json", 1, 0, err);
    if (s == OK) s = llama_config_read(c, root, "config.json", err);
    json_free(root);
    return s;
}

static bool same(const LlamaConfig *a, const LlamaConfig *b)
{
    bool eos = a->n_eos == b->n_eos;
    for (int i = 0; i < a->n_eos && eos; i++)
        eos = a->eos_ids[i] == b->eos_ids[i];
    return eos && a->arch == b->arch && a->vocab_size == b->vocab_size &&
           a->hidden_size == b->hidden_size && a->intermediate_size == b->intermediate_size &&
           a->n_layers == b->n_layers && a->n_heads == b->n_heads &&
           a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim &&
           a->max_position_embeddings == b->max_position_embeddings &&
           a->sliding_window == b->sliding_window && a->rms_norm_eps == b->rms_norm_eps &&
           a->rope_type == b->rope_type && a->rope_theta == b->rope_theta &&
           a->rope_factor == b->rope_factor && a->rope_low_freq == b->rope_low_freq &&
           a->rope_high_freq == b->rope_high_freq && a->rope_original_max == b->rope_original_max &&
           a->attention_bias == b->attention_bias && a->mlp_bias == b->mlp_bias &&
           a->qk_norm == b->qk_norm && a->tie_word_embeddings == b->tie_word_embeddings &&
           a->initializer_range == b->initializer_range && a->bos_id == b->bos_id;
}

Test(llama_config, both_spellings_are_read_alike)
{
    static const char *const folders[] = {
        "golden/llama2-tiny",  "golden/llama3-tiny", "golden/qwen2-tiny",  "models/llama2-d64",
        "models/llama2-d128",  "models/llama3-d64",  "models/llama3-d128", "models/mistral-d64",
        "models/mistral-d128", "models/qwen2-d64",   "models/qwen2-d128",  "models/qwen3-d64",
        "models/qwen3-d128",
    };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        LlamaConfig new, old, back;
        Err err = {0};
        char *dir = str_format("tests/fixtures/%s", folders[i]), *path = source_path(dir);
        char *old_path = str_format("%s/config.transformers4.json", path);
        cr_assert_eq(llama_config_load(&new, path, &err), OK, "%s", err.line);
        cr_assert_eq(llama_config_load(&old, old_path, &err), OK, "%s", err.line);
        cr_expect(same(&new, &old), "%s", folders[i]);
        if (strstr(folders[i], "llama3")) {
            cr_expect_eq(new.rope_type, ROPE_LLAMA3);
            cr_expect_eq(new.rope_original_max, 32);
            cr_expect_eq(new.rope_theta, 500000);
        }
        cr_expect_eq(new.qk_norm, strstr(folders[i], "qwen3") != NULL);
        cr_expect_eq(new.attention_bias, strstr(folders[i], "qwen2") != NULL);

        StrBuf text = {0};
        llama_config_write(&text, &new, DT_F32);
        cr_assert_eq(read_text(&back, text.data, &err), OK, "%s", err.line);
        cr_expect(same(&new, &back), "%s: %s", folders[i], text.data);
        strbuf_clear(&text);
        free(dir);
        free(path);
        free(old_path);
    }
}

Test(llama_config, defaults_by_family)
{
    LlamaConfig c;
    Err err = {0};
    cr_assert_eq(read_text(&c, "{\"model_type\": \"llama\"}", &err), OK, "%s", err.line);
    cr_expect_eq(c.vocab_size, 32000);
    cr_expect_eq(c.intermediate_size, 11008);
    cr_expect_eq(c.n_kv_heads, 32);
    cr_expect_eq(c.head_dim, 128);
    cr_expect_eq(c.max_position_embeddings, 2048);
    cr_expect_eq(c.rope_theta, 10000);
    cr_expect_eq(c.bos_id, 1);
    cr_expect_eq(c.eos_ids[0], 2);
    cr_assert_eq(read_text(&c, "{\"model_type\": \"mistral\", \"attention_bias\": true}", &err), OK,
                 "%s", err.line);
    cr_expect_eq(c.intermediate_size, 14336);
    cr_expect_eq(c.n_kv_heads, 8);
    cr_expect_eq(c.sliding_window, 4096);
    cr_expect_not(c.attention_bias);
    cr_assert_eq(
        read_text(&c,
                  "{\"model_type\": \"mistral\", \"head_dim\": 128, \"hidden_size\": 5120, "
                  "\"sliding_window\": null, \"num_key_value_heads\": null}",
                  &err),
        OK, "%s", err.line);
    cr_expect_eq(c.head_dim, 128);
    cr_expect_eq(c.n_kv_heads, 32);
    cr_expect_eq(c.sliding_window, 0);
    cr_assert_eq(read_text(&c,
                           "{\"model_type\": \"qwen3\", \"hidden_size\": 1024, "
                           "\"num_attention_heads\": 16, \"num_key_value_heads\": 8}",
                           &err),
                 OK, "%s", err.line);
    cr_expect_eq(c.head_dim, 128);
    cr_expect(c.qk_norm);
    cr_expect_eq(c.bos_id, -1);
    cr_expect_eq(c.n_eos, 0);
    cr_expect_eq(c.sliding_window, 0);
}

Test(llama_config, rope_precedence)
{
    static const struct {
        const char *name, *text;
        RopeType type;
        double theta, factor;
    } cases[] = {
        {"scaling over parameters, theta from the top",
         "\"rope_theta\": 7, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, "
         "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 9}",
         ROPE_LINEAR, 7, 2},
        {"theta inside the object wins",
         "\"rope_theta\": 7, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2.5, "
         "\"rope_theta\": 9}",
         ROPE_LINEAR, 9, 2.5},
        {"an empty scaling is none",
         "\"rope_scaling\": {}, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": "
         "9}",
         ROPE_DEFAULT, 9, 0},
        {"rope_type over type",
         "\"rope_scaling\": {\"type\": \"yarn\", \"rope_type\": \"linear\", \"factor\": 4}",
         ROPE_LINEAR, 10000, 4},
        {"nothing said", "\"rope_scaling\": null", ROPE_DEFAULT, 10000, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = str_format("{\"model_type\": \"llama\", %s}", cases[i].text);
        LlamaConfig c;
        Err err = {0};
        cr_expect_eq(read_text(&c, text, &err), OK, "%s: %s", cases[i].name, err.line);
        cr_expect_eq(c.rope_type, cases[i].type, "%s", cases[i].name);
        cr_expect_eq(c.rope_theta, cases[i].theta, "%s", cases[i].name);
        cr_expect_eq(c.rope_factor, cases[i].factor, "%s", cases[i].name);
        free(text);
    }
}

Test(llama_config, what_cannot_be_run_is_refused_by_name)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[]", "must hold a JSON object"},
        {"{}", "model_type: is missing"},
        {"{\"model_type\": 3}", "model_type: must be a string, found"},
        {"{\"model_type\": \"gpt2\"}", "model_type: 'gpt2' is not supported"},
        {"{\"model_type\": \"mixtral\", \"num_local_experts\": 8}",
         "num_local_experts: this is a mix"},
        {"{\"model_type\": \"qwen3_moe\", \"num_experts\": 128}", "num_experts: this is a mixture"},
        {"{\"model_type\": \"llama\", \"num_local_experts\": 4}",
         "num_local_experts: this is a mix"},
        {"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForSequenceClassification\"]}",
         "architectures: 'LlamaForSequenceClassification' is no causal"},
        {"{\"model_type\": \"llama\", \"architectures\": [7]}",
         "architectures: must be a list of str"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"hqq\"}}",
         "quantization_config.quant_method: 'hqq' is not supported"},
        {"{\"model_type\": \"llama\", \"quantization_config\": \"gptq\"}",
         "quantization_config: must be an object, found string"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": 5}}",
         "quantization_config.quant_method: must be a string, found integer"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"bits\": \"4\"}}",
         "quantization_config.bits: must be an integer, found string"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"bits\": 4, \"group_size\": 0}}",
         "quantization_config.group_size: must be -1 or 8 to 1048576, found 0"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"load_in_4bit\": \"true\"}}",
         "quantization_config.load_in_4bit: must be true or false, found string"},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"gptq\", "
         "\"bits\": 4, \"desc_act\": \"x\"}}",
         "quantization_config.desc_act: must be true or false, found string"},
        {"{\"model_type\": \"llama\", \"hidden_act\": \"gelu\"}", "hidden_act: 'gelu' is not"},
        {"{\"model_type\": \"llama\", \"hidden_size\": \"64\"}",
         "hidden_size: must be an integer, f"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64.0}",
         "hidden_size: must be an integer, f"},
        {"{\"model_type\": \"llama\", \"vocab_size\": 0}", "vocab_size: must be 1 to "},
        {"{\"model_type\": \"llama\", \"vocab_size\": 9223372036854775807}",
         "vocab_size: must be 1 to"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": -2}",
         "num_hidden_layers: must be 1 to"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 1e30}",
         "num_hidden_layers: must be an in"},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 0}",
         "num_attention_heads: must be 1"},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 7}",
         "num_attention_heads: must divide"},
        {"{\"model_type\": \"llama\", \"num_key_value_heads\": 5}",
         "num_key_value_heads: must divide"},
        {"{\"model_type\": \"llama\", \"num_key_value_heads\": 64}",
         "num_key_value_heads: must div"},
        {"{\"model_type\": \"llama\", \"head_dim\": 65}", "head_dim: must be even"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 96}", "head_dim: must be even"},
        {"{\"model_type\": \"llama\", \"rms_norm_eps\": 0}",
         "rms_norm_eps: must be at least 1e-30"},
        {"{\"model_type\": \"llama\", \"rms_norm_eps\": \"x\"}", "rms_norm_eps: must be a number"},
        {"{\"model_type\": \"llama\", \"tie_word_embeddings\": 1}",
         "tie_word_embeddings: must be true"},
        {"{\"model_type\": \"llama\", \"attention_bias\": \"no\"}",
         "attention_bias: must be true or"},
        {"{\"model_type\": \"llama\", \"rope_theta\": -1}", "rope_theta: must be at least 1e-30"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": 8}",
         "rope_scaling: must be an object or null"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"factor\": 8.0}}",
         "rope_scaling.rope_type: is missing, and there is a factor"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
         "rope_scaling.type: 'dynamic' is not supported"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"longrope\"}}",
         "rope_scaling.rope_type: 'longrope' is not supported"},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": "
         "4}}",
         "rope_parameters.rope_type: 'yarn' is not supported"},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": "
         "1}}}",
         "rope_parameters.full_attention: RoPE parameters by kind of layer"},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}}",
         "partial_rotary_factor: 0.5 is not supported"},
        {"{\"model_type\": \"llama\", \"partial_rotary_factor\": 0.5}",
         "partial_rotary_factor: 0.5"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"linear\"}}",
         "rope_scaling.factor: is missing"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 1}}",
         "rope_scaling.high_freq_factor: is missing"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, \"high_freq_factor\": 4}}",
         "rope_scaling.high_freq_factor: must be above low_freq_factor"},
        {"{\"model_type\": \"llama\", \"bos_token_id\": \"<s>\"}",
         "bos_token_id: must be a token id"},
        {"{\"model_type\": \"llama\", \"eos_token_id\": [2, 32000]}",
         "eos_token_id: must be below voc"},
        {"{\"model_type\": \"llama\", \"eos_token_id\": [1,2,3,4,5,6,7,8,9]}",
         "eos_token_id: at most"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"linear_attention\"]}",
         "layer_types: 'linear_attention' is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LlamaConfig c;
        Err err = {0};
        cr_expect_eq(read_text(&c, cases[i].text, &err), E_INPUT, "accepted: %s", cases[i].text);
        cr_expect(strstr(err.line, cases[i].says) && str_starts(err.line, "config.json: "),
                  "%s\n  says: %s", cases[i].text, err.line);
    }
}

/* A fault is one line, also where values that other rules ask for are wrong. */
Test(llama_config, all_faults_are_told_at_once)
{
    static const struct {
        const char *text, *lines[12];
    } cases[] = {
        {"\"model_type\": \"gpt9\", \"architectures\": [\"GptForCausalLM\", 1], \"hidden_act\": 3, "
         "\"vocab_size\": \"x\", \"num_hidden_layers\": 0, \"rms_norm_eps\": -1, "
         "\"tie_word_embeddings\": 1, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 0}, "
         "\"bos_token_id\": -1, \"eos_token_id\": [40000, -2]",
         {"model_type: 'gpt9'", "hidden_act: must be a string", "vocab_size: must be an integer",
          "num_hidden_layers: must be 1 to", "rms_norm_eps: must be at least",
          "tie_word_embeddings: must be", "rope_scaling.low_freq_factor: is missing",
          "rope_scaling.high_freq_factor: is missing", "rope_scaling.factor: must be at least",
          "bos_token_id: must be a token id, or null for none, found -1",
          "eos_token_id: must be a token id, or null for none, found -2"}},
        {"\"hidden_act\": \"gelu\", \"num_local_experts\": 8, \"num_experts\": 8",
         {"num_local_experts: this is a mixture", "hidden_act: 'gelu'"}},
        {"\"model_type\": \"llama\", \"num_attention_heads\": \"x\", \"num_key_value_heads\": 5, "
         "\"hidden_size\": 60",
         {"num_attention_heads: must be an integer"}},
        {"\"model_type\": \"llama\", \"num_attention_heads\": 7", {"num_attention_heads: must di"}},
        {"\"model_type\": \"llama\", \"num_attention_heads\": 7, \"num_key_value_heads\": 3",
         {"num_key_value_heads: must divide", "num_attention_heads: must divide"}},
        {"\"model_type\": \"llama\", \"head_dim\": \"x\", \"hidden_size\": 0",
         {"hidden_size: must be 1 to", "head_dim: must be an integer"}},
        {"\"model_type\": \"llama\", \"rope_scaling\": 8, \"rope_theta\": 0",
         {"rope_scaling: must be an object", "rope_theta: must be at least"}},
        {"\"model_type\": \"llama\", \"rope_parameters\": {\"full_attention\": {}, "
         "\"sliding_attention\": {}}",
         {"rope_parameters.full_attention: RoPE"}},
        {"\"model_type\": \"llama\", \"quantization_config\": {\"bits\": 5, \"group_size\": 1, "
         "\"sym\": 0, \"desc_act\": 1, \"checkpoint_format\": \"x\"}, \"vocab_size\": 0",
         {"quantization_config.bits: must be 2", "quantization_config.group_size: must be",
          "quantization_config.sym: must be", "quantization_config.desc_act: must be",
          "quantization_config.checkpoint_format: 'x'", "vocab_size: must be"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = str_format("{%s}", cases[i].text);
        LlamaConfig c;
        Problems all = {0};
        Err err = {.more = &all};
        cr_expect_eq(read_text(&c, text, &err), E_INPUT, "%s", text);
        problems_add(&all, "%s", err.line);
        int n = 0;
        for (; n < 12 && cases[i].lines[n]; n++) {
            int told = 0;
            for (int k = 0; k < all.n; k++)
                told += strstr(all.lines[k], cases[i].lines[n]) != NULL;
            cr_expect_eq(told, 1, "%s: told %d times: %s", text, told, cases[i].lines[n]);
        }
        cr_expect_eq(all.n, n, "%s: %d lines, the last: %s", text, all.n, err.line);
        problems_clear(&all);
        free(text);
    }
}

Test(llama_config, sliding_windows)
{
    static const struct {
        const char *text;
        int64_t window;
    } cases[] = {
        {"{\"model_type\": \"mistral\", \"sliding_window\": 1024}", 1024},
        {"{\"model_type\": \"llama\", \"sliding_window\": 1024}", 0},
        {"{\"model_type\": \"qwen2\", \"sliding_window\": 1024}", 0},
        {"{\"model_type\": \"qwen2\", \"sliding_window\": 1024, \"use_sliding_window\": true}",
         1024},
        {"{\"model_type\": \"qwen2\", \"sliding_window\": 1024, \"use_sliding_window\": true, "
         "\"max_window_layers\": 32}",
         0},
        {"{\"model_type\": \"qwen3\", \"sliding_window\": 1024, \"use_sliding_window\": true, "
         "\"layer_types\": [\"full_attention\"]}",
         0},
        {"{\"model_type\": \"qwen3\", \"sliding_window\": 1024, \"use_sliding_window\": true, "
         "\"layer_types\": [\"full_attention\", \"sliding_attention\"], \"max_window_layers\": 99}",
         1024},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LlamaConfig c;
        Err err = {0};
        cr_assert_eq(read_text(&c, cases[i].text, &err), OK, "%s", err.line);
        cr_expect_eq(c.sliding_window, cases[i].window, "%s", cases[i].text);
    }
}

/* Values of an independent calculation: d=128, factor 8 (Llama 3.1) and d=64, factor 32 (Llama 3.2). */
Test(llama_config, rope_frequencies)
{
    static const struct {
        const char *preset;
        int i;
        double f;
    } cases[] = {
        {"llama-3.1-8b", 0, 1},
        {"llama-3.1-8b", 1, 0.814617234},
        {"llama-3.1-8b", 28, 0.00321144599},
        {"llama-3.1-8b", 29, 0.00216657076},
        {"llama-3.1-8b", 30, 0.00137189357},
        {"llama-3.1-8b", 31, 0.000856751413},
        {"llama-3.1-8b", 34, 0.000178507813},
        {"llama-3.1-8b", 35, 9.55621235e-05},
        {"llama-3.1-8b", 63, 3.06892599e-07},
        {"llama-3.2-1b", 14, 0.00321144599},
        {"llama-3.2-1b", 15, 0.00129054793},
        {"llama-3.2-1b", 16, 0.000429556797},
        {"llama-3.2-1b", 17, 9.7082878e-05},
        {"llama-3.2-1b", 18, 1.94616382e-05},
        {"llama-3.2-1b", 31, 9.41830673e-08},
        {"llama-2-7b", 32, 0.01},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LlamaConfig c;
        float f[64];
        cr_assert(llama_config_preset(&c, cases[i].preset));
        llama_rope_frequencies(&c, f);
        cr_expect_lt(fabs(f[cases[i].i] / cases[i].f - 1), 1e-6, "%s[%d]: %.9g", cases[i].preset,
                     cases[i].i, (double)f[cases[i].i]);
    }
}

/* Parameter counts as the models' pages give them. */
Test(llama_config, presets)
{
    static const struct {
        const char *name;
        int64_t n;
    } cases[] = {
        {"llama-2-7b", 6738415616},   {"llama-2-13b", 13015864320},
        {"llama-2-70b", 68976648192}, {"tinyllama-1.1b", 1100048384},
        {"llama-3-8b", 8030261248},   {"llama-3-70b", 70553706496},
        {"llama-3.1-8b", 8030261248}, {"llama-3.1-70b", 70553706496},
        {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824},
        {"mistral-7b", 7248023552},   {"qwen2.5-0.5b", 494032768},
        {"qwen2.5-1.5b", 1543714304}, {"qwen2.5-3b", 3085938688},
        {"qwen2.5-7b", 7615616512},   {"qwen3-0.6b", 596049920},
        {"qwen3-1.7b", 1720574976},   {"qwen3-4b", 4022468096},
        {"qwen3-8b", 8190735360},
    };
    LlamaConfig c, back;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert(llama_config_preset(&c, cases[i].name), "%s", cases[i].name);
        cr_expect_eq(llama_n_params(&c), cases[i].n, "%s: %lld", cases[i].name,
                     (long long)llama_n_params(&c));
    }
    cr_expect_not(llama_config_preset(&c, "llama-9"));
    for (int i = 0; llama_preset_name(i); i++) {
        Err err = {0};
        StrBuf text = {0};
        cr_assert(llama_config_preset(&c, llama_preset_name(i)));
        llama_config_write(&text, &c, DT_BF16);
        cr_assert_eq(read_text(&back, text.data, &err), OK, "%s", err.line);
        cr_expect(same(&c, &back), "%s: %s", llama_preset_name(i), text.data);
        strbuf_clear(&text);
    }
}
