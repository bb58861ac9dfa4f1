/* A rank publishes where its data lie and when they are ready, everybody meets, and each reads what it needs from the
 * others' memory; then they meet again, so that nobody overwrites what is still being read.  On a GPU nothing of this
 * waits for the device: streams await each other's events. */
#include "dist/comm_threads.h"

#include "base/str.h"
#include "dist/comm_sum.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct Slot {
    const void *data;
    Device *dev;
    int64_t event; /* ready, or done reading */
} Slot;

typedef struct Group {
    pthread_mutex_t lock;
    pthread_cond_t met;
    int size, here, open;
    int64_t round;
    Slot slots[];
} Group;

static void meet(Group *g)
{
    pthread_mutex_lock(&g->lock);
    int64_t round = g->round;
    if (++g->here == g->size) {
        g->here = 0;
        g->round++;
        pthread_cond_broadcast(&g->met);
    }
    while (g->round == round)
        pthread_cond_wait(&g->met, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

/* Tells everybody where `data` lie, and that they are what the stream in use leaves there. */
static void publish(Comm *c, Device *d, const void *data)
{
    Group *g = c->impl;
    g->slots[c->rank] = (Slot){data, d, device_record(d)};
    meet(g);
    for (int i = 0; i < c->size; i++)
        if (i != c->rank) device_await(d, g->slots[i].dev, g->slots[i].event);
}

/* Until here the others' memory was read. */
static void finish(Comm *c, Device *d)
{
    Group *g = c->impl;
    int64_t done = device_record(d);
    meet(g); /* all have taken the slots' first events */
    g->slots[c->rank].event = done;
    meet(g);
    for (int i = 0; i < c->size; i++)
        if (i != c->rank) device_await(d, g->slots[i].dev, g->slots[i].event);
    meet(g); /* the slots are free */
}

static void threads_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    Group *g = c->impl;
    size_t bytes = tensor_bytes(part);
    publish(c, d, tensor_data(part));
    for (int i = 0; i < c->size; i++) {
        char *to = (char *)tensor_data(whole) + (size_t)i * bytes;
        if (to != g->slots[i].data && bytes > 0)
            d->backend->copy(d, to, g->slots[i].data, bytes, COPY_ON_DEVICE);
    }
    finish(c, d);
}

/* sum (n elements at `first` of everybody's array), which may be this rank's own piece of it. */
static void sum_pieces(Comm *c, Device *d, Tensor *sum, int64_t first)
{
    const Group *g = c->impl;
    size_t at = (size_t)first * dtype_bytes(sum->dtype);
    const char *own = (const char *)g->slots[c->rank].data + at;
    if (own != tensor_data(sum) && tensor_numel(sum) > 0)
        d->backend->copy(d, tensor_data(sum), own, tensor_bytes(sum), COPY_ON_DEVICE);
    for (int i = 0; i < c->size; i++)
        if (i != c->rank) comm_sum_add(d, sum, (const char *)g->slots[i].data + at);
}

static void threads_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    publish(c, d, tensor_data(whole));
    sum_pieces(c, d, part, c->rank * tensor_numel(part));
    finish(c, d);
}

static void threads_all_reduce(Comm *c, Device *d, Tensor *t)
{
    Group *g = c->impl;
    publish(c, d, tensor_data(t));
    int64_t first, n;
    Tensor mine = comm_sum_piece(t, c->rank, c->size, &first);
    sum_pieces(c, d, &mine, first);
    finish(c, d);
    publish(c, d, tensor_data(t));
    for (int i = 0; i < c->size; i++) {
        Tensor piece = comm_sum_piece(t, i, c->size, &first);
        n = tensor_numel(&piece);
        if (i == c->rank || n == 0) continue;
        size_t e = dtype_bytes(t->dtype);
        d->backend->copy(d, tensor_data(&piece), (const char *)g->slots[i].data + (size_t)first * e,
                         (size_t)n * e, COPY_ON_DEVICE);
    }
    finish(c, d);
}

static void threads_all_to_all(Comm *c, Device *d, Tensor *pieces, const Tensor *whole)
{
    Group *g = c->impl;
    size_t bytes = tensor_bytes(whole) / (size_t)c->size;
    publish(c, d, tensor_data(whole));
    for (int i = 0; i < c->size && bytes > 0; i++)
        d->backend->copy(d, (char *)tensor_data(pieces) + (size_t)i * bytes,
                         (const char *)g->slots[i].data + (size_t)c->rank * bytes, bytes,
                         COPY_ON_DEVICE);
    finish(c, d);
}

static void threads_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    Group *g = c->impl;
    publish(c, d, tensor_data(t));
    if (c->rank != root)
        d->backend->copy(d, tensor_data(t), g->slots[root].data, tensor_bytes(t), COPY_ON_DEVICE);
    finish(c, d);
}

static void threads_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    Group *g = c->impl;
    g->slots[c->rank].data = mine;
    meet(g);
    for (int i = 0; i < c->size; i++)
        memcpy((char *)all + (size_t)i * bytes, g->slots[i].data, bytes);
    meet(g);
}

static Group *group_new(int n)
{
    Group *g = xcalloc(1, sizeof *g + (size_t)n * sizeof(Slot));
    g->size = g->open = n;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->met, NULL);
    return g;
}

/* The first rank of each part makes its group, the others take it over. */
static Status threads_split(Comm *c, Comm *out, int color, Err *err)
{
    typedef struct Offer {
        int color;
        Group *group;
    } Offer;
    Offer mine = {color, out->rank == 0 ? group_new(out->size) : NULL};
    Offer *all = xcalloc((size_t)c->size, sizeof *all);
    threads_exchange(c, all, &mine, sizeof mine);
    for (int i = 0; i < c->size; i++)
        if (all[i].color == color && all[i].group) out->impl = all[i].group;
    out->ops = c->ops;
    free(all);
    return OK;
}

static void threads_close(Comm *c)
{
    Group *g = c->impl;
    pthread_mutex_lock(&g->lock);
    int left = --g->open;
    pthread_mutex_unlock(&g->lock);
    if (left > 0) return;
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->met);
    free(g);
}

static const CommOps threads_ops = {
    .name = "threads",
    .any_memory = true,
    .all_reduce = threads_all_reduce,
    .all_gather = threads_all_gather,
    .reduce_scatter = threads_reduce_scatter,
    .broadcast = threads_broadcast,
    .all_to_all = threads_all_to_all,
    .exchange = threads_exchange,
    .split = threads_split,
    .close = threads_close,
};

void comm_threads(Comm *ranks, int n)
{
    Group *g = group_new(n);
    for (int i = 0; i < n; i++)
        ranks[i] = (Comm){
            .rank = i, .size = n, .local_rank = i, .local_size = n, .ops = &threads_ops, .impl = g};
}
