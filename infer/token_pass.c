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
    d->ones = xmalloc((size_t)kv->n_seqs * sizeof *d->ones);
    for (int64_t i = 0; i <= kv->n_seqs; i++)
        d->cu_host[i] = (int32_t)i;
    for (int64_t i = 0; i < kv->n_seqs; i++)
        d->ones[i] = 1;
    tensor_write(m->dev, &d->cu, d->cu_host);
}

static void forget(TokenPass *d)
{
    Device *dev = d->ctx.dev;
    if (d->graph) dev->backend->graph_free(dev, d->graph);
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
    free(d->cu_host);
    free(d->ones);
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

void token_pass_run(TokenPass *d, const int32_t *ids)
{
    Device *dev = d->ctx.dev;
    int64_t n = d->kv->n_live;
    bool again = n == d->n, can = dev->backend->replay && !d->opts.no_graph && !dev->meter;
    /* pageable memory of the host: read before the call returns */
    dev->backend->copy(dev, tensor_data(&d->ids), ids, (size_t)n * sizeof *ids, COPY_TO_DEVICE);
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
    kv_cache_advance(d->kv, d->ones);
}

const Tensor *token_pass_best(const TokenPass *d)
{
    ASSERT(d->opts.greedy, "the best token was not asked for");
    return &d->best_now;
}

const Tensor *token_pass_logits(const TokenPass *d)
{
    return d->logits;
}
