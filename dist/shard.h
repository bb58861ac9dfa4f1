/* ParamShard: parameters of one unit (embedding, a block, the head) as flat arrays, of which each rank keeps a part, with a
 * table of ranges, one a checkpoint tensor.  Optimizer, gradient reduction and checkpoints walk the ranges
 * and know neither model nor layout.
 *
 * A unit has up to four shards: what is trained and small (adapters), whole on every rank; what is trained and large,
 * which ranks split; and where it comes and goes what is frozen, as values, and as the codes of what is quantised.  Stages
 * as in Rajbhandari et al. 2020 (ZeRO):
 *
 *   0  every rank has everything; gradients are summed once a step
 *   1  master copies and AdamW's states are split; gradients are summed into parts once a step, parameters gathered after it
 *   2  gradients, too: a unit's are summed into parts as soon as its backward pass is done
 *   3  parameters, too: a unit's are gathered before use, the next one's meanwhile, and released after it
 *
 * On a bf16 device a second array has the low halves of the fp32 master copies (autograd/param.h).
 *
 * This rank's parts lie on the device, or in host memory (offload): the master copies and AdamW's states, of which only
 * gradients and new weights travel; and the large parameters, too, whose units are then brought before use and dropped
 * after it at any stage, as stage 3 gathers them: up from the host, then from the other ranks. */
#pragma once

#include "autograd/param.h"
#include "autograd/segment.h"
#include "dist/comm.h"
#include "dist/states.h"

/* Elements: a parameter begins, and a rank's part ends, at a multiple of 512 bytes in bf16 and of a block of 8-bit states. */
enum { SHARD_ALIGN = STATES_BLOCK };

/* Host memory as devices (backend cpu) for what does not lie on the device. */
typedef struct ShardHost {
    Device *states; /* low halves, m and v: they never travel */
    Device *pinned; /* what the device copies from and to: master copies, parameters */
    bool params;    /* large parameters live there, too */
} ShardHost;

typedef struct ShardOpts {
    int zero;      /* the stage, 0..3 */
    int64_t least; /* trained parameters of a unit with fewer elements stay whole on every rank */
    DType grads;   /* of the flat gradients: DT_F32 or DT_BF16 */
    DType reduce;  /* in which those of split shards travel and are added up, hop by hop */
    bool exact;    /* instead they travel as they are and are added in f32 where they go to */
    int ahead; /* so many units that come and go are brought before they are needed; 0: when they are */
    StatesFormat states; /* of AdamW, but for what shard_states_format says */
    Comm *run,
        *across; /* ranks split in runs (comm_run, comm_across), and runs have the same; NULL: all are one */
    const ShardHost *host; /* NULL: everything is on the device */
    bool
        in_backward; /* a unit's gradient is there from its backward pass until ShardSet.done took it: one pass a step */
} ShardOpts;

/* What this rank keeps of a checkpoint tensor. */
typedef struct ShardRange {
    Param *param;
    int slice;             /* of param: the checkpoint tensor param->slices[slice] */
    int64_t first;         /* element of that tensor with which the range begins */
    int64_t offset, numel; /* elements of this rank's arrays */
    float lr_scale;
    bool decay;
} ShardRange;

typedef struct ParamShard {
    int unit;
    bool trained, split;
    bool comes_and_goes; /* parameters are brought before each use and dropped after it */
    Param **params;
    int64_t *offsets; /* of the params in the whole */
    int n_params;
    ShardRange *ranges; /* of what is trained, ascending */
    int n_ranges;
    int64_t
        total; /* elements of all ranks, a multiple of SHARD_ALIGN; what lies between parameters is 0 */
    int64_t first, numel; /* this rank's elements of it; all where it is not split */

    Tensor
        whole; /* (total) of the compute dtype, or u8 for codes; storage NULL: not gathered now */
    Tensor whole_low;  /* (total) i16, likewise; while parameters are open for reading or writing */
    Tensor whole_grad; /* (total) of opts.grads; storage NULL: none now */
    Tensor
        weights; /* (numel) this rank's part of `whole`; in host memory where that is the parameters' */
    Tensor
        master; /* (numel) trained: what AdamW updates: the weights, or their twin in host memory */
    Tensor
        low; /* (numel) i16 beside trained bf16 weights, else without storage: bits = (master << 16) + low */
    Tensor grad;   /* (numel) of opts.grads; trained only, as states */
    States states; /* of numel elements */

    int64_t gathering, reducing; /* calls under way, or 0 */
    bool bound;                  /* the parameters' storage is `whole` */
    bool summed;                 /* grad holds something of this step */
    Tensor send, received; /* of the reduction under way, where it cannot go straight: what travels
                                    (or comes in), and its sum */
    int64_t leaving;       /* event: its gradient was read, and may lose its storage */
    int backwards;         /* of this pass that are still to come */
} ParamShard;

typedef struct ShardSet ShardSet;

/* A segment of the model as the shards see it: which units it reads. */
typedef struct ShardUse {
    ShardSet *set;
    int index; /* in the order of the forward pass */
    int units[2], n_units;
    bool hold;  /* its parameters are read by what follows it, too: until its backward pass */
    bool blind; /* its backward pass reads no parameter */
    const char *name;
} ShardUse;

