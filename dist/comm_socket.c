#include "dist/comm_socket.h"

#include "base/clock.h"
#include "base/str.h"
#include "dist/comm_sum.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE = 120, HELLO_PATIENCE = 10, MAGIC = 0x6c6f7263 }; /* seconds */

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

/* Every rank says hello to rank 0, which says GO when all are there.  STOP, by whoever was asked to, ends it for all. */
typedef enum Word { GO = 'g', STOP = 's' } Word;

static void say(int fd, Word word)
{
    char byte = (char)word;
    (void)net_send(fd, &byte, 1); /* who does not hear it is gone */
}

static Status stopped(JoinStop *stop, const char *by, Err *err)
{
    stop->stopped = true;
    return err_set(err, E_FAILED, "stopped by %s before all ranks had come", by);
}

/* Ranks that came say nothing until all are there, but STOP, or that they end. */
static Status hear_ranks(const Star *s, JoinStop *stop, Err *err)
{
    const char *by = stop->asked ? stop->asked() : NULL;
    if (by) return stopped(stop, by, err);
    for (int i = 1; i < s->n; i++) {
        char word;
        if (s->fds[i] < 0 || !net_wait(s->fds[i], 0, NULL)) continue;
        if (net_receive(s->fds[i], &word, 1) && word == STOP)
            return stopped(stop, "a request to another rank", err);
        return err_set(err, E_FAILED, "rank %d of %d ended before all ranks had come", i, s->n);
    }
    return OK;
}

/* One that connected, if it is of this run. */
static Status greet(Star *s, int fd, int port, JoinStop *stop, Err *err)
{
    Hello h;
    bool ours = net_wait(fd, HELLO_PATIENCE, stop->asked) && net_receive(fd, &h, sizeof h) &&
                h.magic == MAGIC;
    if (ours && h.size == s->n && h.rank > 0 && h.rank < s->n && s->fds[h.rank] < 0) {
        s->fds[h.rank] = fd;
        return OK;
    }
    close(fd); /* somebody else's, or a rank of another job */
    return ours ? err_set(err, E_FAILED, "port %d: rank %d of %d came to a run of %d ranks", port,
                          h.rank, h.size, s->n)
                : OK;
}

/* The first that has not come; s->n: all have.  *left: how many. */
static int first_missing(const Star *s, int *left)
{
    int first = s->n;
    *left = 0;
    for (int i = s->n - 1; i > 0; i--) {
        if (s->fds[i] >= 0) continue;
        first = i;
        ++*left;
    }
    return first;
}

static Status gather_ranks(Star *s, int listener, int port, JoinStop *stop, Err *err)
{
    double until = seconds_monotonic() + PATIENCE;
    for (int missing, left; (missing = first_missing(s, &left)) < s->n;) {
        int fd;
        TRY(hear_ranks(s, stop, err));
        if (net_wait(listener, 1, stop->asked)) {
            TRY(net_accept(&fd, listener, 1, err));
            TRY(greet(s, fd, port, stop, err));
            if (first_missing(s, &left) != missing) until = seconds_monotonic() + PATIENCE;
        } else if (seconds_monotonic() > until) {
            return err_set(
                err, E_FAILED, "%d of %d ranks came to port %d within %d s; missing: rank %d%s",
                s->n - left, s->n, port, (int)PATIENCE, missing, left > 1 ? " and others" : "");
        }
    }
    return OK;
}

static Status join_first(Star *s, int port, JoinStop *stop, Err *err)
{
    int listener;
    TRY(net_listen(&listener, &port, err));
    Status status = gather_ranks(s, listener, port, stop, err);
    close(listener);
    for (int i = 1; i < s->n; i++)
        if (s->fds[i] >= 0 && (status == OK || stop->stopped))
            say(s->fds[i], status == OK ? GO : STOP);
    return status;
}

static Status join_other(Star *s, const Hello *h, const char *host, int port, JoinStop *stop,
                         Err *err)
{
    char word;
    Status status = net_connect(&s->fds[0], host, port, PATIENCE, stop->asked, err);
    stop->stopped = status != OK && stop->asked && stop->asked();
    TRY(status);
    if (!net_send(s->fds[0], h, sizeof *h))
        return err_set(err, E_FAILED, "rank 0 at %s, port %d, hung up", host, port);
    bool told = net_wait(s->fds[0], INFINITY, stop->asked) || net_wait(s->fds[0], 0, NULL);
    if (!told) { /* GO that is here already counts: the run answers the request */
        say(s->fds[0], STOP);
        return stopped(stop, stop->asked(), err);
    }
    if (!net_receive(s->fds[0], &word, 1))
        return err_set(err, E_FAILED, "rank 0 at %s, port %d, ended before all ranks had come",
                       host, port);
    return word == GO ? OK : stopped(stop, "a request to another rank", err);
}

Status comm_socket(Comm *out, int rank, int size, const char *host, int port, JoinStop *stop,
                   Err *err)
{
    Star *s = xcalloc(1, sizeof *s);
    s->n = rank == 0 ? size : 1;
    s->fds = xmalloc((size_t)s->n * sizeof *s->fds);
    for (int i = 0; i < s->n; i++)
        s->fds[i] = -1;
    *out = (Comm){.rank = rank, .size = size, .ops = &socket_ops, .impl = s};
    const Hello hello = {MAGIC, rank, size};
    Status status =
        rank == 0 ? join_first(s, port, stop, err) : join_other(s, &hello, host, port, stop, err);
    if (status != OK) comm_close(out);
    return status;
}
