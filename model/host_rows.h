/* Rows of a matrix in the host's memory, looked up by threads and sent to the device: an embedding of which a step reads a few
 * thousand rows needs no device memory of its own. */
#pragma once

#include "autograd/ops.h"
#include "autograd/param.h"
#include "base/parallel.h"

typedef struct HostRows HostRows;

/* p (R,C) is on the host (param_set_on_host) and outlives it.  threads 0: all that the process may use. */
HostRows *host_rows_new(Device *d, const Param *p, int threads);
void host_rows_free(HostRows *h); /* NULL is fine; waits for the device */
/* Rows ids[0..n) into memory that the device copies from; returns when they are there.  One stage is ready at a time. */
void host_rows_stage(HostRows *h, const int32_t *ids, int64_t n);
/* What was staged, of n rows, on its way to the device -> (n,C) in the current scope; the host does not wait. */
Tensor *host_rows_take(Ctx *c, HostRows *h, int64_t n);
