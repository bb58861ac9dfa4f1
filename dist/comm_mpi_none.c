/* Built without MPI. */
#include "dist/comm_mpi.h"

#include <stdlib.h>

Status comm_mpi(Comm *out, Err *err)
{
    (void)out;
    return err_set(err, E_INPUT, "mpirun started this, and MPI is not built in (-Dmpi)");
}

bool comm_mpi_built(void)
{
    return false;
}

void comm_mpi_abort(int code)
{
    exit(code);
}
