/* The Llama family: configuration, parameters, forward pass.  One model for training and inference: without
 * a tape nothing is recorded, with a KvCache in the batch attention reads it.  The model never reads the
 * training config and knows nothing of sharding or recompute: trainer/apply.c sets its segments. */
#pragma once

#include "autograd/ops.h"
#include "autograd/param.h"
#include "autograd/segment.h"
#include "base/json.h"
#include "model/host_rows.h"
#include "model/linear.h"
#include "model/quant.h"

typedef enum LlamaArch { ARCH_LLAMA, ARCH_MISTRAL, ARCH_QWEN2, ARCH_QWEN3, ARCH_N } LlamaArch;

typedef enum RopeType { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 } RopeType;

/* config.json, in the reference's words (transformers configuration_llama.py and sisters). */
typedef struct LlamaConfig {
    LlamaArch arch;
    int64_t vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim;
    int64_t max_position_embeddings;
    int64_t
        sliding_window; /* the shortest of any layer, 0: none; we attend to everything, so sequences must not be longer */
    float rms_norm_eps;
    RopeType rope_type;
    double rope_theta, rope_factor, rope_low_freq, rope_high_freq;
    int64_t rope_original_max; /* llama3 */
    bool attention_bias;       /* q, k, v; o too unless qwen2 */
    bool mlp_bias, qk_norm, tie_word_embeddings;
    double initializer_range;
    QuantFile quant; /* of a quantised checkpoint; method QUANT_METHOD_NONE: as usual */
    int bos_id;      /* -1: none */
    int eos_ids[8];  /* config.json's; generation_config.json may have others */
    int n_eos;
} LlamaConfig;

/* Reads config.json of a folder (or a config.json itself).  Both spellings of the RoPE parameters; what cannot be run
 * exactly (mixture of experts, other RoPE types, other activations, other quantisations) is refused by name.  Every fault
 * of config.json is told where err has a place for them (Err.more). */
Status llama_config_load(LlamaConfig *out, const char *path, Err *err) MUST_CHECK;
/* The same from parsed JSON; `name` begins error lines. */
Status llama_config_read(LlamaConfig *out, const Json *root, const char *name, Err *err) MUST_CHECK;
/* A named shape: "llama-2-7b", "llama-3-8b", "llama-3.2-1b", "qwen2.5-7b", "qwen3-8b", "tiny", ...; false: no such name. */
bool llama_config_preset(LlamaConfig *out, const char *name);
const char *llama_preset_name(int i); /* NULL behind the last */
/* config.json text (old RoPE spelling, torch_dtype), as transformers 4 and 5 read it; generation_config.json. */
void llama_config_write(StrBuf *out, const LlamaConfig *cfg, DType dtype);
void llama_generation_config_write(StrBuf *out, const LlamaConfig *cfg);
const char *llama_arch_name(LlamaArch a);       /* "llama", "mistral", ...: model_type */
int64_t llama_n_params(const LlamaConfig *cfg); /* of the base model */

/* inv_freq (head_dim/2), as transformers computes it; table (n_positions, head_dim) = [cos, sin] of each position. */
void llama_rope_frequencies(const LlamaConfig *cfg, float *inv_freq);
void llama_rope_table(const LlamaConfig *cfg, float *table, int64_t n_positions);

/* Tokens on the device for one forward pass; everything borrowed, alive until backward is done. */
typedef struct KvCache KvCache; /* model/kv_cache.h */
typedef struct Batch {
    const Tensor *ids;       /* (N) i32 */
    const Tensor *positions; /* (N) i32, within the document */
    const Tensor *samples;   /* (N) i64, or NULL without dropout */
    Docs docs;
    KvCache *kv;  /* or NULL */
    bool dropout; /* training: adapters drop */
} Batch;

typedef struct LlamaBlock {
    int layer;
    Param attn_norm, ffn_norm; /* (C) */
    Param q_norm, k_norm;      /* (D), Qwen3 only */
    FusedLinear qkv;           /* (H+2K)D x C: q_proj, k_proj, v_proj */
    FusedLinear o;             /* C x H*D */
    FusedLinear gate_up;       /* 2F x C: gate_proj, up_proj */
    FusedLinear down;          /* C x F */
    char name[16];             /* "block 3" */
    struct Llama *model;
} LlamaBlock;

typedef struct Llama {
    LlamaConfig cfg;
    Device *dev;
    bool tied;      /* the head is the embedding: cfg.tie_word_embeddings, until llama_untie */
    Param embed;    /* (V,C) */
    HostRows *rows; /* of an embedding that is on the host, or NULL */
    LlamaBlock *blocks;
    Param norm;      /* (C) */
    Param head;      /* (V,C); unused when tied */
    Tensor rope;     /* (P,D) f32 */
    ParamSet params; /* adapters included, each right after its module's */
    /* embedding; n_layers blocks; norm.  The head's product is the loss op's or llama_logits'. */
    Segment embed_segment, norm_segment;
    Segment *segments; /* n_layers */
} Llama;

/* Builds the parameters without storage and the RoPE table for max_positions.  Every Param is frozen and has
 * dtype d->compute.  *m must not move afterwards: its blocks point to it. */
void llama_init(Llama *m, const LlamaConfig *cfg, Device *d, int64_t max_positions);
/* Frees parameters and table; adapters first (lora_detach). */
void llama_clear(Llama *m);
/* Gives every Param without a storage one of its own. */
void llama_alloc(Llama *m);
/* Gives a tied model a head of its own that begins as the embedding, because only one of the two will
 * change. */
void llama_untie(Llama *m);
/* Whether the embedding may be on the host: it is frozen and no product reads it.  NULL, or why not, as an end of "..., but". */
const char *llama_needs_embedding(const Llama *m);
/* Keeps the embedding in the host's memory: after it is known what is trained, before there are storages.  threads: that
 * look rows up, 0: all that the process may use. */
void llama_embed_on_host(Llama *m, int threads);
/* Looks up the rows of the tokens that the next llama_forward runs on, so that this can be done while the device works on
 * what came before.  Nothing for an embedding on the device. */
void llama_stage(Llama *m, const int32_t *ids, int64_t n);
/* Lists the parameters anew and tells each segment whether something inside is trained: after adapters were
 * attached or `trained` flags changed. */
void llama_collect_params(Llama *m);
/* The segment whose parameters are `unit` (Param.unit); the head's matrix is the norm's unit, and read after it. */
Segment *llama_segment(Llama *m, int unit);
/* The i-th fused matrix in the order of the forward pass: four a block; NULL behind the last. */
FusedLinear *llama_linear(Llama *m, int64_t i);

/* ids -> hidden states after the final norm (N,C), in the current scope. */
Tensor *llama_forward(Ctx *c, Llama *m, const Batch *batch);
/* The head's matrix: tied or own. */
Tensor *llama_head(Llama *m);
/* hidden states (M,C) -> logits (M,V) f32; no tape */
Tensor *llama_logits(Ctx *c, Llama *m, Tensor *h);
