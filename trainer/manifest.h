/* manifest.json of a checkpoint: what the folder's files must be, and everything about the run that is no
 * tensor. */
#pragma once

#include "base/json.h"
#include "trainer/checkpoint.h"

/* Lists and sums up the files of `dir` and writes DIR/manifest.json.  All ranks; rank 0 writes. */
Status manifest_write(Session *s, const RunState *run, const char *dir, Err *err) MUST_CHECK;
/* Reads it and compares those ranges of the files with their checksums that fall to this of so many ranks (0 of 1: all).  The
 * caller frees *out. */
Status manifest_verify(Json **out, const char *dir, int rank, int size, Err *err) MUST_CHECK;
Status manifest_run(RunState *run, const Json *manifest, const char *dir, Err *err) MUST_CHECK;
/* All ranks.  Every difference between the run that wrote it and this one that changes what is computed. */
void manifest_compare(Session *s, const Json *manifest, const char *dir, Problems *problems);
