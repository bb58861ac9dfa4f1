/* How this process came to be one rank of several, and what the ranks talk over.
 *
 * What counts, first found first: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT (set by hand, torchrun's
 * names); Open MPI's mpirun; a Slurm job step of several tasks (srun).  A batch script that Slurm started is no step:
 * a program in it that nobody launched runs alone, whatever SLURM_NTASKS says. */
#pragma once

#include "dist/comm_socket.h"

typedef enum LaunchKind { LAUNCH_ALONE, LAUNCH_MPI, LAUNCH_SOCKET } LaunchKind;

typedef struct Launch {
    LaunchKind kind;
    int rank, size;
    int local_rank; /* -1: not told */
    char host[256]; /* LAUNCH_SOCKET: where rank 0 listens */
    int port;
} Launch;

/* Looks at the environment alone.  E_INPUT names the variable that is missing or no number. */
Status launch_read(Launch *out, Err *err) MUST_CHECK;
/* The first host of a Slurm node list, "gpu[03-05,9],login" -> "gpu03". */
void launch_first_host(char *out, size_t size, const char *list);

/* Joins the others: a Comm of host memory.  stop: as comm_socket's; MPI's ranks are its launcher's to end. */
Status launch_hosts(Comm *out, const Launch *l, JoinStop *stop, Err *err) MUST_CHECK;
/* Which of the host's devices this rank takes: the only visible one, else the one of its local rank.  E_INPUT when
 * there are more ranks than devices. */
Status launch_ordinal(int *out, const Comm *hosts, const Backend *b, Err *err) MUST_CHECK;
/* What a device should leave free for that. */
size_t launch_keep_bytes(const Comm *hosts);
/* What tensors of d travel over: NCCL between GPUs, else hosts itself, which goes on to be used for hosts' matters. */
/* ctas: GPU blocks that a collective may take from what computes beside it, which products then leave alone
 * (Device.spare_sms); 0: as many as NCCL likes. */
Status launch_comm(Comm *out, Comm *hosts, Device *d, int ctas, Err *err) MUST_CHECK;
/* Closes c where it is not hosts itself; before its device is closed. */
void launch_comm_close(Comm *c, const Comm *hosts);
