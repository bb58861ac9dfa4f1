/* config.json as transformers 4 and 5 both read it: the old spelling of the RoPE parameters and torch_dtype. */
#include "model/llama.h"

#include <stdio.h>
#include <stdlib.h>

/* The shortest decimal that reads back to the same float: 1e-05, not 9.99999975e-06. */
static void put_float(StrBuf *b, float v)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    strbuf_puts(b, text);
}

static const char *torch_dtype(DType t)
{
    return t == DT_BF16 ? "bfloat16" : t == DT_F16 ? "float16" : "float32";
}

static void put_token(StrBuf *b, const char *key, const int *ids, int n)
{
    strbuf_printf(b, "  \"%s\": ", key);
    if (n == 0) strbuf_puts(b, "null");
    if (n > 1) strbuf_putc(b, '[');
    for (int i = 0; i < n; i++)
        strbuf_printf(b, "%s%d", i ? ", " : "", ids[i]);
    strbuf_puts(b, n > 1 ? "],\n" : ",\n");
}

static void put_rope(StrBuf *b, const LlamaConfig *c)
{
    strbuf_puts(b, "  \"rope_scaling\": ");
    if (c->rope_type == ROPE_DEFAULT) {
        strbuf_puts(b, "null,\n");
    } else {
        strbuf_puts(b, "{\n    \"factor\": ");
        json_write_number(b, c->rope_factor);
        if (c->rope_type == ROPE_LLAMA3) {
            strbuf_puts(b, ",\n    \"high_freq_factor\": ");
            json_write_number(b, c->rope_high_freq);
            strbuf_puts(b, ",\n    \"low_freq_factor\": ");
            json_write_number(b, c->rope_low_freq);
            strbuf_printf(b, ",\n    \"original_max_position_embeddings\": %lld",
                          (long long)c->rope_original_max);
        }
        strbuf_printf(b, ",\n    \"rope_type\": \"%s\"\n  },\n",
                      c->rope_type == ROPE_LLAMA3 ? "llama3" : "linear");
    }
    strbuf_puts(b, "  \"rope_theta\": ");
    json_write_number(b, c->rope_theta);
    strbuf_puts(b, ",\n");
}

void llama_config_write(StrBuf *b, const LlamaConfig *c, DType dtype)
{
    static const char *const classes[ARCH_N] = {"LlamaForCausalLM", "MistralForCausalLM",
                                                "Qwen2ForCausalLM", "Qwen3ForCausalLM"};
    bool qwen = c->arch == ARCH_QWEN2 || c->arch == ARCH_QWEN3;
    strbuf_printf(b, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n", classes[c->arch]);
    if (c->arch == ARCH_LLAMA || c->arch == ARCH_QWEN3)
        strbuf_printf(b, "  \"attention_bias\": %s,\n", c->attention_bias ? "true" : "false");
    strbuf_puts(b, "  \"attention_dropout\": 0.0,\n");
    put_token(b, "bos_token_id", &c->bos_id, c->bos_id >= 0);
    put_token(b, "eos_token_id", c->eos_ids, c->n_eos);
    strbuf_printf(b,
                  "  \"head_dim\": %lld,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %lld,\n",
                  (long long)c->head_dim, (long long)c->hidden_size);
    strbuf_puts(b, "  \"initializer_range\": ");
    json_write_number(b, c->initializer_range);
    strbuf_printf(b, ",\n  \"intermediate_size\": %lld,\n  \"max_position_embeddings\": %lld,\n",
                  (long long)c->intermediate_size, (long long)c->max_position_embeddings);
    if (qwen) strbuf_puts(b, "  \"max_window_layers\": 0,\n");
    if (c->arch == ARCH_LLAMA)
        strbuf_printf(b, "  \"mlp_bias\": %s,\n", c->mlp_bias ? "true" : "false");
    strbuf_printf(b,
                  "  \"model_type\": \"%s\",\n  \"num_attention_heads\": %lld,\n"
                  "  \"num_hidden_layers\": %lld,\n  \"num_key_value_heads\": %lld,\n"
                  "  \"rms_norm_eps\": ",
                  llama_arch_name(c->arch), (long long)c->n_heads, (long long)c->n_layers,
                  (long long)c->n_kv_heads);
    put_float(b, c->rms_norm_eps);
    strbuf_puts(b, ",\n");
    put_rope(b, c);
    if (c->arch != ARCH_LLAMA) {
        if (c->sliding_window > 0)
            strbuf_printf(b, "  \"sliding_window\": %lld,\n", (long long)c->sliding_window);
        else
            strbuf_puts(b, "  \"sliding_window\": null,\n");
    }
    strbuf_printf(b,
                  "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n"
                  "  \"use_cache\": true,\n",
                  c->tie_word_embeddings ? "true" : "false", torch_dtype(dtype));
    if (qwen)
        strbuf_printf(b, "  \"use_sliding_window\": %s,\n",
                      c->sliding_window > 0 ? "true" : "false");
    strbuf_printf(b, "  \"vocab_size\": %lld\n}\n", (long long)c->vocab_size);
}

void llama_generation_config_write(StrBuf *b, const LlamaConfig *c)
{
    strbuf_puts(b, "{\n");
    put_token(b, "bos_token_id", &c->bos_id, c->bos_id >= 0);
    put_token(b, "eos_token_id", c->eos_ids, c->n_eos);
    strbuf_puts(b, "  \"_from_model_config\": true\n}\n");
}
