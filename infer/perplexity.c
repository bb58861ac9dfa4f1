#include "infer/perplexity.h"

#include "base/str.h"
#include "infer/feed.h"

#include <math.h>
#include <stdlib.h>

void perplexity_clear(Perplexity *p)
{
    free(p->doc_loss);
    free(p->doc_trained);
    *p = (Perplexity){0};
}

typedef struct DocId {
    int64_t id, at;
} DocId;

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const DocId *)a)->id, y = ((const DocId *)b)->id;
    return (x > y) - (x < y);
}

/* Documents by sample id, which is what a batch tells of its tokens. */
static DocId *index_documents(const Dataset *d)
{
    int64_t n = dataset_size(d);
    DocId *ids = xmalloc((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (DocId){dataset_document(d, i).id, i};
    qsort(ids, (size_t)n, sizeof *ids, by_id);
    return ids;
}

typedef struct Pass {
    Feed feed;
    HostBatch batch;
    int32_t *rows, *targets; /* of the trained tokens */
    float *loss;
    int64_t cap;
} Pass;

static void pass_clear(Pass *p)
{
    feed_clear(&p->feed);
    host_batch_clear(&p->batch);
    free(p->rows), free(p->targets), free(p->loss);
}

/* Losses of the trained tokens of p->batch, in order, to p->loss. */
static void pass_run(Pass *p, Llama *m)
{
    const HostBatch *b = &p->batch;
    if (b->n_trained > p->cap) {
        p->cap = b->n_trained;
        p->rows = xrealloc(p->rows, (size_t)p->cap * sizeof *p->rows);
        p->targets = xrealloc(p->targets, (size_t)p->cap * sizeof *p->targets);
        p->loss = xrealloc(p->loss, (size_t)p->cap * sizeof *p->loss);
    }
    int64_t n = 0, one = 1;
    for (int64_t i = 0; i < b->n_tokens; i++) {
        if (b->targets[i] < 0) continue;
        p->rows[n] = (int32_t)i;
        p->targets[n++] = b->targets[i];
    }
    ASSERT(n == b->n_trained, "%lld targets, %lld counted", (long long)n, (long long)b->n_trained);

    llama_stage(m, b->ids, b->n_tokens);
    feed_begin(&p->feed, b->n_tokens, b->ids, b->positions, b->n_docs, b->cu_docs, b->max_doc,
               NULL);
    Ctx *c = &p->feed.ctx;
    Tensor *h = llama_forward(c, m, &p->feed.batch);
    c->module = "head and loss";
    h = op_gather_rows(c, h, feed_ints(&p->feed, p->rows, n));
    Tensor *sum = tensor_new(c, DT_F32, 1, &one), *row_loss = tensor_new(c, DT_F32, 1, &n);
    tensor_zero(c->dev, sum);
    op_linear_xent(c, h, llama_head(m), feed_ints(&p->feed, p->targets, n), 0, sum, row_loss, 0);
    tensor_read(c->dev, row_loss, p->loss);
    feed_end(&p->feed);
}

/* Adds the losses of a pass to their documents, in double: a sum in f32 would lose the small ones. */
static Status pass_add(Pass *p, Perplexity *out, const Dataset *d, const DocId *ids, Err *err)
{
    const HostBatch *b = &p->batch;
    const DocId *doc = NULL;
    for (int64_t k = 0; k < b->n_trained; k++) {
        DocId key = {b->samples[p->rows[k] + 1], 0}; /* of the token that is predicted */
        if (!doc || doc->id != key.id)
            doc = bsearch(&key, ids, (size_t)dataset_size(d), sizeof key, by_id);
        ASSERT(doc, "sample %lld is not in the data set", (long long)key.id);
        if (!isfinite(p->loss[k])) {
            RowPlace at = dataset_document(d, doc->at).at;
            Status s = err_set(err, E_FAILED, "%s:%lld: the loss is not finite", at.file,
                               (long long)at.line);
            return row_error(err, s, at.file, at.number);
        }
        out->doc_loss[doc->at] += (double)p->loss[k];
        out->doc_trained[doc->at]++;
    }
    out->n_trained += b->n_trained;
    return OK;
}

static int64_t rows_at(int64_t row, int64_t together, int64_t n_rows)
{
    int64_t left = n_rows - row;
    return left < 0 ? 0 : left < together ? left : together;
}

/* Ranks take passes in turns, and may have to meet inside of them: one that has nothing to do does what the first busy
 * one of the turn does. */
static void fill_any(Pass *p, Loader *l, int64_t row, int64_t together, int size, int64_t n_rows)
{
    for (int r = 0; r < size && p->batch.n_trained == 0; r++, row += together)
        if (rows_at(row, together, n_rows) > 0)
            loader_rows_fill(l, 0, row, rows_at(row, together, n_rows), &p->batch);
}

/* A document lies in one pass, so each sum has one term that is not 0. */
static Status add_up_ranks(Comm *c, Perplexity *p, int64_t n_docs, Status s, Err *err)
{
    TRY(comm_agree(c, s, err));
    size_t bytes = (size_t)n_docs * sizeof(double);
    double *losses = xmalloc(bytes * (size_t)c->size + 1);
    int64_t *trained = xmalloc(bytes * (size_t)c->size + 1);
    int64_t mine[3] = {p->n_trained, p->n_tokens, p->n_docs},
            *counts = xmalloc((size_t)c->size * sizeof mine);
    comm_exchange(c, losses, p->doc_loss, bytes);
    comm_exchange(c, trained, p->doc_trained, bytes);
    comm_exchange(c, counts, mine, sizeof mine);
    p->n_trained = p->n_tokens = p->n_docs = 0;
    for (int r = 0; r < c->size; r++) {
        for (int64_t i = 0; i < n_docs; i++) {
            p->doc_loss[i] = r == 0 ? losses[i] : p->doc_loss[i] + losses[r * n_docs + i];
            p->doc_trained[i] = r == 0 ? trained[i] : p->doc_trained[i] + trained[r * n_docs + i];
        }
        p->n_trained += counts[3 * r];
        p->n_tokens += counts[3 * r + 1];
        p->n_docs += counts[3 * r + 2];
    }
    free(losses);
    free(trained);
    free(counts);
    return OK;
}

Status perplexity_of(Perplexity *out, Llama *m, const Dataset *d, const DataOpts *data,
                     const PerplexityOpts *opts, Err *err)
{
    int64_t n_docs = dataset_size(d);
    *out = (Perplexity){0};
    out->doc_loss = xcalloc((size_t)n_docs, sizeof *out->doc_loss);
    out->doc_trained = xcalloc((size_t)n_docs, sizeof *out->doc_trained);
    DocId *ids = index_documents(d);
    DataOpts in_order = *data;
    in_order.shuffle = false;
    Loader *loader = loader_new(d, &in_order, 0, 1);
    Pass pass = {0};
    feed_init(&pass.feed, m->dev);

    int64_t budget = opts->tokens_per_pass > 0 ? opts->tokens_per_pass : PERPLEXITY_TOKENS;
    int64_t n_rows = loader_rows(loader, 0);
    int64_t together = n_rows > 0 ? budget / loader_max(loader, 0, 1).n_tokens : 1;
    if (together < 1) together = 1;
    int rank = opts->ranks ? opts->ranks->rank : 0, size = opts->ranks ? opts->ranks->size : 1;
    Status s = OK;
    if (n_rows == 0)
        s = err_set(err, E_INPUT, "the documents do not fill one row of %lld tokens",
                    (long long)data->max_length);
    for (int64_t row = 0; !out->given_up && row < n_rows; row += together * size) {
        int64_t own = row + together * rank, n = rows_at(own, together, n_rows);
        loader_rows_fill(loader, 0, n > 0 ? own : 0, n, &pass.batch);
        out->n_tokens += pass.batch.n_real;
        out->n_docs += pass.batch.n_docs;
        bool idle = pass.batch.n_trained == 0;
        if (idle) fill_any(&pass, loader, row, together, size, n_rows);
        if (pass.batch.n_trained > 0) pass_run(&pass, m);
        if (!idle && s == OK) s = pass_add(&pass, out, d, ids, err);
        int64_t done = row + together * size < n_rows ? row + together * size : n_rows;
        out->given_up =
            (s != OK && size == 1) || (opts->progress && !opts->progress(opts->ud, done, n_rows));
    }
    if (size > 1) s = add_up_ranks(opts->ranks, out, n_docs, s, err);
    double sum = 0;
    for (int64_t i = 0; i < n_docs; i++)
        sum += out->doc_loss[i];
    out->loss = out->n_trained > 0 ? sum / (double)out->n_trained : 0;
    out->perplexity = exp(out->loss);
    pass_clear(&pass);
    loader_free(loader);
    free(ids);
    if (s != OK) perplexity_clear(out);
    return s;
}
