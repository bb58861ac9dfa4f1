/* What the commands that run a model share: the flags that name it, and opening it with its adapter on a device. */
#pragma once

#include "base/log.h"
#include "cli/quant_flags.h"
#include "data/tokenizer.h"
#include "model/lora.h"

typedef struct ModelFlags {
    const char *model, *adapter, *tokenizer, *device, *precision;
    QuantFlags quant;
    const QuantOpts
        *base; /* how to keep it where no flag says; NULL: as the run that made the adapter */
    int64_t threads;
    double outliers;
} ModelFlags;
ModelFlags model_flags_defaults(void);

/* Entries for a command's table of options. */
#define MODEL_FLAGS(f)                                                                             \
    {"model", OPT_STRING, &(f).model, "DIR", "model folder in Hugging Face layout"},               \
        {"adapter", OPT_STRING, &(f).adapter, "DIR",                                               \
         "LoRA adapter in PEFT's layout, run beside the model without merging"},                   \
        {"tokenizer", OPT_STRING, &(f).tokenizer, "PATH",                                          \
         "folder or file of the tokenizer (default: the model folder)"},                           \
        QUANT_FLAGS((f).quant),                                                                    \
        {"int8-outliers", OPT_NUMBER, &(f).outliers, "T",                                          \
         "int8: code inputs in 8 bits too, but for columns with magnitudes from T on (6)"},        \
        {"device", OPT_STRING, &(f).device, "NAME", "where to compute (default: cpu)"},            \
        {"precision", OPT_STRING, &(f).precision, "NAME",                                          \
         "bf16 (default on cuda) or fp32 (the CPU's only one); logits are fp32 always"},           \
    {                                                                                              \
        "threads", OPT_INT, &(f).threads, "N", "cpu threads (default: all that may be used)"       \
    }

/* Refuses an output (NULL: none) that would take the place of a file of the model, the adapter or the tokenizer. */
Status model_keeps_its_files(const ModelFlags *f, const char *out, Err *err) MUST_CHECK;

/* A model on a device.  Zero-initialise; model_close is fine whatever model_open came to.  Must not move. */
typedef struct OpenModel {
    Device dev;
    Llama llama;
    LoraSet lora;
    bool has_llama, has_lora;
} OpenModel;

/* The files that are needed before a prompt can be encoded.  The tokenizer is the caller's to free; t NULL: none is
 * read. */
Status model_read_config(LlamaConfig *cfg, Tokenizer **t, const ModelFlags *f, Err *err) MUST_CHECK;
/* Whether the base is kept in 4 or 8 bits, as its folder, flags or f->base have it. */
bool model_is_quantised(const ModelFlags *f, const LlamaConfig *cfg);
/* How the base will be kept: as its files are where they are quantised, else as flags say, f->base, or the run that made the
 * adapter, which a note tells. */
Status model_base(QuantOpts *out, const ModelFlags *f, const LlamaConfig *cfg, Log *log,
                  Err *err) MUST_CHECK;
/* Loads weights and adapter; positions: the longest sequence that will be run; when_full: see device_when_full. */
Status model_open(OpenModel *m, const ModelFlags *f, const LlamaConfig *cfg, int64_t positions,
                  const char *when_full, Log *log, Err *err) MUST_CHECK;
/* What a run of the model came to: where that is E_FAILED, a loss or logits that are not finite, and a file of weights holds such
 * numbers itself, E_INPUT that names it instead; else the line says that no file does. */
Status model_blame(const OpenModel *m, const ModelFlags *f, Status s, Err *err) MUST_CHECK;
void model_close(OpenModel *m);

/* The longest sequence that the model can run. */
int64_t model_context(const LlamaConfig *cfg);
