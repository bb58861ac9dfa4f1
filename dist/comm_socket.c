#include "dist/comm_socket.h"

#include "base/str.h"
#include "dist/comm_sum.h"
#include "dist/net.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE = 120, MAGIC = 0x6c6f7263 };

typedef struct Hello {
    int32_t magic, rank, size;
} Hello;

typedef struct Star {
    int *fds; /* rank 0: by rank; others: fds[0] */
    int n;
} Star;

/* Whoever watches the ranks knows more about why; it ends this process meanwhile. */
NO_RETURN static void lost(const Comm *c, int rank)
{
    sleep(3);
    panic("rank %d of %d: the connection to rank %d is gone", c->rank, c->size, rank);
}

static void socket_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    Star *s = c->impl;
    char *to = all;
    if (c->rank > 0) {
        if (!net_send(s->fds[0], mine, bytes)) lost(c, 0);
        if (!net_receive(s->fds[0], all, bytes * (size_t)c->size)) lost(c, 0);
        return;
    }
    if (to != mine) memcpy(to, mine, bytes);
    for (int i = 1; i < c->size; i++)
        if (!net_receive(s->fds[i], to + (size_t)i * bytes, bytes)) lost(c, i);
    for (int i = 1; i < c->size; i++)
        if (!net_send(s->fds[i], all, bytes * (size_t)c->size)) lost(c, i);
}

/* ---- tensors, through the same door ----------------------------------------------------------- */

static void socket_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    (void)d;
    c->ops->exchange(c, tensor_data(whole), tensor_data(part), tensor_bytes(part));
}

/* sum = everybody's elements from `first` on. */
static void sum_from(Comm *c, Device *d, Tensor *sum, const Tensor *mine, int64_t first)
{
    size_t bytes = tensor_bytes(mine), at = (size_t)first * dtype_bytes(mine->dtype);
    char *all = xmalloc(bytes * (size_t)c->size);
    c->ops->exchange(c, all, tensor_data(mine), bytes);
    d->backend->copy(d, tensor_data(sum), all + at, tensor_bytes(sum), COPY_ON_DEVICE);
    for (int i = 1; i < c->size; i++)
        comm_sum_add(d, sum, all + (size_t)i * bytes + at);
    free(all);
}

static void socket_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    sum_from(c, d, part, whole, c->rank * tensor_numel(part));
}

static void socket_all_reduce(Comm *c, Device *d, Tensor *t)
{
    sum_from(c, d, t, t, 0);
}

static void socket_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    size_t bytes = tensor_bytes(t);
    char *all = xmalloc(bytes * (size_t)c->size);
    c->ops->exchange(c, all, tensor_data(t), bytes);
    d->backend->copy(d, tensor_data(t), all + (size_t)root * bytes, bytes, COPY_ON_DEVICE);
    free(all);
}

static void socket_all_to_all(Comm *c, Device *d, Tensor *pieces, const Tensor *whole)
{
    size_t bytes = tensor_bytes(whole), piece = bytes / (size_t)c->size;
    char *all = xmalloc(bytes * (size_t)c->size);
    c->ops->exchange(c, all, tensor_data(whole), bytes);
    for (int i = 0; i < c->size; i++)
        d->backend->copy(d, (char *)tensor_data(pieces) + (size_t)i * piece,
                         all + (size_t)i * bytes + (size_t)c->rank * piece, piece, COPY_ON_DEVICE);
    free(all);
}

static void socket_close(Comm *c)
{
    Star *s = c->impl;
    for (int i = 0; i < s->n; i++)
        if (s->fds[i] >= 0) close(s->fds[i]);
    free(s->fds);
    free(s);
}

/* A part's exchange goes through the whole's: all parts exchange at the same time, alike. */
typedef struct Part {
    int *members; /* ranks of the whole */
} Part;

