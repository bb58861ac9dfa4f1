/* A fixed pool of threads for loops whose parts do not touch each other.  The partition is the
 * caller's, so results never depend on the number of threads. */
#pragma once

#include <stdint.h>

typedef struct Pool Pool;

/* n_threads <= 0: as many as this process may run on.  1 starts no thread. */
Pool *pool_new(int n_threads);
void pool_free(Pool *p);
int pool_size(const Pool *p);

/* Calls fn(ud, i) for every i in [0, n), each once, on any thread; returns when all are done.  Not
 * reentrant: fn may not use the same pool.  p may be NULL (runs here). */
typedef void PoolFn(void *ud, int64_t i);
void pool_run(Pool *p, int64_t n, PoolFn *fn, void *ud);
