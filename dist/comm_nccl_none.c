/* Built without NCCL. */
#include "dist/comm_nccl.h"

bool comm_nccl_built(void)
{
    return false;
}

Status comm_nccl(Comm *out, Comm *hosts, Device *d, int ctas, Err *err)
{
    (void)out, (void)hosts, (void)d, (void)ctas;
    return err_set(err, E_INPUT, "several GPUs need NCCL, which is not built in (-Dnccl)");
}
