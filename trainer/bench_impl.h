/* What the files of the benchmark share: a model on a device with the steps to time. */
#pragma once

#include "trainer/bench.h"
#include "trainer/plan.h"
#include "trainer/step.h"

enum { BENCH_WARM_UP = 2 };

typedef struct Bench {
    const BenchOpts *opts;
    RecomputeMix mix;
    Device dev;
    HostHome home; /* with offload */
    Llama model;
    LoraSet lora;
    Comm comm;
    ShardSet shards;
    Stepper *stepper;
    HostBatch batches[BENCH_MAX_LINES], *batch; /* of the line that runs */
    int64_t t;                                  /* steps so far */
    bool has_model, has_lora;
} Bench;

/* trainer/bench_model.c.  Over comm, which is b's or one of a rank alone. */
Status bench_open_model(Bench *b, Comm *comm, Err *err) MUST_CHECK;
void bench_close_model(Bench *b);
void bench_close(Bench *b);
void bench_make_batches(Bench *b, BenchResult *out);
/* The shards of o's steps, for `ranks`. */
ShardOpts bench_shards(const BenchOpts *o, int ranks);
/* One step of b->batch, not waited for. */
StepResult bench_step(Bench *b);

/* trainer/bench_plan.c: the same steps on a plan device, for so many ranks: the mix that o->recompute means on `real`, memory and bytes
 * of AdamW into `out`.  E_INPUT when they do not fit; out->planned_extent tells what they need. */
Status bench_plan(BenchResult *out, const BenchOpts *o, const Device *real, int ranks,
                  Err *err) MUST_CHECK;
/* The most rows at once that fit; 0: not even one. */
int64_t bench_largest(const BenchOpts *o, const Device *real, int ranks);
