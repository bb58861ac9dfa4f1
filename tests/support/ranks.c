#include "tests/support/ranks.h"

#include "dist/comm_threads.h"

#include <criterion/criterion.h>
#include <pthread.h>

enum { MAX_RANKS = 16 };

typedef struct Rank {
    Comm comm;
    RankFn *fn;
    void *ud;
    pthread_t thread;
} Rank;

static void *run(void *arg)
{
    Rank *r = arg;
    r->fn(&r->comm, r->ud);
    comm_close(&r->comm);
    return NULL;
}

void ranks_run(int n, RankFn *fn, void *ud)
{
    Rank ranks[MAX_RANKS];
    Comm comms[MAX_RANKS];
    cr_assert(n <= MAX_RANKS);
    comm_threads(comms, n);
    for (int i = 0; i < n; i++) {
        ranks[i] = (Rank){.comm = comms[i], .fn = fn, .ud = ud};
        cr_assert_eq(pthread_create(&ranks[i].thread, NULL, run, &ranks[i]), 0);
    }
    for (int i = 0; i < n; i++)
        pthread_join(ranks[i].thread, NULL);
}
