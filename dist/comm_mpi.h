/* Ranks as processes that mpirun (or srun with PMI) started, on host memory. */
#pragma once

#include "dist/comm.h"

/* Whether it was built in. */
bool comm_mpi_built(void);
/* Joins the others: MPI_Init, all ranks.  E_FAILED when MPI cannot be used.  Closing ends MPI. */
Status comm_mpi(Comm *out, Err *err) MUST_CHECK;
/* Ends every rank of the job with that exit code, without a word. */
NO_RETURN void comm_mpi_abort(int code);
