/* Ranks that are not there: for plans of a run of `size`, on a device that computes nothing.  Nothing moves; what it would
 * be is counted (Comm.sent_bytes). */
#pragma once

#include "dist/comm.h"

/* Rank 0 of them; needs no closing. */
Comm comm_plan(int size);
