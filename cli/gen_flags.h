/* The flags that decide how text is generated: `generate` and `eval --rouge`. */
#pragma once

#include "base/advice.h"
#include "base/opts.h"
#include "infer/generate.h"

typedef struct GenFlags {
    int64_t max_new_tokens, batch, top_k, seed;
    double temperature, top_p, min_p, repetition_penalty;
    OptStrings stop;
} GenFlags;
GenFlags gen_flags_defaults(void);

#define GEN_FLAGS(f)                                                                               \
    {"max-new-tokens", OPT_INT, &(f).max_new_tokens, "N", "at most this many (default: 256)"},     \
        {"temperature", OPT_NUMBER, &(f).temperature, "T",                                         \
         "0: greedy, the best token always (default); above: draw, flatter the higher"},           \
        {"top-k", OPT_INT, &(f).top_k, "K", "draw among the K best tokens (default: all)"},        \
        {"top-p", OPT_NUMBER, &(f).top_p, "P",                                                     \
         "draw among the best that together have probability P (default: all)"},                   \
        {"min-p", OPT_NUMBER, &(f).min_p, "P",                                                     \
         "draw among tokens of at least P times the best one's probability (default: all)"},       \
        {"seed", OPT_INT, &(f).seed, "N", "of the draws (default: 0)"},                            \
        {"repetition-penalty", OPT_NUMBER, &(f).repetition_penalty, "R",                           \
         "divide the score of tokens already seen (default: 1, none)"},                            \
        {"stop", OPT_STRINGS, &(f).stop, "TEXT",                                                   \
         "end before this text; may be given several times"},                                      \
    {                                                                                              \
        "batch", OPT_INT, &(f).batch, "N", "sequences at once (default: 8)"                        \
    }

/* Checks ranges.  o->stop borrows from f. */
Status gen_flags_apply(GenerateOpts *o, const GenFlags *f, Err *err) MUST_CHECK;
/* What to set where `batch` sequences do not fit the device (device_when_full), into out[ADVICE_MAX], which is returned. */
const char *gen_flags_when_full(char *out, const GenerateOpts *o, int64_t batch, bool quantised);
