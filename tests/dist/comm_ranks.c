/* The cases of comm_cases.h on the ranks that somebody started: mpirun, srun, or by the environment; or on N threads of this
 * process.  On the device that LORAC_TEST_BACKEND names.  Prints one line.
 *
 *   comm_ranks [--threads N | --ctas N | --has-mpi]
 *
 * --ctas: over NCCL, with so many GPU blocks a collective at most. */
#include "base/str.h"
#include "dist/comm_mpi.h"
#include "dist/comm_threads.h"
#include "dist/launch.h"
#include "kernels/kernels.h"
#include "tests/dist/comm_cases.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_THREADS = 16 };

static const char *backend_name(void)
{
    const char *name = getenv("LORAC_TEST_BACKEND");
    return name ? name : "cpu";
}

/* On host memory or a GPU; returns how many cases failed, on all ranks together. */
static int run_cases(Comm *hosts, int n_ctas)
{
    const Backend *backend = backend_find(backend_name());
    bool cuda = str_eq(backend_name(), "cuda");
    DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)512 << 20};
    Device d = {0};
    Comm c = {0};
    Err err = {0};
    Status s = OK; /* threads are all on one device */
    if (!hosts->ops->any_memory) s = launch_ordinal(&opts.ordinal, hosts, backend, &err);
    if (s == OK) s = device_open(&d, backend, &opts, cuda ? DT_BF16 : DT_F32, &err);
    s = comm_agree(hosts, s, &err);
    if (s == OK) s = launch_comm(&c, hosts, &d, n_ctas, &err);
    int bad = 1;
    if (s == OK) {
        int *all = xcalloc((size_t)c.size, sizeof *all);
        bad = comm_cases(&c, &d);
        comm_exchange(&c, all, &bad, sizeof bad);
        for (int i = bad = 0; i < c.size; i++)
            bad += all[i];
        free(all);
        if (c.rank == 0) printf("%s: %d ranks, %d cases failed\n", c.ops->name, c.size, bad);
        launch_comm_close(&c, hosts);
    } else {
        fprintf(stderr, "rank %d: %s\n", hosts->rank, err.line);
    }
    device_close(&d);
    return bad;
}

typedef struct Rank {
    Comm comm;
    int bad;
    pthread_t thread;
} Rank;

static void *on_thread(void *arg)
{
    Rank *r = arg;
    r->bad = run_cases(&r->comm, 0);
    return NULL;
}

static int run_threads(int n)
{
    Comm comms[MAX_THREADS];
    Rank ranks[MAX_THREADS];
    if (n < 1 || n > MAX_THREADS) return 2;
    comm_threads(comms, n);
    for (int i = 0; i < n; i++) {
        ranks[i].comm = comms[i];
        if (pthread_create(&ranks[i].thread, NULL, on_thread, &ranks[i]) != 0) return 1;
    }
    int bad = 0;
    for (int i = 0; i < n; i++) {
        pthread_join(ranks[i].thread, NULL);
        bad += ranks[i].bad;
        comm_close(&ranks[i].comm);
    }
    return bad != 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && str_eq(argv[1], "--has-mpi")) return comm_mpi_built() ? 0 : 1;
    if (argc > 2 && str_eq(argv[1], "--threads")) return run_threads(atoi(argv[2]));
    Launch launch;
    Comm hosts;
    Err err = {0};
    Status s = launch_read(&launch, &err);
    if (s == OK) s = launch_hosts(&hosts, &launch, &(JoinStop){0}, &err);
    if (s != OK) {
        fprintf(stderr, "%s\n", err.line);
        return 1;
    }
    bool capped = argc > 2 && str_eq(argv[1], "--ctas");
    int bad = run_cases(&hosts, capped ? atoi(argv[2]) : 0);
    comm_close(&hosts);
    return bad != 0;
}
