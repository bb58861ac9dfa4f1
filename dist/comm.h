/* Comm: the ranks of a run and what they do together.  A rank calls every collective in the same order
 * with the same shapes; failures of the machine panic.  comm_self is a run of one rank. */
#pragma once

#include "tensor/device.h"

typedef enum CommReduce { COMM_SUM, COMM_MAX } CommReduce;

typedef struct Comm Comm;

/* In place, or from a rank's part into the whole: `whole` has size times the elements of `part`, and
 * rank r's part lies at r times that.  All dense and of one dtype. */
typedef struct CommOps {
    void (*all_reduce)(Comm *c, Device *d, Tensor *t, CommReduce op);
    void (*all_gather)(Comm *c, Device *d, Tensor *whole, const Tensor *part);
    void (*reduce_scatter)(Comm *c, Device *d, Tensor *part, const Tensor *whole);
    void (*broadcast)(Comm *c, Device *d, Tensor *t, int root);
    void (*barrier)(Comm *c);
} CommOps;

struct Comm {
    int rank, size;
    const CommOps *ops;
    void *impl;
};

Comm comm_self(void);

void comm_all_reduce(Comm *c, Device *d, Tensor *t, CommReduce op);
void comm_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part);
void comm_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole);
void comm_broadcast(Comm *c, Device *d, Tensor *t, int root);
void comm_barrier(Comm *c);
