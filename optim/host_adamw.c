/* The caller's thread issues all copies, in both directions, since streams belong to it; a thread of this file waits for
 * gradients and runs the kernel, whose threads are those of the device of host memory. */
#include "optim/host_adamw.h"

#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/transfer.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct Job {
    HostAdamwChunk chunk; /* array.grad is the slot's */
    const Tensor *step;
    int64_t came; /* event: the gradient is there */
} Job;

struct HostAdamw {
    Device *dev, *states;
    Tensor buffers[HOST_ADAMW_SLOTS]; /* (longest) of gradients */
    Tensor *steps;                    /* (STEP_N) f32 each */
    Tensor scalars;                   /* all of them */
    Tensor sets; /* the same on the device: the caller writes the next set while one goes down */
    Job jobs[HOST_ADAMW_SLOTS]; /* job k in slot k % HOST_ADAMW_SLOTS */
    int64_t raised; /* jobs whose weights are on their way up; the caller's thread's alone */
    int64_t rise;   /* event: they are there */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t pushed, done; /* jobs, under lock */
    bool stop;
};

static void *work(void *ud)
{
    HostAdamw *h = ud;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (h->done == h->pushed && !h->stop)
            pthread_cond_wait(&h->changed, &h->lock);
        if (h->done == h->pushed) break;
        Job *j = &h->jobs[h->done % HOST_ADAMW_SLOTS];
        pthread_mutex_unlock(&h->lock);
        device_wait(h->dev, j->came);
        adamw_update(h->states, &j->chunk.array, j->step);
        pthread_mutex_lock(&h->lock);
        h->done++;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

HostAdamw *host_adamw_new(Device *dev, Device *states, Device *pinned, DType grads, int64_t longest,
                          int n_steps)
{
    HostAdamw *h = xcalloc(1, sizeof *h);
    h->dev = dev;
    h->states = states;
    for (int i = 0; i < HOST_ADAMW_SLOTS; i++)
        h->buffers[i] = tensor_alloc(pinned, grads, 1, &longest, MEM_COMM);
    int64_t n = STEP_N, all = (int64_t)n_steps * n;
    h->scalars = tensor_alloc(pinned, DT_F32, 1, &all, MEM_COMM);
    h->sets = tensor_alloc(dev, DT_F32, 1, &all, MEM_OPTIMIZER);
    h->steps = xcalloc((size_t)n_steps, sizeof *h->steps);
    for (int i = 0; i < n_steps; i++) {
        h->steps[i] = tensor_shape(DT_F32, 1, &n);
        h->steps[i].storage = h->scalars.storage;
        h->steps[i].offset = (size_t)(i * n) * sizeof(float);
    }
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    if (pthread_create(&h->thread, NULL, work, h) != 0) panic("no thread for AdamW on the host");
    return h;
}

void host_adamw_free(HostAdamw *h)
{
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    for (int i = 0; i < HOST_ADAMW_SLOTS; i++)
        tensor_clear(&h->buffers[i]);
    tensor_clear(&h->scalars);
    tensor_clear(&h->sets);
    free(h->steps);
    free(h);
}

/* Waits until `least` jobs are done, and sends up the weights of all that are. */
static void raise_done(HostAdamw *h, int64_t least)
{
    pthread_mutex_lock(&h->lock);
    while (h->done < least)
        pthread_cond_wait(&h->changed, &h->lock);
    int64_t done = h->done;
    pthread_mutex_unlock(&h->lock);
    for (; h->raised < done; h->raised++) {
        HostAdamwChunk *c = &h->jobs[h->raised % HOST_ADAMW_SLOTS].chunk;
        if (c->live.storage)
            h->rise = transfer_begin(h->dev, STREAM_UP, &c->live, &c->array.weights);
    }
}

static int64_t push(HostAdamw *h, const HostAdamwChunk *chunk, const Tensor *step)
{
    int64_t n = tensor_numel(&chunk->array.grad);
    raise_done(h, h->pushed + 1 - HOST_ADAMW_SLOTS); /* the slot is free */
    Tensor *buffer = &h->buffers[h->pushed % HOST_ADAMW_SLOTS],
           grad = tensor_shape(buffer->dtype, 1, &n);
    ASSERT(n <= tensor_numel(buffer), "a chunk of %lld", (long long)n);
    grad.storage = buffer->storage;
    Job *j = &h->jobs[h->pushed % HOST_ADAMW_SLOTS];
    *j = (Job){.chunk = *chunk, .step = step};
    j->came = transfer_begin(h->dev, STREAM_DOWN, &grad, &chunk->array.grad);
    j->chunk.array.grad = grad;
    int64_t came = j->came;
    pthread_mutex_lock(&h->lock);
    h->pushed++;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return came;
}

int64_t host_adamw_update(HostAdamw *h, const HostAdamwChunk *chunks, int n, const Tensor *step,
                          int i)
{
    Tensor set = h->steps[i];
    set.storage = h->sets.storage;
    h->dev->k->copy(h->dev, &set, step);
    int64_t came = transfer_begin(h->dev, STREAM_DOWN, &h->steps[i], &set);
    for (int k = 0; k < n; k++)
        came = push(h, &chunks[k], &h->steps[i]);
    return came;
}

void host_adamw_finish(HostAdamw *h)
{
    raise_done(h, h->pushed);
    device_await(h->dev, h->dev, h->rise);
    h->rise = 0;
}
