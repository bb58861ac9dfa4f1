/* Ranks as threads of a test: each runs `fn` with a Comm of its own. */
#pragma once

#include "dist/comm.h"

typedef void RankFn(Comm *c, void *ud);

/* Returns when all n are done.  Their comms are closed then. */
void ranks_run(int n, RankFn *fn, void *ud);
