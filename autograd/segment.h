/* Segment: a block as the trainer's unit.  The one seam for recompute (how much of it is kept for backward) and sharding
 * (hooks around each use): the model knows of neither. */
#pragma once

#include "autograd/tape.h"

typedef struct SegmentHooks {
    void (*enter_forward)(void *ud);
    void (*leave_forward)(void *ud);
    void (*enter_backward)(void *ud); /* before anything of it is made again */
    void (*leave_backward)(void *ud);
} SegmentHooks;

/* `batch` is whatever else fn reads and nobody differentiates: positions, lengths, the KV cache.  It must
 * live until backward is done. */
typedef Tensor *SegmentFn(Ctx *c, void *self, Tensor *x, const void *batch);

typedef struct Segment {
    SegmentFn *fn;
    void *self;
    const char *name;
    Recompute recompute;       /* of what fn computes; its result is kept */
    bool trained;              /* some parameter inside is */
    const SegmentHooks *hooks; /* or NULL */
    void *hooks_ud;
} Segment;

/* Said by fn before its last op, whose result is fn's: it is kept at every level.  Without it the result is kept, too, but
 * lies among what is not. */
void segment_last(Ctx *c);

/* Runs fn in a scope of its own and returns its result in the caller's.  x may be NULL (the embedding).  Nothing is
 * recorded where neither x nor a parameter inside needs a gradient. */
Tensor *segment_run(Ctx *c, const Segment *s, Tensor *x, const void *batch);
