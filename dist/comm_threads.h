/* Ranks as threads of one process: the everyday way to test what ranks do, and the only one on a single GPU. */
#pragma once

#include "dist/comm.h"

/* Fills ranks[0..n) with comms that belong together, one for each thread; each is closed by comm_close, from any
 * thread, after the last collective.  Their devices are all of one kind: hosts, or one GPU. */
void comm_threads(Comm *ranks, int n);
