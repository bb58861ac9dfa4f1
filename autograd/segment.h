/* Segment: a block as the trainer's unit.  The one seam for recompute (save the input, run again in
 * backward) and sharding (hooks around each use): neither the tape nor the model knows of either. */
#pragma once

#include "autograd/tape.h"

typedef struct SegmentHooks {
    void (*enter_forward)(void *ud);
    void (*leave_forward)(void *ud);
    void (*enter_backward)(void *ud); /* before a recompute, if there is one */
    void (*leave_backward)(void *ud);
} SegmentHooks;

/* `batch` is whatever else fn reads and nobody differentiates: positions, lengths, the KV cache.  It must
 * live until backward is done. */
typedef Tensor *SegmentFn(Ctx *c, void *self, Tensor *x, const void *batch);

typedef struct Segment {
    SegmentFn *fn;
    void *self;
    const char *name;
    bool recompute;
    bool
        trained; /* some parameter inside is trained, so a recompute is worth recording for it alone */
    const SegmentHooks *hooks; /* or NULL */
    void *hooks_ud;
} Segment;

/* Runs fn in a scope of its own and returns its result in the caller's.  x may be NULL (the embedding).  A
 * recomputed segment is recorded when x needs a gradient or `trained` is set. */
Tensor *segment_run(Ctx *c, const Segment *s, Tensor *x, const void *batch);
