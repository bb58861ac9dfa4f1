/* Comm: the ranks of a run and what they do together.  A rank calls every collective in the same order with the same
 * shapes; failures of the machine panic.
 *
 *   comm_self     one rank
 *   comm_threads  ranks are threads of one process, on host memory or all on one GPU (dist/comm_threads.h)
 *   comm_mpi      processes, host memory (dist/launch.h opens these three)
 *   comm_socket   the same without MPI
 *   comm_nccl     processes with a GPU each, over one of the former for what the host has to say
 *
 * Collectives of tensors run beside what computes, on the device's communication stream: they begin when what was
 * issued before them is done, and return a number that comm_wait takes; until then nobody touches their tensors.
 * Sums have a fixed order: the same ranks give the same bits. */
#pragma once

#include "tensor/device.h"

typedef struct Comm Comm;

/* All tensors dense.  part and whole are of one dtype, `whole` has size times the elements of `part`, rank r's part
 * lies at r times that, and `part` may be that piece of `whole` itself. */
typedef struct CommOps {
    const char *name;
    bool any_memory; /* tensors of any device; else host memory, or what the kind says */
    void (*all_reduce)(Comm *c, Device *d, Tensor *t);
    void (*all_gather)(Comm *c, Device *d, Tensor *whole, const Tensor *part);
    void (*reduce_scatter)(Comm *c, Device *d, Tensor *part, const Tensor *whole);
    void (*broadcast)(Comm *c, Device *d, Tensor *t, int root);
    /* pieces (as large as whole): rank r's piece number `rank` of its whole, for each r in their order */
    void (*all_to_all)(Comm *c, Device *d, Tensor *pieces, const Tensor *whole);
    /* host memory: `all` (size, bytes), mine (bytes); done on return */
    void (*exchange)(Comm *c, void *all, const void *mine, size_t bytes);
    /* fills in ops and impl of `out`, whose rank and size are set: those ranks of c that say the same color */
    Status (*split)(Comm *c, Comm *out, int color, Err *err);
    void (*close)(Comm *c);
} CommOps;

/* One collective of tensors, for whoever watches that it ends. */
typedef struct CommCall {
    const char *op;
    char of[32]; /* what it moves, "block 17" */
    int64_t step, event;
    size_t bytes;
    double began; /* seconds_monotonic() */
} CommCall;

enum { COMM_CALLS = 64 };

struct Comm {
    int rank, size;
    int local_rank, local_size; /* on this host */
    const CommOps *ops;
    void *impl;
    Comm *whole; /* of which this is a part, or NULL: it keeps what follows for both */
    /* Collectives of tensors send nothing: what the others would have is taken to be what this rank has.  To see what a step
     * takes without them, on numbers like those with them: zeros or NaN would cost a GPU less power. */
    bool mute;

    int64_t step;   /* of the optimizer, set by the run: for messages */
    const char *of; /* what the next collectives move, likewise */
    CommCall calls[COMM_CALLS];
    volatile int64_t n_calls; /* the last ones are in calls[] */
    volatile bool in_call;    /* the host is inside one */
    Device *dev;              /* of the last call */
    size_t sent_bytes;        /* by this rank, over all collectives, as a ring moves them */
};

Comm comm_self(void);
void comm_close(Comm *c); /* comm_self needs none */

/* Parts of c, for runs of n ranks, a divisor of its size: the run that this rank is in, and those with the same place in their
 * runs.  All ranks of c; closed before it, which must not move meanwhile. */
Status comm_run(Comm *out, Comm *c, int n, Err *err) MUST_CHECK;
Status comm_across(Comm *out, Comm *c, int n, Err *err) MUST_CHECK;

/* t = sum over ranks, the same bits on each. */
int64_t comm_all_reduce(Comm *c, Device *d, Tensor *t);
int64_t comm_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part);
int64_t comm_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole);
/* part = beta * part + the sum over ranks of their wholes' piece number `rank`, added in f32 in the order of ranks and
 * rounded once; part is of any dtype.  Sends what reduce_scatter sends of whole's dtype.  pieces: as whole; scratch until the
 * call is done. */
int64_t comm_reduce_exactly(Comm *c, Device *d, Tensor *part, float beta, const Tensor *whole,
                            Tensor *pieces);
int64_t comm_broadcast(Comm *c, Device *d, Tensor *t, int root);
/* The stream in use goes on when the collective of that number is done; 0: nothing. */
void comm_wait(Comm *c, Device *d, int64_t call);

/* What every rank's host has to say, `bytes` each, in the order of ranks. */
void comm_exchange(Comm *c, void *all, const void *mine, size_t bytes);
/* Returns when every rank's host has come here. */
void comm_barrier(Comm *c);

/* What rank 0 has to say, on every rank: *text, NULL or in fresh memory, becomes a copy of rank 0's. */
void comm_say(Comm *c, char **text);

/* One outcome for all: OK where every rank's is; else that of the lowest rank that failed, whose line *err becomes on every rank,
 * with "rank 2 of 4 on HOST: " before it where not all say the same. */
Status comm_agree(Comm *c, Status s, Err *err) MUST_CHECK;
/* The same for what is told in a list: the first line speaks for a rank. */
Status comm_agree_problems(Comm *c, Status s, Problems *p) MUST_CHECK;
