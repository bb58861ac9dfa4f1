/* Tasks: each once, in the background, in order where one thread does them. */
#include "base/tasks.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum { N = 1000 };

static atomic_int done[N];
static int order[N], n_order; /* one thread's */

static void count(void *ud)
{
    atomic_fetch_add((atomic_int *)ud, 1);
}

Test(tasks, each_once)
{
    for (int n = 1; n <= 4; n++) {
        Tasks *t = tasks_new(n);
        for (int round = 1; round <= 3; round++) {
            for (int i = 0; i < N; i++)
                tasks_add(t, count, &done[i]);
            tasks_wait(t);
            for (int i = 0; i < N; i++)
                cr_assert_eq(atomic_load(&done[i]), 3 * (n - 1) + round, "task %d", i);
        }
        tasks_free(t);
    }
    tasks_free(NULL);
}

static void note(void *ud)
{
    order[n_order++] = (int)((atomic_int *)ud - done);
}

Test(tasks, freeing_waits_and_order_is_kept)
{
    Tasks *t = tasks_new(1);
    for (int i = 0; i < N; i++)
        tasks_add(t, note, &done[i]);
    tasks_free(t);
    cr_assert_eq(n_order, N);
    for (int i = 0; i < N; i++)
        cr_assert_eq(order[i], i);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void pass_gate(void *ud)
{
    pthread_mutex_lock(&gate);
    count(ud);
    pthread_mutex_unlock(&gate);
}

Test(tasks, who_adds_goes_on)
{
    Tasks *t = tasks_new(2);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < 8; i++)
        tasks_add(t, pass_gate, &done[0]);
    cr_assert_eq(atomic_load(&done[0]), 0);
    pthread_mutex_unlock(&gate);
    tasks_wait(t);
    cr_assert_eq(atomic_load(&done[0]), 8);
    tasks_free(t);
}

static Tasks *nested;

static void add_another(void *ud)
{
    count(ud);
    if (atomic_load((atomic_int *)ud) < 10) tasks_add(nested, add_another, ud);
}

Test(tasks, a_task_may_add_tasks)
{
    nested = tasks_new(2);
    tasks_add(nested, add_another, &done[0]);
    tasks_wait(nested);
    cr_assert_eq(atomic_load(&done[0]), 10);
    tasks_free(nested);
}
