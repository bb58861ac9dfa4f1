/* Ranks as processes with a GPU each. */
#pragma once

#include "dist/comm.h"

/* Whether it was built in. */
bool comm_nccl_built(void);
/* The collectives of d, a CUDA device, for the ranks of `hosts`, which goes on to serve comm_exchange and is borrowed.
 * ctas: GPU blocks that a collective takes at most, 0: as many as NCCL likes.
 * libnccl is loaded here, so that a program that needs no second GPU starts without it; E_FAILED tells what is
 * missing.  All ranks. */
Status comm_nccl(Comm *out, Comm *hosts, Device *d, int ctas, Err *err) MUST_CHECK;
