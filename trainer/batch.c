/* Uploading a batch: tokens, positions, sample ids, documents, and the rows that have a target. */
#include "trainer/batch.h"

#include "base/str.h"

#include <stdlib.h>

void batch_scratch_clear(BatchScratch *s)
{
    free(s->rows);
    free(s->targets);
    *s = (BatchScratch){0};
}

static Tensor *upload(Ctx *c, DType dtype, const void *host, int64_t n)
{
    Tensor *t = tensor_new(c, dtype, 1, &n);
    tensor_write(c->dev, t, host);
    return t;
}

static void pick_rows(BatchScratch *s, const HostBatch *h)
{
    if (h->n_trained > s->cap) {
        s->cap = h->n_trained;
        s->rows = xrealloc(s->rows, (size_t)s->cap * sizeof *s->rows);
        s->targets = xrealloc(s->targets, (size_t)s->cap * sizeof *s->targets);
    }
    int64_t n = 0;
    for (int64_t i = 0; i < h->n_tokens; i++) {
        if (h->targets[i] < 0) continue;
        s->rows[n] = (int32_t)i;
        s->targets[n++] = h->targets[i];
    }
    ASSERT(n == h->n_trained, "%lld targets, %lld counted", (long long)n, (long long)h->n_trained);
}

void batch_upload(TrainBatch *out, Ctx *c, const HostBatch *host, BatchScratch *scratch)
{
    pick_rows(scratch, host);
    *out = (TrainBatch){
        .batch = {.ids = upload(c, DT_I32, host->ids, host->n_tokens),
                  .positions = upload(c, DT_I32, host->positions, host->n_tokens),
                  .samples = upload(c, DT_I64, host->samples, host->n_tokens),
                  .docs = {.cu = upload(c, DT_I32, host->cu_docs, host->n_docs + 1),
                           .cu_host = host->cu_docs,
                           .n_docs = host->n_docs,
                           .max_len = host->max_doc},
                  .dropout = true},
        .rows = upload(c, DT_I32, scratch->rows, host->n_trained),
        .targets = upload(c, DT_I32, scratch->targets, host->n_trained),
        .n_trained = host->n_trained,
    };
}
