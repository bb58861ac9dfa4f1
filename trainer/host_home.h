/* Host memory for what parallel.offload keeps there: a device (backend cpu, or plan) for what stays, whose threads are
 * those of AdamW, and one for what a device copies from and to, which is pinned where the backend can. */
#pragma once

#include "dist/shard.h"

typedef enum Offload { OFFLOAD_NONE, OFFLOAD_OPTIMIZER, OFFLOAD_PARAMS } Offload;

const char *offload_name(int i); /* as parallel.offload has it; NULL behind the last */

/* Bytes that a rank takes of its host. */
typedef struct HostNeed {
    size_t states, pinned;
} HostNeed;

typedef struct HostHome {
    Device states, pinned;
    ShardHost shards; /* of these two */
    bool open;
} HostHome;

/* For dev, which lives longer; threads 0: all that the process may use.  need: of a plan; NULL on a plan device, and for
 * OFFLOAD_NONE, which opens nothing.  *h must not move. */
Status host_home_open(HostHome *h, Device *dev, Offload how, const HostNeed *need, int threads,
                      Err *err) MUST_CHECK;
void host_home_close(HostHome *h);
/* For ShardOpts.host: NULL where nothing is open. */
const ShardHost *host_home_shards(const HostHome *h);
/* What was taken at the most. */
HostNeed host_home_need(const HostHome *h);
/* E_INPUT, with what to do, where `ranks` on this host that need so much each, and `also` besides, are too many for what it
 * has available (0: not known). */
Status host_home_check(const HostNeed *need, size_t also, int ranks, size_t available,
                       Err *err) MUST_CHECK;
