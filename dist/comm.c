/* What every kind of Comm shares: checks, the order between the two streams, the list of calls, and what hosts agree
 * on. */
#include "dist/comm.h"

#include "base/clock.h"
#include "base/str.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tensors ---------------------------------------------------------------------------------- */

/* Who keeps the books. */
static Comm *whole_of(Comm *c)
{
    return c->whole ? c->whole : c;
}

/* The communication stream goes on after what was computed so far. */
static void begin(Comm *part, Device *d, const char *op, size_t bytes, size_t sent)
{
    Comm *c = whole_of(part);
    CommCall *call = &c->calls[c->n_calls % COMM_CALLS];
    *call = (CommCall){.op = op, .step = c->step, .bytes = bytes, .began = seconds_monotonic()};
    snprintf(call->of, sizeof call->of, "%s", c->of ? c->of : "");
    c->sent_bytes += sent;
    c->dev = d;
    c->in_call = true;
    c->n_calls++;
    int64_t computed = device_record(d);
    device_use_stream(d, STREAM_COMM);
    device_await(d, d, computed);
}

static int64_t end(Comm *part, Device *d)
{
    Comm *c = whole_of(part);
    int64_t done = device_record(d);
    device_use_stream(d, STREAM_COMPUTE);
    c->calls[(c->n_calls - 1) % COMM_CALLS].event = done;
    c->in_call = false;
    return done;
}

static void check_parts(const Comm *c, const Tensor *whole, const Tensor *part)
{
    ASSERT(whole->dtype == part->dtype && tensor_is_dense(whole) && tensor_is_dense(part) &&
               tensor_numel(whole) == c->size * tensor_numel(part),
           "%lld elements in %d parts of %lld", (long long)tensor_numel(whole), c->size,
           (long long)tensor_numel(part));
}

/* What a rank sends when every part goes once around. */
static size_t around(const Comm *c, size_t bytes)
{
    return bytes / (size_t)c->size * (size_t)(c->size - 1);
}

static bool is_mute(Comm *c)
{
    return whole_of(c)->mute;
}

/* Part and piece may be one. */
static void copy_bytes(Device *d, void *to, const void *from, size_t bytes)
{
    if (to != from && bytes > 0) d->backend->copy(d, to, from, bytes, COPY_ON_DEVICE);
}

static char *piece_at(const Tensor *whole, int i, size_t bytes)
{
    return (char *)tensor_data(whole) + (size_t)i * bytes;
}

/* Everybody's piece is this rank's. */
static void fill_alike(Comm *c, Device *d, Tensor *whole, const void *mine, size_t bytes)
{
    for (int i = 0; i < c->size; i++)
        copy_bytes(d, piece_at(whole, i, bytes), mine, bytes);
}

int64_t comm_all_reduce(Comm *c, Device *d, Tensor *t)
{
    ASSERT(tensor_is_dense(t), "all_reduce of a matrix with a pitch");
    size_t bytes = tensor_bytes(t);
    begin(c, d, "all-reduce", bytes, 2 * around(c, bytes));
    if (!is_mute(c)) c->ops->all_reduce(c, d, t);
    return end(c, d);
}

int64_t comm_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    check_parts(c, whole, part);
    size_t bytes = tensor_bytes(whole);
    begin(c, d, "all-gather", bytes, around(c, bytes));
    if (is_mute(c))
        fill_alike(c, d, whole, tensor_data(part), tensor_bytes(part));
    else
        c->ops->all_gather(c, d, whole, part);
    return end(c, d);
}

int64_t comm_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    check_parts(c, whole, part);
    size_t bytes = tensor_bytes(whole);
    begin(c, d, "reduce-scatter", bytes, around(c, bytes));
    size_t piece = tensor_bytes(part);
    if (is_mute(c))
        copy_bytes(d, tensor_data(part), piece_at(whole, c->rank, piece), piece);
    else
        c->ops->reduce_scatter(c, d, part, whole);
    return end(c, d);
}

int64_t comm_reduce_exactly(Comm *c, Device *d, Tensor *part, float beta, const Tensor *whole,
                            Tensor *pieces)
{
    ASSERT(whole->dtype == pieces->dtype && tensor_is_dense(whole) && tensor_is_dense(pieces) &&
               tensor_is_dense(part) && tensor_numel(pieces) == tensor_numel(whole) &&
               tensor_numel(whole) == c->size * tensor_numel(part),
           "%lld elements in %d parts of %lld", (long long)tensor_numel(whole), c->size,
           (long long)tensor_numel(part));
    size_t bytes = tensor_bytes(whole), piece = bytes / (size_t)c->size;
    begin(c, d, "sum of pieces", bytes, around(c, bytes));
    if (is_mute(c))
        fill_alike(c, d, pieces, piece_at(whole, c->rank, piece), piece);
    else
        c->ops->all_to_all(c, d, pieces, whole);
    Tensor rows = *pieces;
    rows.n_dims = 2;
    rows.shape[0] = c->size;
    rows.shape[1] = rows.ld = tensor_numel(part);
    d->k->sum_rows(d, part, beta, &rows);
    return end(c, d);
}

