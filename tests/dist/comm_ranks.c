/* The cases of comm_cases.h on the ranks that somebody started: mpirun, srun, or by the environment.  On the device that
 * LORAC_TEST_BACKEND names.  Prints one line. */
#include "base/str.h"
#include "dist/comm_mpi.h"
#include "dist/launch.h"
#include "kernels/kernels.h"
#include "tests/dist/comm_cases.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc > 1 && str_eq(argv[1], "--has-mpi")) return comm_mpi_built() ? 0 : 1;
    const char *name = getenv("LORAC_TEST_BACKEND");
    if (!name) name = "cpu";
    Launch launch;
    Comm hosts, c;
    Device d = {0};
    Err err = {0};
    int bad = 1;
    bool cuda = name[0] == 'c' && name[1] == 'u';
    Status s = launch_read(&launch, &err);
    if (s == OK) s = launch_hosts(&hosts, &launch, &err);
    if (s != OK) {
        fprintf(stderr, "%s\n", err.line);
        return 1;
    }
    DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)512 << 20};
    s = launch_ordinal(&opts.ordinal, &hosts, backend_find(name), &err);
    if (s == OK) s = device_open(&d, backend_find(name), &opts, cuda ? DT_BF16 : DT_F32, &err);
    if (s == OK) s = launch_comm(&c, &hosts, &d, &err);
    if (s == OK) {
        int *all = calloc((size_t)c.size, sizeof *all);
        bad = comm_cases(&c, &d);
        comm_exchange(&c, all, &bad, sizeof bad);
        for (int i = bad = 0; i < c.size; i++)
            bad += all[i];
        free(all);
        if (c.rank == 0) printf("%s: %d ranks, %d cases failed\n", c.ops->name, c.size, bad);
        launch_comm_close(&c, &hosts);
    } else {
        fprintf(stderr, "rank %d: %s\n", hosts.rank, err.line);
    }
    device_close(&d);
    comm_close(&hosts);
    return bad != 0;
}
