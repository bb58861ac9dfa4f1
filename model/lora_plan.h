/* What a LoraOpts means for a model's modules: nothing, an adapter, or trained whole.  For lora_attach and for
 * merging, which has no model in memory. */
#pragma once

#include "model/lora.h"

typedef enum ModuleRole { ROLE_NONE, ROLE_ADAPTER, ROLE_WHOLE } ModuleRole;

typedef struct LoraModule {
    char *name;       /* "model.layers.0.self_attn.q_proj" */
    int64_t layer;    /* -1: in none */
    bool is_linear;   /* one of the seven projections; embedding, head and norms are not */
    int64_t rows, in; /* of its weight; in 0: a vector */
    ModuleRole role;
    int64_t rank; /* ROLE_ADAPTER */
    double alpha;
} LoraModule;

/* Every module that has a weight, in the order of the forward pass. */
typedef struct LoraPlan {
    LoraModule *items;
    int n;
} LoraPlan;

/* Refuses by name what lora_attach refuses, and with its err->key: names that match nothing, modules named twice, ranks out of
 * range. */
Status lora_plan(LoraPlan *out, const LlamaConfig *cfg, const LoraOpts *opts, Err *err) MUST_CHECK;
void lora_plan_clear(LoraPlan *p);
const LoraModule *lora_plan_find(const LoraPlan *p, const char *module);

/* Rank and alpha of a module, the patterns considered. */
Status lora_module_size(const LoraOpts *o, const char *module, int64_t *rank, double *alpha,
                        Err *err) MUST_CHECK;
