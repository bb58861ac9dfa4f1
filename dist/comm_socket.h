/* Ranks as processes that know where rank 0 listens: no MPI needed.  Everything goes through rank 0, so it is made for
 * what hosts have to say and for small models on CPUs. */
#pragma once

#include "dist/comm.h"
#include "dist/net.h"

/* A wait that may be asked to end: asked NULL is never.  stopped: it was, here or on a rank that said so. */
typedef struct JoinStop {
    NetStop *asked;
    bool stopped;
} JoinStop;

/* All ranks; waits for the others up to two minutes, or until one is asked to stop (E_FAILED on all that wait).  local_rank and
 * local_size are left 0. */
Status comm_socket(Comm *out, int rank, int size, const char *host, int port, JoinStop *stop,
                   Err *err) MUST_CHECK;
