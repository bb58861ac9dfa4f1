/* manifest.json of a checkpoint: what the folder's files must be, and everything about the run that is no
 * tensor. */
#pragma once

#include "base/json.h"
#include "trainer/checkpoint.h"

enum { MANIFEST_RANGE = 16 << 20 }; /* bytes under one checksum */

static inline size_t manifest_ranges(uint64_t bytes)
{
    return (size_t)((bytes + MANIFEST_RANGE - 1) / MANIFEST_RANGE);
}

/* A file whose checksums are known. */
typedef struct ManifestFile {
    const char *name;
    uint64_t bytes;
    const uint32_t *sums; /* (manifest_ranges) */
} ManifestFile;

/* What a manifest says beside the files. */
typedef struct ManifestHead {
    const Session *session;
    uint64_t base_hash; /* manifest_base_hash */
    RunState run;
} ManifestHead;

/* Of every number of the frozen parameters, as they are kept.  All ranks. */
uint64_t manifest_base_hash(Session *s);
/* Writes DIR/manifest.json over all files of `dir`: their checksums are those of `known`, or made here. */
Status manifest_write(const ManifestHead *head, const ManifestFile *known, int n, const char *dir,
                      Err *err) MUST_CHECK;
/* Whether DIR/NAME is, byte for byte, what was written. */
Status manifest_check_file(const char *dir, const ManifestFile *file, Err *err) MUST_CHECK;
/* DIR/manifest.json, which the caller frees. */
Status manifest_read(Json **out, const char *dir, Err *err) MUST_CHECK;
/* Whether those ranges of the files have their checksums that fall to this of so many ranks (0 of 1: all). */
Status manifest_verify(const char *dir, int rank, int size, Err *err) MUST_CHECK;
Status manifest_run(RunState *run, const Json *manifest, const char *dir, Err *err) MUST_CHECK;
/* All ranks.  Every difference between the run that wrote it and this one that changes what is computed. */
void manifest_compare(Session *s, const Json *manifest, const char *dir, Problems *problems);
