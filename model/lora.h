/* LoRA adapters: which modules they sit on, their parameters, PEFT's files (reference: peft tuners/lora,
 * utils/save_and_load.py).  Mathematics: y = W x + scale * B A drop(x), scale = alpha / r or, for rsLoRA,
 * alpha / sqrt(r) (Hu et al. 2021; Kalajdzievski 2023). */
#pragma once

#include "model/llama.h"
#include "model/weights.h"

/* A rank or alpha for the modules whose path ends, at a dot, with what `key` matches (a regular expression, as in
 * PEFT); the first that matches counts. */
typedef struct LoraPattern {
    char *key;
    double value;
} LoraPattern;

typedef struct LoraOpts {
    int64_t rank;
    double alpha, dropout;
    bool rslora;
    bool dora;
    double
        b_lr_ratio; /* LoRA+ (Hayou et al. 2024): B learns so many times faster than A; 0: alike */
    char **targets; /* module names or dotted suffixes ("q_proj"), or one "all-linear" */
    int n_targets;
    char *target_pattern; /* instead: a regular expression for the whole path; or NULL */
    char **exclude;       /* as targets: what is left out of them */
    int n_exclude;
    char *exclude_pattern; /* or NULL */
    int64_t *layers;       /* only these; n_layers 0: all */
    int n_layers;
    char **
        save_modules; /* trained whole: ends of paths, "embed_tokens", "lm_head", "norm" (every norm), ... */
    int n_save_modules;
    LoraPattern *ranks, *alphas;
    int n_ranks, n_alphas;
    bool gaussian_init; /* A ~ N(0, 1/r) instead of PEFT's kaiming-uniform */
    bool
        pissa; /* A and B begin as the base's principal part, which it loses (lora_set_principal) */
    bool lenient; /* from somebody's file: a name that matches nothing is fine if another does */
} LoraOpts;

struct Lora {
    char *module; /* "model.layers.0.self_attn.q_proj" */
    Param a, b;   /* (r, in), (rows, r) */
    Param m;      /* (rows) DoRA's magnitudes; has_m */
    bool has_m;
    Tensor norm,
        base_norm; /* with it: (rows) f32, of the rows of base and adapter, and of the base (model/linear.c) */
    FusedLinear *linear; /* it sits on this matrix */
    int slice;
    int64_t rank;
    double alpha;
    float scale;   /* alpha / rank, or alpha / sqrt(rank) for rsLoRA */
    float dropout; /* while training */
};

typedef struct LoraSet {
    LoraOpts opts; /* as given; a copy */
    Lora **items;
    int n;
} LoraSet;

/* Creates adapters (without storage) on the modules that opts name, adds their Params to m->params (right
 * after their module's) and marks them and save_modules trained; a tied head is untied where only a save_module
 * makes it differ.  Before llama_alloc and model_load_weights.  A target, layer or module that matches nothing is
 * E_INPUT by name, and err->key is the option's name below `lora` in a config; then nothing was attached. */
Status lora_attach(LoraSet *out, Llama *m, const LoraOpts *opts, Err *err) MUST_CHECK;
void lora_detach(LoraSet *s, Llama *m);
/* PEFT's initialisation: A uniform in +-1/sqrt(in) (or gaussian), B zero; a pure function of seed and name. */
void lora_init_weights(LoraSet *s, Device *d, uint64_t seed);

/* PiSSA (Meng et al. 2024; peft tuners/lora/layer.py, pissa_init): a (r,in) and b (rows,r), of which scale b a was or will be taken
 * from the base, begin an adapter.  They are kept: the files have the adapter that says the same on the base as it was, of
 * rank 2r, [a; a_begin] and [b, -b_begin] with the same scale. */
void lora_set_principal(Lora *x, Device *d, float *a, float *b);

/* Options of an adapter folder (adapter_config.json); unknown keys that change the mathematics are refused by
 * name, others ignored as PEFT does.  base_model (or NULL) receives base_model_name_or_path or NULL, to be freed. */
Status lora_opts_load(LoraOpts *out, char **base_model, const char *dir, Err *err) MUST_CHECK;
Status lora_opts_read(LoraOpts *out, char **base_model, const Json *root, const char *name,
                      Err *err) MUST_CHECK;
/* What does not fit a model is in DIR/adapter_config.json, under PEFT's name for err->key; returns s. */
Status lora_error_in_file(Err *err, Status s, const char *dir);
void lora_opts_copy(LoraOpts *to, const LoraOpts *from);
void lora_opts_clear(LoraOpts *o);
/* alpha / rank, or alpha / sqrt(rank) */
float lora_scale(const LoraOpts *o, int64_t rank, double alpha);

/* Tensors of adapter_model.safetensors into attached, allocated adapters and save_modules.  Every tensor of the file
 * and every adapter must find its other half: the names of those that do not are told. */
Status lora_load(LoraSet *s, Llama *m, const char *dir, Err *err) MUST_CHECK;
/* adapter_config.json and adapter_model.safetensors (of dtype; DT_N: as model_save) into an existing folder, so that
 * PEFT loads them.  `base`: base_model_name_or_path, may be NULL. */
Status lora_save(const LoraSet *s, const Llama *m, const char *dir, const char *base, DType dtype,
                 Err *err) MUST_CHECK;
/* Its two halves, for who writes the weights otherwise: which tensors lora_weights_name holds, and the other file. */
extern const char lora_weights_name[];
void lora_list_weights(WeightList *out, const Llama *m, DType dtype);
Status lora_save_config(const LoraSet *s, const char *dir, const char *base, Err *err) MUST_CHECK;
