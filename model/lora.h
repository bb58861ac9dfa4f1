/* LoRA adapters: which modules they sit on, their parameters, PEFT's files (reference: peft tuners/lora,
 * utils/save_and_load.py).  Mathematics: y = W x + scale * B A drop(x), scale = alpha / r or, for rsLoRA,
 * alpha / sqrt(r) (Hu et al. 2021; Kalajdzievski 2023). */
#pragma once

#include "model/llama.h"

typedef struct LoraOpts {
    int64_t rank;
    double alpha, dropout;
    bool rslora;
    char **targets; /* module names or dotted suffixes ("q_proj"), or one "all-linear" */
    int n_targets;
    int64_t *layers; /* only these; n_layers 0: all */
    int n_layers;
    char **save_modules; /* trained whole: "embed_tokens", "lm_head", "norm", ... */
    int n_save_modules;
    bool gaussian_init; /* A ~ N(0, 1/r) instead of PEFT's kaiming-uniform */
} LoraOpts;

struct Lora {
    char *module; /* "model.layers.0.self_attn.q_proj" */
    Param a, b;   /* (r, in), (rows, r) */
    int64_t rank;
    double alpha;
    float scale;   /* alpha / rank, or alpha / sqrt(rank) for rsLoRA */
    float dropout; /* while training */
};

typedef struct LoraSet {
    LoraOpts opts; /* as read or given; owned */
    Lora **items;
    int n;
    char *base_model; /* adapter_config's base_model_name_or_path, or NULL */
} LoraSet;

/* Creates adapters (without storage) on the modules that opts name, adds their Params to m->params (right
 * after their module's) and marks them and save_modules trained.  A target, layer or module that matches nothing is
 * E_INPUT by name. */
Status lora_attach(LoraSet *out, Llama *m, const LoraOpts *opts, Err *err) MUST_CHECK;
void lora_detach(LoraSet *s, Llama *m);
/* PEFT's initialisation: A uniform in +-1/sqrt(in) (or gaussian), B zero; a pure function of seed and name. */
void lora_init_weights(LoraSet *s, Device *d, uint64_t seed);

/* Options of an adapter folder (adapter_config.json); unknown keys that change the mathematics are refused by
 * name, others ignored as PEFT does. */
Status lora_opts_load(LoraOpts *out, const char *dir, Err *err) MUST_CHECK;
void lora_opts_clear(LoraOpts *o);
/* Tensors of adapter_model.safetensors into attached, allocated adapters.  Every tensor of the file and every
 * adapter must find its other half: the names of those that do not are told. */
Status lora_load(LoraSet *s, Llama *m, const char *dir, Err *err) MUST_CHECK;
/* adapter_config.json and adapter_model.safetensors (f32, or the dtype given) into an existing folder, so that
 * PEFT loads them.  `base`: base_model_name_or_path. */
Status lora_save(const LoraSet *s, Llama *m, const char *dir, const char *base, DType dtype,
                 Err *err) MUST_CHECK;
