/* Saving: checkpoints that are written while training goes on.  A save is begun at a step boundary, where training stands still
 * for copies from the device to the host; each rank's part is then written in the background.  At a later step boundary, when all
 * ranks are through, their checksums are put together, and rank 0 makes the folder a checkpoint, in the background, too.
 *
 * All calls but the first two are for all ranks at the same place. */
#pragma once

#include "trainer/checkpoint.h"
#include "trainer/metrics.h"
#include "trainer/saver.h"

typedef struct Saving Saving;

/* Told when a checkpoint is there. */
typedef void SaveTold(void *ud, const SaveRecord *r);

/* A session with its model, borrowed. */
Status saving_new(Saving **out, Session *s, SaveTold *told, void *ud, Err *err) MUST_CHECK;
void saving_free(Saving *v); /* NULL is fine; what is under way is left half written */
/* Its saver, for files that are no checkpoint; with nothing under way. */
Saver *saving_saver(Saving *v);

/* Finishes what is under way and begins to save the run as it stands. */
Status saving_start(Saving *v, const RunState *run, Err *err) MUST_CHECK;
/* How far this rank is, to be told to the others at a step boundary; with the answers of all (in one byte each), whether
 * something is to be done together: then saving_go_on. */
typedef enum SavingStage { SAVING_NOTHING, SAVING_BUSY, SAVING_READY, SAVING_FAILED } SavingStage;
SavingStage saving_stage(Saving *v);
bool saving_can_go_on(const char *stages, int n);
Status saving_go_on(Saving *v, Err *err) MUST_CHECK;
/* Returns when nothing is under way. */
Status saving_finish(Saving *v, Err *err) MUST_CHECK;
