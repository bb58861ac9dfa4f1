/* Checkpoints: OUTPUT/checkpoint-N holds the weights as others read them (an adapter or a model folder),
 * state.safetensors with the fp32 master copy and AdamW's m and v of every trained checkpoint tensor
 * ("master.NAME", "m.NAME", "v.NAME", in 8 bits "m_absmax.NAME" and "v_absmax.NAME", too: no layout, no number of ranks), and manifest.json with the position
 * in the data and a CRC-32C for every 16 MiB of every file.
 *
 * A checkpoint is written beside (.checkpoint-N.tmp), synced and renamed: whatever kills the process, what is
 * called checkpoint-N is whole, or was damaged later and fails its checksums. */
#pragma once

#include "trainer/session.h"

enum { RECENT_LOSSES = 20 };

/* Where a run stands. */
typedef struct RunState {
    int64_t step;              /* optimizer steps done */
    int64_t epoch, epoch_step; /* of the next step */
    int64_t samples;           /* documents consumed */
    double best_loss;          /* of evaluations; best_step 0: none yet */
    int64_t best_step, evals_since_best;
    int64_t evaluated; /* step after which the last whole evaluation was; 0: none */
    bool stopped;      /* early: no step follows */
    double
        recent[RECENT_LOSSES]; /* losses of the last steps, a ring: step s at s % RECENT_LOSSES */
} RunState;

/* "OUTPUT/checkpoint-STEP" in fresh memory. */
char *checkpoint_path(const TrainConfig *c, int64_t step);

/* "OUTPUT/.checkpoint-STEP.tmp", where it is written. */
char *checkpoint_path_beside(const TrainConfig *c, int64_t step);

/* These are for one rank, the one that leads; trainer/saving.h writes what they handle.
 *
 * What was written beside becomes the checkpoint of that step; or it is removed. */
Status checkpoint_put_in_place(const TrainConfig *c, int64_t step, Err *err) MUST_CHECK;
Status checkpoint_drop(const TrainConfig *c, int64_t step, Err *err) MUST_CHECK;
/* Removes all but the newest save.keep and the best. */
Status checkpoint_prune(const TrainConfig *c, const RunState *run, Err *err) MUST_CHECK;
/* Removes what an interrupted run left behind half written. */
Status checkpoint_clean(const TrainConfig *c, Err *err) MUST_CHECK;

/* Renames those of later steps than `step`, which the newest whole one has, to checkpoint-N.damaged, so that the run which goes on from
 * there neither writes over them nor counts them among save.keep.  For the rank that leads. */
Status checkpoint_set_aside(const TrainConfig *c, int64_t step, Log *log, Err *err) MUST_CHECK;
/* The highest N of OUTPUT/checkpoint-N, whole or not; -1: none. */
int64_t checkpoint_highest(const TrainConfig *c);

/* All ranks.  What the session's run goes on from by its `resume`, in fresh memory; *path NULL: it begins anew.  Each rank reads its share
 * of the checksums.  auto: the newest whole one of OUTPUT; damaged ones are told and passed over.  E_INPUT about that key: there are
 * some and none is whole, or the one that is named is not. */
Status checkpoint_choose(char **path, Session *s, Err *err) MUST_CHECK;
/* All ranks.  Whether the run can go on from one that is whole, as far as its manifest tells: a config that computes something else, other
 * data or another base is refused, key by key, and one that is named where OUTPUT has later ones.  *run: where it stands. */
Status checkpoint_check(Session *s, RunState *run, const char *path, Problems *problems) MUST_CHECK;
/* All ranks.  Checks as checkpoint_check, then restores master copies, m, v and *run. */
Status checkpoint_load(Session *s, RunState *run, const char *path, Problems *problems) MUST_CHECK;
/* The master copies alone, verified before.  All ranks. */
Status checkpoint_load_weights(Session *s, const char *path, Err *err) MUST_CHECK;
