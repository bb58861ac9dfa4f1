#include "dist/launch.h"

#include "base/str.h"
#include "dist/comm_mpi.h"
#include "dist/comm_nccl.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_PORT = 20000, N_PORTS = 12000 };

/* ---- the environment -------------------------------------------------------------------------- */

/* *there: whether it is set. */
static Status read_int(int *out, bool *there, const char *name, int least, int most, Err *err)
{
    const char *text = getenv(name);
    *there = text && *text;
    if (!*there) return OK;
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < least || v > most)
        return err_set(err, E_INPUT, "%s: must be a number from %d to %d, is '%s'", name, least,
                       most, text);
    *out = (int)v;
    return OK;
}

static Status read_needed(int *out, const char *name, int least, int most, const char *because,
                          Err *err)
{
    bool there;
    TRY(read_int(out, &there, name, least, most, err));
    return there ? OK : err_set(err, E_INPUT, "%s: is not set, but %s is", name, because);
}

static Status read_by_hand(Launch *l, bool *found, Err *err)
{
    bool there;
    TRY(read_int(&l->size, found, "WORLD_SIZE", 1, 1 << 20, err));
    if (!*found) return OK;
    TRY(read_needed(&l->rank, "RANK", 0, l->size - 1, "WORLD_SIZE", err));
    TRY(read_int(&l->local_rank, &there, "LOCAL_RANK", 0, 4095, err));
    if (l->size == 1) return OK;
    const char *host = getenv("MASTER_ADDR");
    if (!host || !*host)
        return err_set(err, E_INPUT,
                       "MASTER_ADDR: is not set, but WORLD_SIZE is; name the host of rank 0");
    snprintf(l->host, sizeof l->host, "%s", host);
    l->kind = LAUNCH_SOCKET;
    return read_needed(&l->port, "MASTER_PORT", 1, 65535, "WORLD_SIZE", err);
}

static Status read_open_mpi(Launch *l, bool *found, Err *err)
{
    TRY(read_int(&l->size, found, "OMPI_COMM_WORLD_SIZE", 1, 1 << 20, err));
    if (!*found || l->size == 1) return OK;
    l->kind = LAUNCH_MPI;
    return read_needed(&l->rank, "OMPI_COMM_WORLD_RANK", 0, l->size - 1, "OMPI_COMM_WORLD_SIZE",
                       err);
}

void launch_first_host(char *out, size_t size, const char *list)
{
    size_t prefix = strcspn(list, "[,"), digits = 0;
    const char *first = "";
    if (list[prefix] == '[') {
        first = list + prefix + 1;
        digits = strcspn(first, "-,]");
    }
    snprintf(out, size, "%.*s%.*s", (int)prefix, list, (int)digits, first);
}

/* A port that the job's other steps and the host's other jobs will hardly take. */
static int port_of(const char *job, int step)
{
    unsigned long n = strtoul(job ? job : "0", NULL, 10);
    return FIRST_PORT + (int)((n * 17 + (unsigned long)step * 5) % N_PORTS);
}

/* srun gives every task SLURM_STEP_NUM_TASKS; the batch script has SLURM_PROCID=0 and SLURM_NTASKS=n without it, and
 * the step of a batch script or an salloc shell has no number. */
static Status read_slurm(Launch *l, bool *found, Err *err)
{
    bool there;
    int step = 0;
    const char *id = getenv("SLURM_STEP_ID");
    *found = id && isdigit((unsigned char)*id);
    if (!*found) return OK;
    TRY(read_int(&step, &there, "SLURM_STEP_ID", 0, INT_MAX, err));
    TRY(read_int(&l->size, found, "SLURM_STEP_NUM_TASKS", 1, 1 << 20, err));
    if (!*found || l->size == 1) return OK;
    TRY(read_needed(&l->rank, "SLURM_PROCID", 0, l->size - 1, "SLURM_STEP_NUM_TASKS", err));
    TRY(read_int(&l->local_rank, &there, "SLURM_LOCALID", 0, 4095, err));
    const char *nodes = getenv("SLURM_STEP_NODELIST");
    if (!nodes)
        return err_set(err, E_INPUT,
                       "SLURM_STEP_NODELIST: is not set, but SLURM_STEP_NUM_TASKS is");
    launch_first_host(l->host, sizeof l->host, nodes);
    l->port = port_of(getenv("SLURM_JOB_ID"), step);
    TRY(read_int(&l->port, &there, "MASTER_PORT", 1, 65535, err));
    l->kind = LAUNCH_SOCKET;
    return OK;
}

Status launch_read(Launch *out, Err *err)
{
    bool found;
    typedef Status Reader(Launch *, bool *, Err *);
    static Reader *const readers[] = {read_by_hand, read_open_mpi, read_slurm};
    for (int i = 0; i < 3; i++) {
        *out = (Launch){.size = 1, .local_rank = -1};
        TRY(readers[i](out, &found, err));
        if (found) return OK;
    }
    *out = (Launch){.size = 1, .local_rank = 0};
    return OK;
}

/* ---- joining ---------------------------------------------------------------------------------- */

/* Ranks of one host by its name; the local rank that the launcher told goes before. */
static void find_neighbours(Comm *c, int told)
{
    char mine[256] = "", *all = xcalloc((size_t)c->size, sizeof mine);
    gethostname(mine, sizeof mine - 1);
    comm_exchange(c, all, mine, sizeof mine);
    c->local_rank = c->local_size = 0;
    for (int i = 0; i < c->size; i++) {
        if (!str_eq(all + (size_t)i * sizeof mine, mine)) continue;
        if (i == c->rank) c->local_rank = c->local_size;
        c->local_size++;
    }
    if (told >= 0) c->local_rank = told;
    free(all);
}

Status launch_hosts(Comm *out, const Launch *l, JoinStop *stop, Err *err)
{
    *out = comm_self();
    if (l->kind == LAUNCH_MPI) return comm_mpi(out, err);
    if (l->kind == LAUNCH_ALONE) return OK;
    TRY(comm_socket(out, l->rank, l->size, l->host, l->port, stop, err));
    find_neighbours(out, l->local_rank);
    return OK;
}

Status launch_ordinal(int *out, const Comm *hosts, const Backend *b, Err *err)
{
    int n = b && b->count ? b->count() : 0;
    *out = n > 1 ? hosts->local_rank : 0;
    if (*out < n || n == 0) return OK;
    return err_set(err, E_INPUT,
                   "rank %d is number %d on its host, which shows it %d devices; start as many "
                   "ranks a host as there are GPUs",
                   hosts->rank, hosts->local_rank, n);
}

size_t launch_keep_bytes(const Comm *hosts)
{
    /* buffers of many channels over NVLink and the network */
    return hosts->size > 1 ? (size_t)1 << 30 : 0;
}

Status launch_comm(Comm *out, Comm *hosts, Device *d, int ctas, Err *err)
{
    *out = *hosts;
    if (hosts->size == 1 || hosts->ops->any_memory || !str_eq(d->backend->name, "cuda")) return OK;
    TRY(comm_nccl(out, hosts, d, ctas, err));
    d->spare_sms = ctas;
    return OK;
}

void launch_comm_close(Comm *c, const Comm *hosts)
{
    if (c->ops && c->impl != hosts->impl) comm_close(c);
    *c = (Comm){0};
}
