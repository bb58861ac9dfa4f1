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

/* A loop is over when all its indices are done, whether or not every thread woke up for it: on a busy machine a
 * thread may be late by more than the whole loop takes. */
struct Pool {
    pthread_t *threads;
    int n_threads; /* started ones */
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    uint32_t loop; /* number of loops begun: what a waiting thread compares with */
    bool running, stop;
    PoolFn *fn;
    void *ud;
    int64_t n;
    atomic_ullong next; /* loop << 32 | index: a late thread cannot take an index of another loop */
    atomic_llong n_left; /* indices not done */
};

static void work(Pool *p, uint32_t loop, int64_t n, PoolFn *fn, void *ud)
{
    for (;;) {
        unsigned long long at = atomic_load(&p->next);
        do {
            if (at >> 32 != loop || (int64_t)(at & UINT32_MAX) >= n) return;
        } while (!atomic_compare_exchange_weak(&p->next, &at, at + 1));
        fn(ud, (int64_t)(at & UINT32_MAX));
        if (atomic_fetch_sub(&p->n_left, 1) > 1) continue;
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void *thread_main(void *arg)
{
    Pool *p = arg;
    uint32_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->loop == seen && !p->stop)
            pthread_cond_wait(&p->start, &p->lock);
        if (p->stop) break;
        seen = p->loop;
        int64_t n = p->n;
        PoolFn *fn = p->fn;
        void *ud = p->ud;
        pthread_mutex_unlock(&p->lock);
        work(p, seen, n, fn, ud);
        pthread_mutex_lock(&p->lock);
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
    ASSERT(n <= UINT32_MAX, "pool_run over %lld indices", (long long)n);
    pthread_mutex_lock(&p->lock);
    ASSERT(!p->running, "pool_run inside pool_run");
    p->running = true;
    p->fn = fn;
    p->ud = ud;
    p->n = n;
    uint32_t loop = ++p->loop;
    atomic_store(&p->n_left, n);
    atomic_store(&p->next, (unsigned long long)loop << 32);
    /* No more threads than there are indices left for them. */
    if (n <= p->n_threads)
        for (int64_t i = 1; i < n; i++)
            pthread_cond_signal(&p->start);
    else
        pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);

    work(p, loop, n, fn, ud);

    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->n_left) > 0)
        pthread_cond_wait(&p->done, &p->lock);
    p->running = false;
    pthread_mutex_unlock(&p->lock);
}
