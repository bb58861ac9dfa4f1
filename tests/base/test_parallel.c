/* The pool: every index once, whatever the number of threads. */
#include "base/parallel.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>

enum { N = 10000 };

static void count(void *ud, int64_t i)
{
    atomic_int *hits = ud;
    atomic_fetch_add(&hits[i], 1);
}

Test(parallel, every_index_once)
{
    static atomic_int hits[N];
    static const int sizes[] = {0, 1, 2, 3, 8};
    for (int s = 0; s < 5; s++) {
        Pool *p = pool_new(sizes[s]);
        if (sizes[s])
            cr_assert_eq(pool_size(p), sizes[s]);
        else
            cr_assert_geq(pool_size(p), 1);
        for (int64_t n = 0; n <= N; n = n < 3 ? n + 1 : n * 10 / 3) {
            for (int i = 0; i < N; i++)
                atomic_store(&hits[i], 0);
            pool_run(p, n, count, hits);
            for (int i = 0; i < N; i++)
                cr_assert_eq(atomic_load(&hits[i]), i < n, "%d threads, n %ld, index %d", sizes[s],
                             (long)n, i);
        }
        pool_free(p);
    }
    pool_free(NULL);
}

Test(parallel, no_pool_runs_here)
{
    static atomic_int hits[4];
    pool_run(NULL, 4, count, hits);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(atomic_load(&hits[i]), 1);
    cr_assert_eq(pool_size(NULL), 1);
}

/* Many short loops: a thread that wakes late must not take part in the next loop twice. */
Test(parallel, short_loops_back_to_back)
{
    static atomic_int hits[3];
    Pool *p = pool_new(4);
    for (int round = 0; round < 5000; round++)
        pool_run(p, 3, count, hits);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(atomic_load(&hits[i]), 5000);
    pool_free(p);
}

static void run_again(void *ud, int64_t i)
{
    static atomic_int hits[4];
    pool_run(ud, 4, count, hits);
}

Test(parallel, nesting_is_the_programmers_error, .signal = SIGABRT)
{
    Pool *p = pool_new(2);
    pool_run(p, 4, run_again, p);
}
