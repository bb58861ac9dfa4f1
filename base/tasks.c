#include "base/tasks.h"

#include "base/str.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct Task {
    TaskFn *fn;
    void *ud;
    struct Task *next;
} Task;

struct Tasks {
    pthread_t *threads;
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    Task *first, **last; /* waiting ones */
    int running;
    bool stop;
};

static void *thread_main(void *arg)
{
    Tasks *t = arg;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->first && !t->stop)
            pthread_cond_wait(&t->more, &t->lock);
        Task *task = t->first;
        if (!task) break;
        t->first = task->next;
        if (!t->first) t->last = &t->first;
        t->running++;
        pthread_mutex_unlock(&t->lock);
        task->fn(task->ud);
        free(task);
        pthread_mutex_lock(&t->lock);
        t->running--;
        if (t->running == 0 && !t->first) pthread_cond_broadcast(&t->done);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

Tasks *tasks_new(int n)
{
    ASSERT(n >= 1, "%d threads", n);
    Tasks *t = xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->more, NULL);
    pthread_cond_init(&t->done, NULL);
    t->last = &t->first;
    t->threads = xcalloc((size_t)n, sizeof *t->threads);
    while (t->n_threads < n && pthread_create(&t->threads[t->n_threads], NULL, thread_main, t) == 0)
        t->n_threads++;
    return t;
}

void tasks_free(Tasks *t)
{
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->stop = true; /* a thread ends when nothing waits any more */
    pthread_cond_broadcast(&t->more);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->n_threads; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->more);
    pthread_cond_destroy(&t->done);
    pthread_mutex_destroy(&t->lock);
    free(t->threads);
    free(t);
}

void tasks_add(Tasks *t, TaskFn *fn, void *ud)
{
    if (t->n_threads == 0) {
        fn(ud);
        return;
    }
    Task *task = xmalloc(sizeof *task);
    *task = (Task){.fn = fn, .ud = ud};
    pthread_mutex_lock(&t->lock);
    *t->last = task;
    t->last = &task->next;
    pthread_cond_signal(&t->more);
    pthread_mutex_unlock(&t->lock);
}

void tasks_wait(Tasks *t)
{
    pthread_mutex_lock(&t->lock);
    while (t->first || t->running > 0)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
