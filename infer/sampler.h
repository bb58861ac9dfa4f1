/* From logits to a token, in transformers' order: repetition penalty, then (unless greedy) temperature, top-k, top-p,
 * min-p, softmax and a draw.  The draw is a pure function of (seed, sequence, position): what a sequence says does
 * not depend on the batch it was computed in. */
#pragma once

#include "base/err.h"

typedef struct SamplerOpts {
    double temperature; /* 0: greedy, the three below are ignored */
    int64_t top_k;      /* keep the k best, ties with the last of them too; 0: all */
    double top_p;       /* keep the smallest set of the best that has this probability; 1: all */
    double min_p;       /* drop what is less probable than this share of the best; 0: none */
    double repetition_penalty; /* of every token seen before, in the prompt too; 1: none */
    uint64_t seed;
} SamplerOpts;

/* Greedy, nothing filtered. */
SamplerOpts sampler_defaults(void);
/* Ranges; the line names the option as the command line spells it. */
Status sampler_check(const SamplerOpts *o, Err *err) MUST_CHECK;

/* Scratch of one thread.  Zero-initialise; sampler_clear frees. */
typedef struct Sampler {
    uint8_t *seen; /* (V) */
    float *order;  /* (V) */
    int64_t cap;
    struct Candidate *candidates;
} Sampler;
void sampler_clear(Sampler *s);

/* Logits (V) become scores in place, -inf where a token is excluded.  previous[0..n_previous): prompt and generated
 * tokens, in [0,V). */
void sampler_scores(Sampler *s, const SamplerOpts *o, float *logits, int64_t n_vocab,
                    const int32_t *previous, int64_t n_previous);
/* sampler_scores, then the choice: the best (ties: the lowest id) or a draw for token `position` of sequence
 * `sequence`.  Spoils logits.  -1 when they hold a NaN, +inf or nothing but -inf. */
int32_t sampler_pick(Sampler *s, const SamplerOpts *o, float *logits, int64_t n_vocab,
                     const int32_t *previous, int64_t n_previous, uint64_t sequence,
                     uint64_t position);