static void part_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    const Part *p = c->impl;
    Comm *whole = c->whole;
    char *everything = xmalloc(bytes * (size_t)whole->size + 1);
    whole->ops->exchange(whole, everything, mine, bytes);
    for (int i = 0; i < c->size; i++)
        memcpy((char *)all + (size_t)i * bytes, everything + (size_t)p->members[i] * bytes, bytes);
    free(everything);
}

static void part_close(Comm *c)
{
    Part *p = c->impl;
    free(p->members);
    free(p);
}

static const CommOps part_ops = {
    .name = "sockets",
    .all_reduce = socket_all_reduce,
    .all_gather = socket_all_gather,
    .reduce_scatter = socket_reduce_scatter,
    .broadcast = socket_broadcast,
    .all_to_all = socket_all_to_all,
    .exchange = part_exchange,
    .close = part_close,
};

static Status socket_split(Comm *c, Comm *out, int color, Err *err)
{
    (void)err;
    int *colors = xmalloc((size_t)c->size * sizeof *colors), n = 0;
    Part *p = xcalloc(1, sizeof *p);
    p->members = xcalloc((size_t)c->size, sizeof *p->members);
    socket_exchange(c, colors, &color, sizeof color);
    for (int i = 0; i < c->size; i++)
        if (colors[i] == color) p->members[n++] = i;
    free(colors);
    out->ops = &part_ops;
    out->impl = p;
    return OK;
}

static const CommOps socket_ops = {
    .name = "sockets",
    .all_reduce = socket_all_reduce,
    .all_gather = socket_all_gather,
    .reduce_scatter = socket_reduce_scatter,
    .broadcast = socket_broadcast,
    .all_to_all = socket_all_to_all,
    .exchange = socket_exchange,
    .split = socket_split,
    .close = socket_close,
};

/* ---- joining ---------------------------------------------------------------------------------- */

static Status gather_ranks(Star *s, int size, int port, Err *err)
{
    int listener;
    TRY(net_listen(&listener, &port, err));
    Status status = OK;
    for (int left = size - 1; left > 0 && status == OK;) {
        int fd;
        Hello h;
        status = net_accept(&fd, listener, PATIENCE, err);
        if (status != OK) {
            int missing = 1;
            while (s->fds[missing] >= 0)
                missing++;
            status = err_set(
                err, E_FAILED, "%d of %d ranks came to port %d within %d s; missing: rank %d%s",
                size - left, size, port, (int)PATIENCE, missing, left > 1 ? " and others" : "");
            break;
        }
        bool ours = net_receive(fd, &h, sizeof h) && h.magic == MAGIC;
        if (ours && h.size == size && h.rank > 0 && h.rank < size && s->fds[h.rank] < 0) {
            s->fds[h.rank] = fd;
            left--;
            continue;
        }
        close(fd); /* somebody else's, or a rank of another job */
        if (ours)
            status = err_set(err, E_FAILED, "port %d: rank %d of %d came to a run of %d ranks",
                             port, h.rank, h.size, size);
    }
    close(listener);
    return status;
}

Status comm_socket(Comm *out, int rank, int size, const char *host, int port, Err *err)
{
    Star *s = xcalloc(1, sizeof *s);
    s->n = rank == 0 ? size : 1;
    s->fds = xmalloc((size_t)s->n * sizeof *s->fds);
    for (int i = 0; i < s->n; i++)
        s->fds[i] = -1;
    *out = (Comm){.rank = rank, .size = size, .ops = &socket_ops, .impl = s};
    Status status;
    if (rank == 0) {
        status = gather_ranks(s, size, port, err);
    } else {
        Hello h = {MAGIC, rank, size};
        status = net_connect(&s->fds[0], host, port, PATIENCE, err);
        if (status == OK && !net_send(s->fds[0], &h, sizeof h))
            status = err_set(err, E_FAILED, "rank 0 at %s, port %d, hung up", host, port);
    }
    if (status != OK) comm_close(out);
    return status;
}
