/* What commands do that run on several ranks. */
#pragma once

#include "cli/command.h"
#include "dist/launch.h"
#include "dist/watch.h"

typedef struct Ranks {
    Comm hosts;
    Watch *watch; /* NULL: one rank */
} Ranks;

/* Finds out who was started and joins them.  Must not move afterwards.  E_INPUT, E_FAILED: *err says why this process cannot join;
 * stop->stopped where it was asked not to wait for them. */
Status ranks_join(Ranks *r, JoinStop *stop, Err *err) MUST_CHECK;
/* command_end_problems on the first rank; the others return the same code in silence. */
int ranks_end(const Ranks *r, Status s, Problems *p, const Err *err);
/* Waits for all: the last thing that a rank does. */
void ranks_leave(Ranks *r);
