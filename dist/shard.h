/* ParamShard: the trained parameters of one unit (embedding, a block, the head) as flat f32 arrays with a
 * table of ranges, one a checkpoint tensor.  Optimizer, gradient reduction and checkpoints walk the
 * ranges and know neither model nor layout.
 *
 * On an f32 device the parameters' storage IS the master array; on others they keep a working copy of
 * their own.  Frozen parameters have no range and none of these arrays. */
#pragma once

#include "autograd/param.h"
#include "dist/comm.h"

enum { SHARD_ALIGN = 64 }; /* elements: a parameter begins at a multiple of 256 bytes */

typedef struct ShardRange {
    Param *param;
    int slice;             /* of param: the checkpoint tensor param->slices[slice] */
    int64_t offset, numel; /* elements of the flat arrays */
    float lr_scale;
    bool decay;
} ShardRange;

typedef struct ParamShard {
    int unit;
    ShardRange *ranges;
    int n_ranges;
    int64_t numel;             /* a multiple of SHARD_ALIGN; what lies between parameters is 0 */
    Tensor master, grad, m, v; /* (numel) f32 */
} ParamShard;

typedef struct ShardSet {
    Device *dev;
    Comm *comm;
    const ParamSet *params;
    ParamShard *items; /* units ascending */
    int n;
    Tensor *grads; /* what the trained parameters' t.grad point at */
} ShardSet;

/* Gives every parameter its storage: trained ones in the arrays, frozen ones their own.  Contents are
 * undefined but for gaps and states, which are 0.  Borrows comm and params. */
void shards_init(ShardSet *s, Device *d, Comm *comm, const ParamSet *params);
void shards_clear(ShardSet *s); /* before the parameters go */

/* After the working copies were filled: master = working (a no-op on f32 devices). */
void shards_master_from_working(ShardSet *s);
/* And the other way, after the masters were filled. */
void shards_working_from_master(ShardSet *s);

/* After the optimizer: the trained parameters' versions count up. */
void shards_changed(ShardSet *s);

/* Around the backward passes of an optimizer step: forget what gradients hold; then complete them: a
 * parameter that nothing reached has gradient 0, ranks are summed. */
void shards_begin_step(ShardSet *s);
void shards_finish_grads(ShardSet *s);

/* A range of one of its shard's flat arrays. */
Tensor shard_view(const Tensor *flat, const ShardRange *r);
/* A range of the parameter as the model computes with it (dense). */
Tensor shard_working_view(const ShardRange *r);
const char *shard_range_name(const ShardRange *r);
/* Trained elements, gaps not counted. */
int64_t shards_numel(const ShardSet *s);
/* A fingerprint of the trained parameters' f32 values, in order and by name. */
uint64_t shards_hash(const ShardSet *s);
