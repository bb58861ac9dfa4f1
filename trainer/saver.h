/* Saver: writes this rank's part of the large files of a checkpoint or a result while training goes on.  What is trained is
 * copied from the device into staging memory of the host, and threads write it from there.  Where staging memory has no room for
 * all of it, the caller waits for threads to free some: copies and writes overlap, and training stands still until the last
 * copy.
 *
 * Its threads touch neither the device (but to ask whether a copy is done) nor ranks. */
#pragma once

#include "trainer/staging.h"

typedef struct Saver Saver;

/* A session with its model, borrowed.  Takes the staging memory. */
Status saver_new(Saver **out, Session *s, Err *err) MUST_CHECK;
void saver_free(Saver *v); /* NULL is fine; waits for what is under way */

/* All ranks, with nothing under way.  Rank 0 makes `dir` anew with all files, the others find it there.  On return what is to be
 * saved was read, and may change. */
Status saver_begin(Saver *v, const char *dir, SaveParts parts, Err *err) MUST_CHECK;
/* Whether staging memory has no room for a whole checkpoint. */
bool saver_streams(const Saver *v);
/* job(ud), too, in the background; with nothing under way.  *err is its own. */
typedef Status SaverJob(void *ud, Err *err);
void saver_run(Saver *v, SaverJob *job, void *ud);
/* What is under way on this rank: whether it is done or failed (any is, when nothing was begun), ... */
bool saver_done(Saver *v);
bool saver_failed(Saver *v);
/* ... waiting at most so many seconds for that (< 0: as long as it takes); writing no more of it, which is no failure by itself; its
 * outcome, which saver_end waits for. */
bool saver_wait(Saver *v, double seconds);
void saver_cancel(Saver *v);
Status saver_end(Saver *v, Err *err) MUST_CHECK;

/* After saver_end: what was written, and where (to be read). */
SaveFiles *saver_files(Saver *v);
