/* How much host memory saving takes: slots that are filled from the device and written to files. */
#pragma once

#include "trainer/save_piece.h"

typedef struct Staging {
    size_t slot_bytes;
    int n_slots;
    int n_needed; /* slots in which all that this rank saves would find room at once */
} Staging;

/* As much as a checkpoint needs, or as save.staging allows; a plan device's shards will do. */
Staging staging_of(const TrainConfig *c, const ShardSet *s);
/* Not more than half of what the host has free, over all ranks there; told. */
void staging_limit(Staging *g, const Session *s);
/* How many of n numbers of a shard fit into what a slot has left; 0: it is full. */
int64_t staging_fit(const ParamShard *sh, const ShardRange *r, SaveParts parts, int64_t n,
                    size_t room);

static inline size_t staging_bytes(const Staging *s)
{
    return s->slot_bytes * (size_t)s->n_slots;
}
