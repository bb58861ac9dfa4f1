/* How fast tokens are decoded: a model of random weights reads a prompt and then, greedily, a token at a time for each of
 * a few sequences, beside the bytes that such a pass must read at the rate of a copy. */
#pragma once

#include "model/lora.h"
#include "tensor/device.h"

typedef struct DecodeBenchOpts {
    const char *device;
    int threads; /* cpu; 0: all */
    LlamaConfig shape;
    DType compute;
    QuantOpts quant;                   /* of the base; type QUANT_NONE: as it is */
    const LoraOpts *lora;              /* adapters beside it, unmerged; NULL: none */
    double memory_gib;                 /* of the device; 0: all that is free */
    int64_t batch, prompt, new_tokens; /* sequences; tokens of each, read and then written */
    bool no_graph;                     /* kernel by kernel (infer/token_pass.h) */
    bool no_early; /* kernels of a graph in strict turns (DeviceOpts.no_early) */
} DecodeBenchOpts;

typedef struct DecodeBenchResult {
    DeviceInfo info;
    double token_s; /* of a pass, a token of each sequence: all new_tokens of them, divided */
    double token_min_s, token_max_s; /* as the host reads one after the other */
    double prompt_s;                 /* all prompts */
    double weight_bytes,
        cache_bytes;       /* that a pass reads: all matrices once; keys and values, in the mean */
    double copy_bandwidth; /* bytes a second, read and written */
    int64_t n_recorded, n_replayed; /* passes, where the device records */
    size_t peak, planned_peak;      /* bytes live */
} DecodeBenchResult;

/* E_INPUT where it does not fit. */
Status bench_decode(DecodeBenchResult *out, const DecodeBenchOpts *opts, Err *err) MUST_CHECK;
