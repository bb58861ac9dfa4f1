/* One token for each sequence, recorded and replayed. */
#include "infer/token_pass.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

/* Tokens by which the bound of a recorded pass grows: recording takes a few milliseconds. */
enum { BOUND_STEP = 256 };

static Tensor ints(Device *d, int64_t n)
{
    return tensor_alloc(d, DT_I32, 1, &n, MEM_ACTIVATION);
}

void token_pass_init(TokenPass *d, Llama *m, KvCache *kv, const TokenPassOpts *opts)
{
    *d = (TokenPass){.m = m,
                     .kv = kv,
                     .opts = *opts,
                     .ctx = {.dev = m->dev, .arena = arena_new(1 << 16)},
                     .ids = ints(m->dev, kv->n_seqs),
                     .cu = ints(m->dev, kv->n_seqs + 1),
                     .best = ints(m->dev, kv->n_seqs)};
    d->cu_host = xmalloc((size_t)(kv->n_seqs + 1) * sizeof *d->cu_host);
    const Backend *b = m->dev->backend;
    const size_t n = (size_t)(kv->n_seqs * (TOKEN_PASSES_AHEAD + 1));
    d->best_host = b->host_alloc ? b->host_alloc(m->dev, n * sizeof *d->best_host)
                                 : xcalloc(n, sizeof *d->best_host);
    for (int64_t i = 0; i <= kv->n_seqs; i++)
        d->cu_host[i] = (int32_t)i;
    tensor_write(m->dev, &d->cu, d->cu_host);
}

static void forget(TokenPass *d)
{
    Device *dev = d->ctx.dev;
    if (d->graph) {
        dev->backend->sync(dev); /* it may be running */
        dev->backend->graph_free(dev, d->graph);
    }
    d->graph = NULL;
    d->logits = NULL;
    if (!d->ctx.scope) return;
    scope_free(d->ctx.scope);
    d->ctx.scope = NULL;
    arena_reset(d->ctx.arena);
}

void token_pass_clear(TokenPass *d)
{
    if (!d->m) return;
    forget(d);
    arena_free(d->ctx.arena);
    tensor_clear(&d->ids);
    tensor_clear(&d->cu);
    tensor_clear(&d->best);
    const Backend *b = d->ctx.dev->backend;
    if (b->host_free)
        b->host_free(d->ctx.dev, d->best_host);
    else
        free(d->best_host);
    free(d->cu_host);
    *d = (TokenPass){0};
}

static Tensor first(const Tensor *t, int64_t n)
{
    Tensor v = *t;
    v.shape[0] = v.ld = n;
    return v;
}

/* A token's position is the number of those before it. */
static void set_batch(TokenPass *d)
{
    d->ids_now = first(&d->ids, d->n);
    d->positions_now = first(&d->kv->past, d->n);
    d->cu_now = first(&d->cu, d->n + 1);
    d->best_now = first(&d->best, d->n);
    d->batch = (Batch){
        .ids = &d->ids_now,
        .positions = &d->positions_now,
        .docs = {.cu = &d->cu_now, .cu_host = d->cu_host, .n_docs = (int)d->n, .max_len = 1},
        .kv = d->kv};
}

/* Kernels are told the bound as the cache's fill, whether they are recorded or not: so both give the same bits. */
static void compute(TokenPass *d)
{
    Ctx *c = &d->ctx;
    int64_t past = d->kv->max_past;
    d->bound = (past / BOUND_STEP + 1) * BOUND_STEP - 1;
    d->kv->max_past = d->bound;
    c->scope = scope_new(c->dev, c->arena);
    d->logits = llama_logits(c, d->m, llama_forward(c, d->m, &d->batch));
    if (d->opts.greedy) c->dev->k->argmax(c->dev, &d->best_now, d->logits);
    c->dev->k->next_tokens(c->dev, &d->positions_now, &d->ids_now,
                           d->opts.greedy ? &d->best_now : NULL);
    d->kv->max_past = past;
}

static void record(TokenPass *d)
{
    Device *dev = d->ctx.dev;
    dev->backend->capture_begin(dev);
    compute(d);
    d->graph = dev->backend->capture_end(dev);
    d->n_recorded++;
}

static int64_t place_of(int64_t pass)
{
    return pass % (TOKEN_PASSES_AHEAD + 1);
}

static int32_t *best_on_host(const TokenPass *d, int64_t pass)
{
    return d->best_host + place_of(pass) * d->kv->n_seqs;
}

/* The ids are in place. */
static void run(TokenPass *d)
{
    Device *dev = d->ctx.dev;
    int64_t n = d->kv->n_live;
    bool again = n == d->n, can = dev->backend->replay && !d->opts.no_graph && !dev->meter;
    if (!d->graph || !again || d->kv->max_past > d->bound || !can) {
        forget(d);
        d->n = n;
        set_batch(d);
        /* what is chosen at a first use (algorithms of products) is chosen in a pass that is not recorded */
        if (again && can)
            record(d);
        else
            compute(d);
    }
    if (d->graph) {
        dev->backend->replay(dev, d->graph);
        d->n_replayed++;
    }
    kv_cache_follow(d->kv);
    if (d->opts.greedy) {
        dev->backend->copy(dev, best_on_host(d, d->n_begun), tensor_data(&d->best),
                           (size_t)n * sizeof *d->best_host, COPY_FROM_DEVICE);
        d->copied[place_of(d->n_begun++)] = device_record(dev);
    }
}

int64_t token_pass_ahead(const TokenPass *d)
{
    return d->n_begun - d->n_read;
}

void token_pass_run(TokenPass *d, const int32_t *ids)
{
    Device *dev = d->ctx.dev;
    if (token_pass_ahead(d) > 0) return;
    /* pageable memory of the host: read before the call returns */
    dev->backend->copy(dev, tensor_data(&d->ids), ids, (size_t)d->kv->n_live * sizeof *ids,
                       COPY_TO_DEVICE);
    run(d);
}

void token_pass_read_best(TokenPass *d, int32_t *best, int64_t ahead)
{
    ASSERT(token_pass_ahead(d) > 0, "no pass has begun whose best tokens were asked for");
    if (ahead > TOKEN_PASSES_AHEAD) ahead = TOKEN_PASSES_AHEAD;
    while (token_pass_ahead(d) - 1 < ahead)
        run(d);
    device_wait(d->ctx.dev, d->copied[place_of(d->n_read)]);
    memcpy(best, best_on_host(d, d->n_read), (size_t)d->n * sizeof *best);
    d->n_read++;
}

void token_pass_cancel(TokenPass *d)
{
    if (token_pass_ahead(d) > 0) kv_cache_retreat(d->kv, token_pass_ahead(d));
    d->n_read = d->n_begun;
}

const Tensor *token_pass_logits(const TokenPass *d)
{
    return d->logits;
}
