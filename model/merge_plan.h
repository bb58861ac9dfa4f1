/* What merging changes: each base tensor with what is added to it or replaces it.  For merge.c. */
#pragma once

#include "model/lora_plan.h"
#include "tensor/safetensors.h"

typedef struct MergeChange {
    char *name; /* of the output tensor */
    const SafeTensor
        *source; /* W: of the base (of the adapter, where that brought a copy of its own) */
    const SafeTensor *a, *b; /* or NULL */
    const SafeTensor *m;     /* DoRA's magnitudes, or NULL */
    const SafeTensor *whole; /* replaces W; or NULL */
    bool transposed;         /* an embedding's adapter: a (r, rows), b (in, r), delta = (b a)^T */
    float scale;
} MergeChange;

typedef struct MergePlan {
    MergeChange *items; /* sorted by name */
    int n;
    bool untied;    /* lm_head.weight must exist and tie_word_embeddings be false */
    bool adds_head; /* and the base's files have none */
} MergePlan;

/* Strict both ways: every tensor of the adapter is used, every module that its config names has its tensors, and
 * all shapes fit. */
Status merge_plan(MergePlan *out, const LlamaConfig *cfg, const LoraOpts *opts,
                  const SafeTensors *base, const char *base_path, const SafeTensors *adapter,
                  const char *adapter_path, Err *err) MUST_CHECK;
void merge_plan_clear(MergePlan *p);
const MergeChange *merge_plan_find(const MergePlan *p, const char *name); /* NULL: unchanged */
