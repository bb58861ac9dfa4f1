/* Ranks as processes that know where rank 0 listens: no MPI needed.  Everything goes through rank 0, so it is made for
 * what hosts have to say and for small models on CPUs. */
#pragma once

#include "dist/comm.h"

/* All ranks; waits for the others up to two minutes.  local_rank and local_size are left 0. */
Status comm_socket(Comm *out, int rank, int size, const char *host, int port, Err *err) MUST_CHECK;