int64_t comm_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    ASSERT(root >= 0 && root < c->size && tensor_is_dense(t), "root %d of %d", root, c->size);
    size_t bytes = tensor_bytes(t);
    begin(c, d, "broadcast", bytes, around(c, bytes));
    if (!is_mute(c)) c->ops->broadcast(c, d, t, root);
    return end(c, d);
}

static Status split(Comm *out, Comm *c, int rank, int size, int color, Err *err)
{
    *out = (Comm){.rank = rank, .size = size, .whole = c};
    return c->ops->split(c, out, color, err);
}

Status comm_run(Comm *out, Comm *c, int n, Err *err)
{
    ASSERT(n > 0 && c->size % n == 0, "runs of %d of %d ranks", n, c->size);
    return split(out, c, c->rank % n, n, c->rank / n, err);
}

Status comm_across(Comm *out, Comm *c, int n, Err *err)
{
    ASSERT(n > 0 && c->size % n == 0, "runs of %d of %d ranks", n, c->size);
    return split(out, c, c->rank / n, c->size / n, c->rank % n, err);
}

void comm_wait(Comm *c, Device *d, int64_t call)
{
    (void)c;
    device_await(d, d, call);
}

void comm_close(Comm *c)
{
    if (c->ops && c->ops->close) c->ops->close(c);
    *c = (Comm){0};
}

/* ---- hosts ------------------------------------------------------------------------------------ */

void comm_exchange(Comm *part, void *all, const void *mine, size_t bytes)
{
    Comm *c = whole_of(part);
    CommCall *call = &c->calls[c->n_calls % COMM_CALLS];
    *call = (CommCall){.op = "exchange of hosts", .bytes = bytes, .began = seconds_monotonic()};
    c->in_call = true;
    c->n_calls++;
    part->ops->exchange(part, all, mine, bytes);
    c->in_call = false;
}

void comm_barrier(Comm *c)
{
    char mine = 0;
    char *all = xmalloc((size_t)c->size);
    comm_exchange(c, all, &mine, 1);
    free(all);
}

void comm_say(Comm *c, char **text)
{
    if (c->size == 1) return;
    int64_t mine = c->rank == 0 && *text ? (int64_t)strlen(*text) + 1 : 0;
    int64_t *sizes = xcalloc((size_t)c->size, sizeof *sizes);
    comm_exchange(c, sizes, &mine, sizeof mine);
    size_t n = (size_t)sizes[0];
    free(sizes);
    char *send = xcalloc(n + 1, 1), *all = xmalloc((n + 1) * (size_t)c->size);
    if (c->rank == 0 && *text) memcpy(send, *text, n);
    comm_exchange(c, all, send, n + 1);
    if (c->rank > 0) {
        free(*text);
        *text = n > 0 ? xstrdup(all) : NULL;
    }
    free(send);
    free(all);
}

typedef struct Outcome {
    int status;
    char host[64], line[sizeof((Err *)0)->line];
} Outcome;

Status comm_agree_problems(Comm *c, Status s, Problems *p)
{
    Err err = {0}, mine;
    if (c->size == 1) return s;
    if (s != OK) err_set(&err, s, "%s", p->n > 0 ? p->lines[0] : "failed");
    mine = err;
    Status all = comm_agree(c, s, &err);
    if (all != OK && !str_eq(err.line, mine.line)) problems_add(p, "%s", err.line);
    return all;
}

Status comm_agree(Comm *c, Status s, Err *err)
{
    if (c->size == 1) return s;
    Outcome mine = {.status = (int)s}, *all = xcalloc((size_t)c->size, sizeof *all);
    gethostname(mine.host, sizeof mine.host - 1);
    if (s != OK && err) memcpy(mine.line, err->line, sizeof mine.line);
    comm_exchange(c, all, &mine, sizeof mine);
    int first = -1;
    bool same = true;
    for (int i = 0; i < c->size; i++) {
        if (first < 0 && all[i].status != OK) first = i;
        same &= all[i].status == all[0].status && str_eq(all[i].line, all[0].line);
    }
    Status result = first < 0 ? OK : (Status)all[first].status;
    if (first >= 0) {
        err_set(err, result, "%s", all[first].line);
        if (!same) err_wrap(err, result, "rank %d of %d on %s", first, c->size, all[first].host);
    }
    free(all);
    return result;
}
