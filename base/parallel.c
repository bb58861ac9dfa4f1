/* Threads that wait for a loop and take its indices from one counter.  The caller's thread works too,
 * so a pool of n starts n - 1. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base/parallel.h"

#include "base/str.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct Pool {
    pthread_t *threads;
    int n_threads; /* started ones */
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    uint64_t loop; /* number of loops begun: what a waiting thread compares with */
    int n_busy;
    bool stop;
    PoolFn *fn;
    void *ud;
    int64_t n;
    atomic_llong next;
};

static void work(Pool *p)
{
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n) return;
        p->fn(p->ud, i);
    }
}

static void *thread_main(void *arg)
{
    Pool *p = arg;
    uint64_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->loop == seen && !p->stop)
            pthread_cond_wait(&p->start, &p->lock);
        if (p->stop) break;
        seen = p->loop;
        pthread_mutex_unlock(&p->lock);
        work(p);
        pthread_mutex_lock(&p->lock);
        if (--p->n_busy == 0) pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* The processors that this process may run on: a batch system gives a job fewer than the machine has. */
static int processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more than CPU_SETSIZE processors */
    return n > 0 ? (int)n : 1;
}

Pool *pool_new(int n_threads)
{
    if (n_threads <= 0) n_threads = processors();
    Pool *p = xcalloc(1, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = xcalloc((size_t)n_threads, sizeof *p->threads);
    /* A machine that gives no more threads makes the pool smaller, not wrong. */
    while (p->n_threads < n_threads - 1 &&
           pthread_create(&p->threads[p->n_threads], NULL, thread_main, p) == 0)
        p->n_threads++;
    return p;
}

void pool_free(Pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
}

int pool_size(const Pool *p)
{
    return p ? p->n_threads + 1 : 1;
}

void pool_run(Pool *p, int64_t n, PoolFn *fn, void *ud)
{
    if (!p || p->n_threads == 0 || n <= 1) {
        for (int64_t i = 0; i < n; i++)
            fn(ud, i);
        return;
    }
    pthread_mutex_lock(&p->lock);
    ASSERT(p->n_busy == 0, "pool_run inside pool_run, %d threads busy", p->n_busy);
    p->fn = fn;
    p->ud = ud;
    p->n = n;
    atomic_store(&p->next, 0);
    p->n_busy = p->n_threads;
    p->loop++;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);

    work(p);

    pthread_mutex_lock(&p->lock);
    while (p->n_busy > 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
