/* Watch: a thread beside each rank that sees to it that all ranks end together.
 *
 * Every rank keeps a connection to rank 0.  When one breaks, or a rank's panic is told on it, or a collective is not done in
 * time, rank 0 says so in one message, with rank, host and step, and all ranks leave with exit code 1.  Whoever's panic
 * it is says that himself. */
#pragma once

#include "dist/comm.h"

typedef struct Watch Watch;

/* All ranks.  Sets the panic hook of the process.  *out NULL for one rank alone. */
Status watch_start(Watch **out, Comm *hosts, Err *err) MUST_CHECK;
/* Whose calls are looked at besides the hosts'; NULL: none.  It must live until the next call.  Seconds that a call may take; 0: any time. */
void watch_comm(Watch *w, const Comm *c, double timeout);
/* All ranks, when nothing more can fail: waits for the others.  NULL is fine. */
void watch_stop(Watch *w);
