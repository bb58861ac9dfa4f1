/* The flags of `lorac bench`: what they default to, which go together, and what they make of a benchmark's options. */
#pragma once

#include "base/opts.h"
#include "trainer/bench.h"
#include "trainer/bench_decode.h"

enum { BENCH_MAX_TARGETS = 16, BENCH_SCRATCHES = 3 /* runtime.scratches' default */ };

typedef struct BenchFlags {
    const char *model, *method, *quantize, *targets, *precision, *recompute, *attention, *device,
        *rows, *lengths;
    const char *gradients, *update, *states, *reduce, *embedding, *offload;
    Comm *hosts;
    int64_t zero, prefetch, ctas, spare;
    int64_t rank, seq, micro, steps, threads, scratches, quant_block;
    int64_t batch, prompt, new_tokens; /* of decode */
    double seconds, dropout, memory;
    bool single_quant, deterministic, exact, kernels, profile, matrix, json, steps_only, largest;
    bool dora, decode, unmerged, no_graph, no_early, decode_ahead;
    char *target_text,
        *target_names[BENCH_MAX_TARGETS]; /* of bench_flags_check: `targets` cut up */
    int n_targets;
} BenchFlags;

/* Before the command line is read; what depends on other flags is filled in by bench_flags_check. */
BenchFlags bench_flags_defaults(void);
/* Refuses flags of the other way (--decode or not) and fills in what was not given. */
Status bench_flags_check(BenchFlags *f, Err *err) MUST_CHECK;
/* A training step, without --decode.  *o borrows from *f; o->lens is the caller's to free whatever comes of it. */
Status bench_flags_step(BenchOpts *o, const BenchFlags *f, Err *err) MUST_CHECK;
/* Decoding.  *lora takes the adapters' options, to which *d points where it has any. */
Status bench_flags_decode(DecodeBenchOpts *d, LoraOpts *lora, const BenchFlags *f,
                          Err *err) MUST_CHECK;
void bench_flags_clear(BenchFlags *f);
