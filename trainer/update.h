/* The optimizer's part of a step: the gradient's norm, clipping, AdamW.  Either after the last backward pass, or unit by
 * unit within it (a unit: the embedding, a block, the head), so that the whole gradient never exists and units take
 * turns in one buffer; where ranks split it their parts are kept and updated together, the last unit's after the others.
 * Both give the same bits where both are possible. */
#pragma once

#include "dist/shard.h"
#include "optim/adamw.h"

/* Whose norm the gradient is clipped by: of everything trained, or each unit's by its own. */
typedef enum ClipBy { CLIP_GLOBAL, CLIP_BLOCK } ClipBy;

typedef struct UpdateOpts {
    AdamwOpts adamw;
    double clip; /* 0: none */
    ClipBy clip_by;
    bool in_backward; /* one backward pass a step; not with clipping by global norm */
} UpdateOpts;

typedef struct Update Update;

/* Borrows all but opts; shards are made with the same in_backward.  loss_sum (1) f32 is the step's, of this rank or of all. */
Update *update_new(ShardSet *shards, const UpdateOpts *opts, const Tensor *loss_sum);
void update_free(Update *u);

/* Before the first forward pass of the t-th update (from 1), at rate lr. */
void update_begin(Update *u, double lr, int64_t t);
/* After the last backward pass: sum_squares (1) f32 receives this rank's share of the gradient's sum of squares. */
void update_measure(Update *u, Tensor *sum_squares);
/* Then, with the sum of all ranks' shares and loss_sum of all: what is not done yet. */
void update_apply(Update *u, const Tensor *sum_squares);

/* Of the step that ended, waiting for the device: false when AdamW did nothing, or nothing from some unit on. */
bool update_finite(Update *u);
/* In the order of the backward pass, the first unit whose gradient is not finite; -1: none, or updated after it by global
 * norm, when the flat gradients are there to be looked at. */
int update_bad_unit(Update *u);
