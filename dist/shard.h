/* ParamShard: the trained parameters of one unit (embedding, a block, the head) as flat arrays with a
 * table of ranges, one a checkpoint tensor.  Optimizer, gradient reduction and checkpoints walk the
 * ranges and know neither model nor layout.
 *
 * The parameters' storage is the array of weights.  On a bf16 device a second one has the low halves of the fp32 master
 * copies (autograd/param.h).  Frozen parameters have no range and none of these arrays. */
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
    int64_t numel;  /* a multiple of SHARD_ALIGN; what lies between parameters is 0 */
    Tensor weights; /* (numel) of the compute dtype: the parameters */
    Tensor
        low; /* (numel) i16 beside bf16 weights, else without storage: bits = (weights << 16) + low */
    Tensor grad, m, v; /* (numel) f32 */
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

/* After the optimizer: the trained parameters' versions count up. */
void shards_changed(ShardSet *s);

/* Around the backward passes of an optimizer step: forget what gradients hold; then complete them: a
 * parameter that nothing reached has gradient 0, ranks are summed. */
void shards_begin_step(ShardSet *s);
void shards_finish_grads(ShardSet *s);

/* A range of one of its shard's flat arrays. */
Tensor shard_view(const Tensor *flat, const ShardRange *r);
const char *shard_range_name(const ShardRange *r);
/* Trained elements, gaps not counted. */
int64_t shards_numel(const ShardSet *s);
/* A fingerprint of the trained parameters' f32 values (the master copies'), in order and by name. */
uint64_t shards_hash(const ShardSet *s);
