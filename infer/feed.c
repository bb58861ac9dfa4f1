#include "infer/feed.h"

void feed_init(Feed *f, Device *d)
{
    *f = (Feed){.ctx = {.dev = d, .arena = arena_new(1 << 16)}};
}

void feed_clear(Feed *f)
{
    if (!f->ctx.arena) return;
    ASSERT(!f->ctx.scope, "a pass is still open");
    arena_free(f->ctx.arena);
    *f = (Feed){0};
}

Tensor *feed_ints(Feed *f, const int32_t *host, int64_t n)
{
    Tensor *t = tensor_new(&f->ctx, DT_I32, 1, &n);
    tensor_write(f->ctx.dev, t, host);
    return t;
}

void feed_begin(Feed *f, int64_t n, const int32_t *ids, const int32_t *positions, int n_docs,
                const int32_t *cu, int64_t max_doc, KvCache *kv)
{
    ASSERT(n > 0 && n_docs > 0 && cu[n_docs] == n, "%lld tokens, %d documents", (long long)n,
           n_docs);
    f->ctx.scope = scope_new(f->ctx.dev, f->ctx.arena);
    f->batch = (Batch){.ids = feed_ints(f, ids, n),
                       .positions = feed_ints(f, positions, n),
                       .docs = {.cu = feed_ints(f, cu, n_docs + 1),
                                .cu_host = cu,
                                .n_docs = n_docs,
                                .max_len = max_doc},
                       .kv = kv};
}

void feed_end(Feed *f)
{
    scope_free(f->ctx.scope);
    f->ctx.scope = NULL;
    arena_reset(f->ctx.arena);
}
