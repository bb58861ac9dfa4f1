/* One optimizer step: micro-batches forward and backward, the gradient's norm, clipping, AdamW.
 *
 * The loss is the sum over trained tokens divided by the trained tokens of the whole step, which are known
 * before the first forward pass, so neither loss nor gradient depends on how the step is cut. */
#pragma once

#include "trainer/batch.h"
#include "trainer/config.h"
#include "trainer/update.h"

typedef struct StepOpts {
    UpdateOpts update;
    int64_t micro_rows; /* rows at once */
    uint64_t seed;      /* of dropout */
    int scratches;      /* decoded matrices of a quantised base at a time (autograd/operand.h) */
    bool decode_ahead;  /* behind products, where there are two at least */
} StepOpts;

StepOpts step_opts(const TrainConfig *c);
/* What the shards of such steps are like. */
ShardOpts step_shards(const TrainConfig *c);
/* GPU blocks for collectives that run beside the products of micro-batches of so many tokens, so that these hide them and lose as
 * few multiprocessors as may be; 0, NCCL's own choice, where no gradients go beside them or a cap would not do.  ranks: that
 * share a split shard; full: every parameter is trained. */
int step_ctas(const ShardOpts *shards, int ranks, bool full, int64_t tokens);
/* The same for a run of `ranks`, as parallel.ctas says. */
int step_ctas_of(const TrainConfig *c, int ranks);

typedef struct StepResult {
    double loss, grad_norm; /* mean over trained tokens; before clipping */
    bool finite;            /* false: stepper_blame tells what was not */
    bool
        changed; /* weights and states; if not finite some may be, updated in backward before it was known */
    StepInfo info; /* rows, tokens without padding, trained tokens, documents */
} StepResult;

typedef struct Stepper Stepper;

/* Borrows all but opts.  After the parameters have their storage. */
Stepper *stepper_new(Llama *m, ShardSet *shards, Loader *loader, const StepOpts *opts,
                     Trace *trace);
void stepper_free(Stepper *s);

/* Rows of a step that a rank takes, and the first of them: runs of nearly equal length, in the order of ranks. */
int64_t step_rows(const StepInfo *info, int rank, int size, int64_t *first);

/* Step `step` of `epoch` at rate lr, the t-th update (from 1): all ranks.  The host waits for it. */
StepResult stepper_run(Stepper *s, int64_t epoch, int64_t step, double lr, int64_t t);

/* A step over n given micro-batches on each rank instead of the loader's (which may be NULL): plans and benchmarks. */
StepResult stepper_run_batches(Stepper *s, const HostBatch *batches, int n, double lr, int64_t t);

/* The first weight that holds NaN or infinity, in a line; false: none does.  All ranks, and the same on each. */
bool stepper_blame_weights(Stepper *s, char *buf, size_t n);
/* After a step that was not finite: one line naming the first tensor that holds NaN or infinity: a weight,
 * the loss, or a gradient.  All ranks. */
const char *stepper_blame(Stepper *s, const StepResult *r, char *buf, size_t n);