/* A unit's gradient is complete in sh->grad; with opts.in_backward.  Returns the event until which it is read, or 0. */
typedef int64_t ShardDone(void *ud, ParamShard *sh);

struct ShardSet {
    Device *dev;
    Comm *comm;
    Comm *run, *across; /* that share a split shard; that have the same part of it, or NULL */
    ShardOpts opts;
    const ParamSet *params;
    ParamShard *items; /* units ascending */
    int n;
    int *units; /* (n_units + 1) first item of each unit */
    int n_units;
    Tensor *grads;   /* what the trained parameters' t.grad point at */
    Tensor together; /* whole_grad of all shards that stay whole and are summed after the passes */
    ParamShard *pending; /* its gradient is under way between ranks */
    ParamShard *left;    /* its gradient is under way to the host */
    ShardUse *uses;
    int n_uses;
    int first_trained;     /* use from which on gradients flow */
    size_t sent_uncovered; /* bytes of the last step's gradients that went after its passes */
    size_t sent_ahead;     /* bytes that the last step sent for the next one's first pass */
    bool training;         /* the pass under way has a backward part */
    ShardDone *done;
    void *done_ud;
    ParamHome home;
    ParamShard *open; /* by param_open */
    bool changed;     /* and written to: this rank's part is kept when it closes */
    bool leading;     /* the other ranks are in shards_follow */
};

/* Gives every parameter its storage: trained ones in the arrays, frozen ones their own (where they come and go: in the
 * arrays, too).
 * Contents are undefined but for gaps and states, which are 0.  Borrows comm and params; opts NULL: stage 0, f32.  *s must
 * not move. */
void shards_init(ShardSet *s, Device *d, Comm *comm, const ParamSet *params, const ShardOpts *opts);
void shards_clear(ShardSet *s); /* before the parameters go */

/* Around the passes of an optimizer step: forget what gradients hold; then complete them: a parameter that nothing
 * reached has gradient 0, ranks are summed into ParamShard.grad, and `done` has taken every unit's.  The last unit's may be
 * under way until then. */
void shards_begin_step(ShardSet *s);
void shards_finish_grads(ShardSet *s);
/* The optimizer has changed this rank's part of sh, or leaves it as it is until the next step: what the others' passes, and the
 * first unit's forward pass, need of it is on its way; trained parameters' versions count up.  All ranks, in one order. */
void shard_updated(ShardSet *s, ParamShard *sh);
/* Every one, in order, after others than the optimizer wrote to this rank's parts. */
void shards_updated(ShardSet *s);

/* How a checkpoint tensor's states are kept: as the options say, but in fp32 where it has fewer than 4096 elements or is an
 * embedding, as bitsandbytes and transformers' trainer have it, or where it or a neighbour in one matrix does not begin with a
 * block (no model known does that).  It follows from the tensor alone: the number of ranks does not count. */
StatesFormat shard_states_format(const ShardSet *s, const Param *p, int slice);
/* A range of one of this rank's flat arrays (weights, low, grad). */
Tensor shard_view(const Tensor *flat, const ShardRange *r);
const char *shard_range_name(const ShardRange *r);
/* Trained elements of all ranks, gaps not counted. */
int64_t shards_numel(const ShardSet *s);
/* A fingerprint of the trained parameters' f32 values (the master copies'), in order and by name; the same on every rank and for any number of
 * them.  All ranks. */
uint64_t shards_hash(ShardSet *s);
/* Of its elements here, those [*first, *first + *n) that this rank writes where several ranks have the same: all ranks together
 * have each once, in about equal parts. */
void shard_share(const ShardSet *s, const ParamShard *sh, int64_t *first, int64_t *n);
/* Whether this rank is the one that counts a shard in sums over ranks. */
bool shard_counts(const ShardSet *s, const ParamShard *sh);

/* ---- passes (dist/shard_pass.c) ------------------------------------------------------------------ */

/* Tells the set the model's segments in the order of their forward passes and gives them hooks where the stage needs
 * them.  uses[i] belongs to segments[i]; its set and index are filled in here, the rest by the caller. */
void shards_watch(ShardSet *s, Segment *const *segments, const ShardUse *uses, int n);
/* Whether ranks meet inside of passes, so that all must make the same number of them. */
bool shards_meet(const ShardSet *s);
/* Around a forward pass, and the backward pass if one follows.  end: releases and sums what no hook did. */
void shards_begin_pass(ShardSet *s, bool training);
void shards_end_pass(ShardSet *s);
/* What this rank does while others make a training pass and it has no tokens: brings its parts, adds nothing. */
void shards_idle_pass(ShardSet *s);

/* ---- parameters outside of passes --------------------------------------------------------------- */

/* param_open and param_close (autograd/param.h) gather a split parameter's unit: all ranks alike.  Where only rank 0
 * goes through parameters (to write them), it calls lead before and dismiss after that, and the others follow, which returns
 * when they are dismissed. */
void shards_lead(ShardSet *s);
void shards_dismiss(ShardSet *s);
void shards_follow(ShardSet *s);
