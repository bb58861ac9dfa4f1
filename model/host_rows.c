/* Two buffers take turns: one is filled while the device copies from the other.  Only they are pinned; the matrix itself is
 * read by the host alone and is plain memory. */
#include "model/host_rows.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 2, PART_ROWS = 32, MOST_THREADS = 16 };

typedef struct Buffer {
    void *data;
    size_t bytes;
    int64_t copied; /* the event behind its last copy; 0: none */
} Buffer;

struct HostRows {
    Device *dev;
    const Param *p;
    Pool *own, *pool; /* own: NULL where the device has one */
    Buffer buffers[BUFFERS];
    int turn;      /* of the buffer that is staged next, or is ready */
    int64_t ready; /* rows in it; -1: none */
};

HostRows *host_rows_new(Device *d, const Param *p, int threads)
{
    HostRows *h = xcalloc(1, sizeof *h);
    *h = (HostRows){.dev = d, .p = p, .pool = d->pool, .ready = -1};
    if (h->pool) return h;
    h->own = h->pool = pool_new(threads);
    if (pool_size(h->own) > MOST_THREADS) { /* memory is busy with fewer */
        pool_free(h->own);
        h->own = h->pool = pool_new(MOST_THREADS);
    }
    return h;
}

static void buffer_clear(Device *d, Buffer *b)
{
    if (b->data && d->backend->host_free)
        d->backend->host_free(d, b->data);
    else
        free(b->data);
    *b = (Buffer){0};
}

void host_rows_free(HostRows *h)
{
    if (!h) return;
    h->dev->backend->sync(h->dev);
    for (int i = 0; i < BUFFERS; i++)
        buffer_clear(h->dev, &h->buffers[i]);
    pool_free(h->own);
    free(h);
}

/* The buffer of this turn, free and large enough. */
static Buffer *buffer_for(HostRows *h, size_t bytes)
{
    Device *d = h->dev;
    Buffer *b = &h->buffers[h->turn];
    if (b->copied && !device_happened(d, b->copied)) d->backend->sync(d);
    b->copied = 0;
    if (b->bytes >= bytes) return b;
    buffer_clear(d, b);
    b->data = d->backend->host_alloc ? d->backend->host_alloc(d, bytes) : xmalloc(bytes);
    b->bytes = bytes;
    return b;
}

typedef struct Gather {
    char *to;
    const char *from;
    const int32_t *ids;
    int64_t n, rows;
    size_t row_bytes;
} Gather;

static void gather_part(void *ud, int64_t part)
{
    const Gather *g = ud;
    int64_t end = (part + 1) * PART_ROWS < g->n ? (part + 1) * PART_ROWS : g->n;
    for (int64_t i = part * PART_ROWS; i < end; i++) {
        ASSERT(g->ids[i] >= 0 && g->ids[i] < g->rows, "token %d of %lld", g->ids[i],
               (long long)g->rows);
        memcpy(g->to + (size_t)i * g->row_bytes, g->from + (size_t)g->ids[i] * g->row_bytes,
               g->row_bytes);
    }
}

void host_rows_stage(HostRows *h, const int32_t *ids, int64_t n)
{
    const Tensor *t = &h->p->t;
    ASSERT(h->p->host, "%s has no values yet", h->p->name);
    Gather g = {.from = h->p->host,
                .ids = ids,
                .n = n,
                .rows = tensor_rows(t),
                .row_bytes = (size_t)tensor_cols(t) * dtype_bytes(t->dtype)};
    g.to = buffer_for(h, (size_t)n * g.row_bytes)->data;
    pool_run(h->pool, (n + PART_ROWS - 1) / PART_ROWS, gather_part, &g);
    h->ready = n;
}

Tensor *host_rows_take(Ctx *c, HostRows *h, int64_t n)
{
    ASSERT(h->ready == n, "%s: %lld rows are staged, %lld wanted", h->p->name, (long long)h->ready,
           (long long)n);
    Buffer *b = &h->buffers[h->turn];
    Tensor *y = op_embedding_staged(c, b->data, n, tensor_cols(&h->p->t));
    b->copied = device_record(h->dev);
    h->turn = (h->turn + 1) % BUFFERS;
    h->ready = -1;
    return y;
}
