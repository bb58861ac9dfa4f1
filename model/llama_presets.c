/* Shapes by name, for `init`, `plan` and tests.  Numbers are those of the published config.json files. */
#include "model/llama.h"

#include "base/str.h"

typedef struct Preset {
    const char *name;
    LlamaArch arch;
    int64_t vocab, hidden, ffn, layers, heads, kv_heads, head_dim, context;
    float eps;
    double theta, llama3_factor; /* factor 0: plain RoPE */
    bool tied;
    int bos, eos;
} Preset;

/* clang-format off */
static const Preset presets[] = {
    {"llama-2-7b",     ARCH_LLAMA,    32000, 4096, 11008, 32, 32, 32, 128,   4096, 1e-5f, 1e4,  0, false,      1,      2},
    {"llama-2-13b",    ARCH_LLAMA,    32000, 5120, 13824, 40, 40, 40, 128,   4096, 1e-5f, 1e4,  0, false,      1,      2},
    {"llama-2-70b",    ARCH_LLAMA,    32000, 8192, 28672, 80, 64,  8, 128,   4096, 1e-5f, 1e4,  0, false,      1,      2},
    {"tinyllama-1.1b", ARCH_LLAMA,    32000, 2048,  5632, 22, 32,  4,  64,   2048, 1e-5f, 1e4,  0, false,      1,      2},
    {"llama-3-8b",     ARCH_LLAMA,   128256, 4096, 14336, 32, 32,  8, 128,   8192, 1e-5f, 5e5,  0, false, 128000, 128001},
    {"llama-3-70b",    ARCH_LLAMA,   128256, 8192, 28672, 80, 64,  8, 128,   8192, 1e-5f, 5e5,  0, false, 128000, 128001},
    {"llama-3.1-8b",   ARCH_LLAMA,   128256, 4096, 14336, 32, 32,  8, 128, 131072, 1e-5f, 5e5,  8, false, 128000, 128001},
    {"llama-3.1-70b",  ARCH_LLAMA,   128256, 8192, 28672, 80, 64,  8, 128, 131072, 1e-5f, 5e5,  8, false, 128000, 128001},
    {"llama-3.2-1b",   ARCH_LLAMA,   128256, 2048,  8192, 16, 32,  8,  64, 131072, 1e-5f, 5e5, 32, true,  128000, 128001},
    {"llama-3.2-3b",   ARCH_LLAMA,   128256, 3072,  8192, 28, 24,  8, 128, 131072, 1e-5f, 5e5, 32, true,  128000, 128001},
    {"mistral-7b",     ARCH_MISTRAL,  32768, 4096, 14336, 32, 32,  8, 128,  32768, 1e-5f, 1e6,  0, false,      1,      2},
    {"qwen2.5-0.5b",   ARCH_QWEN2,   151936,  896,  4864, 24, 14,  2,  64,  32768, 1e-6f, 1e6,  0, true,  151643, 151643},
    {"qwen2.5-1.5b",   ARCH_QWEN2,   151936, 1536,  8960, 28, 12,  2, 128,  32768, 1e-6f, 1e6,  0, true,  151643, 151643},
    {"qwen2.5-3b",     ARCH_QWEN2,   151936, 2048, 11008, 36, 16,  2, 128,  32768, 1e-6f, 1e6,  0, true,  151643, 151643},
    {"qwen2.5-7b",     ARCH_QWEN2,   152064, 3584, 18944, 28, 28,  4, 128,  32768, 1e-6f, 1e6,  0, false, 151643, 151643},
    {"qwen3-0.6b",     ARCH_QWEN3,   151936, 1024,  3072, 28, 16,  8, 128,  40960, 1e-6f, 1e6,  0, true,  151643, 151645},
    {"qwen3-1.7b",     ARCH_QWEN3,   151936, 2048,  6144, 28, 16,  8, 128,  40960, 1e-6f, 1e6,  0, true,  151643, 151645},
    {"qwen3-4b",       ARCH_QWEN3,   151936, 2560,  9728, 36, 32,  8, 128,  40960, 1e-6f, 1e6,  0, true,  151643, 151645},
    {"qwen3-8b",       ARCH_QWEN3,   151936, 4096, 12288, 36, 32,  8, 128,  40960, 1e-6f, 1e6,  0, false, 151643, 151645},
    /* Small enough for tests and laptops: 0.1, 2 and 9 million parameters. */
    {"tiny",           ARCH_LLAMA,      512,   64,   172,  2,  4,  2,  16,    512, 1e-5f, 1e4,  0, true,       1,      2},
    {"tiny-qwen2",     ARCH_QWEN2,      512,   64,   160,  2,  4,  2,  16,    512, 1e-6f, 1e6,  0, false,     -1,      2},
    {"tiny-qwen3",     ARCH_QWEN3,      512,   64,   160,  2,  4,  2,  32,    512, 1e-6f, 1e6,  0, true,      -1,      2},
    {"mini",           ARCH_LLAMA,     2048,  192,   512,  4,  6,  2,  32,   1024, 1e-5f, 1e4,  0, true,       1,      2},
    {"small",          ARCH_LLAMA,     4096,  320,   864,  6, 10,  5,  32,   1024, 1e-5f, 1e4,  0, true,       1,      2},
};
/* clang-format on */

enum { N_PRESETS = sizeof presets / sizeof *presets };

bool llama_config_preset(LlamaConfig *out, const char *name)
{
    for (int i = 0; i < N_PRESETS; i++) {
        const Preset *p = &presets[i];
        if (!str_eq(p->name, name)) continue;
        *out = (LlamaConfig){
            .arch = p->arch,
            .vocab_size = p->vocab,
            .hidden_size = p->hidden,
            .intermediate_size = p->ffn,
            .n_layers = p->layers,
            .n_heads = p->heads,
            .n_kv_heads = p->kv_heads,
            .head_dim = p->head_dim,
            .max_position_embeddings = p->context,
            .rms_norm_eps = p->eps,
            .rope_type = p->llama3_factor > 0 ? ROPE_LLAMA3 : ROPE_DEFAULT,
            .rope_theta = p->theta,
            .attention_bias = p->arch == ARCH_QWEN2,
            .qk_norm = p->arch == ARCH_QWEN3,
            .tie_word_embeddings = p->tied,
            .initializer_range = 0.02,
            .bos_id = p->bos,
            .eos_ids = {p->eos},
            .n_eos = 1,
        };
        if (out->rope_type == ROPE_LLAMA3) {
            out->rope_factor = p->llama3_factor;
            out->rope_low_freq = 1;
            out->rope_high_freq = 4;
            out->rope_original_max = 8192;
        }
        return true;
    }
    return false;
}

const char *llama_preset_name(int i)
{
    return i >= 0 && i < N_PRESETS ? presets[i].name : NULL;
}
