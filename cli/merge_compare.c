/* One model after the other, so that only one is in memory. */
#include "cli/merge_compare.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

static Tensor upload(Device *d, int64_t n, const int32_t *values)
{
    Tensor t = tensor_alloc(d, DT_I32, 1, &n, MEM_ACTIVATION);
    tensor_write(d, &t, values);
    return t;
}

/* (n, vocabulary) in fresh memory. */
static float *run(OpenModel *m, const int32_t *ids, int64_t n)
{
    Device *d = &m->dev;
    int32_t *at = xmalloc((size_t)n * sizeof *at), cu[2] = {0, (int32_t)n};
    for (int32_t i = 0; i < n; i++)
        at[i] = i;
    Tensor ids_t = upload(d, n, ids), positions = upload(d, n, at), cu_t = upload(d, 2, cu);
    Batch batch = {.ids = &ids_t, .positions = &positions, .docs = {&cu_t, cu, 1, n}};
    Arena *arena = arena_new(1 << 18);
    Ctx c = {.dev = d, .scope = scope_new(d, arena), .arena = arena};
    Tensor *logits = llama_logits(&c, &m->llama, llama_forward(&c, &m->llama, &batch));
    float *out = xmalloc((size_t)tensor_numel(logits) * sizeof *out);
    tensor_read_f32(d, logits, out);
    scope_free(c.scope);
    arena_free(arena);
    tensor_clear(&ids_t);
    tensor_clear(&positions);
    tensor_clear(&cu_t);
    free(at);
    return out;
}

static Status logits_of(float **out, int64_t *vocab, const ModelFlags *f, int64_t n, Log *log,
                        Err *err)
{
    LlamaConfig cfg;
    OpenModel m = {0};
    TRY(model_read_config(&cfg, NULL, f, err));
    Status s = model_open(&m, f, &cfg, n, "a smaller --sample", log, err);
    if (s == OK) {
        int32_t *ids = xmalloc((size_t)n * sizeof *ids);
        for (int64_t i = 0; i < n; i++)
            ids[i] = (int32_t)rng_below(1, (uint64_t)i, (uint64_t)cfg.vocab_size);
        *out = run(&m, ids, n);
        *vocab = cfg.vocab_size;
        free(ids);
    }
    model_close(&m);
    return s;
}

/* log of the sum of exponentials */
static double log_sum(const float *x, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, (double)x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

Status merge_compare(double *kl, const ModelFlags *unmerged, const char *merged, int64_t n,
                     Log *log, Err *err)
{
    ModelFlags after = model_flags_defaults();
    after.model = merged;
    after.threads = unmerged->threads;
    float *p = NULL, *q = NULL;
    int64_t vocab;
    Status s = logits_of(&p, &vocab, unmerged, n, log, err);
    if (s == OK) s = logits_of(&q, &vocab, &after, n, log, err);
    *kl = 0;
    for (int64_t i = 0; i < n && s == OK; i++) {
        const float *a = p + i * vocab, *b = q + i * vocab;
        double la = log_sum(a, vocab), lb = log_sum(b, vocab);
        for (int64_t k = 0; k < vocab; k++)
            *kl += exp((double)a[k] - la) * (((double)a[k] - la) - ((double)b[k] - lb)) / (double)n;
    }
    free(p);
    free(q);
    return s;
}
