/* Attention of new tokens to the keys and values of earlier calls and their own, which are stored behind those. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { QUERIES = CPU_ATTENTION_QUERIES };

typedef struct Append {
    float *cache_k, *cache_v;
    const float *k, *v;
    const int32_t *cu, *past;
    int64_t cols, capacity;
} Append;

static void append_sequence(void *ud, int64_t b)
{
    const Append *a = ud;
    int64_t row = a->cu[b], n = a->cu[b + 1] - row, past = a->past[b];
    ASSERT(past >= 0 && past + n <= a->capacity,
           "attention_cached: %lld + %lld tokens in a cache of %lld", (long long)past, (long long)n,
           (long long)a->capacity);
    int64_t to = (b * a->capacity + past) * a->cols;
    memcpy(a->cache_k + to, a->k + row * a->cols, (size_t)(n * a->cols) * sizeof(float));
    memcpy(a->cache_v + to, a->v + row * a->cols, (size_t)(n * a->cols) * sizeof(float));
}

static void check_cache(const Tensor *cache, int64_t cols, const Docs *docs, const Tensor *past)
{
    ASSERT(cache->n_dims == 3 && cache->shape[0] >= docs->n_docs && cache->shape[2] == cols,
           "kv cache (%lld,%lld,%lld) for %d sequences, %lld wide", (long long)cache->shape[0],
           (long long)cache->shape[1], (long long)cache->shape[2], docs->n_docs, (long long)cols);
    ASSERT(tensor_numel(past) >= docs->n_docs, "past (%lld) for %d sequences",
           (long long)tensor_numel(past), docs->n_docs);
}

/* k, v behind what the caches have. */
static void append(Device *d, Tensor *cache_k, Tensor *cache_v, const Tensor *k, const Tensor *v,
                   const Docs *docs, const Tensor *past)
{
    Append a = {dense_f32(cache_k), dense_f32(cache_v), dense_f32(k),   dense_f32(v),
                docs->cu_host,      data_i32(past),     tensor_cols(k), cache_k->shape[1]};
    pool_run(d->pool, docs->n_docs, append_sequence, &a);
}

typedef struct Cached {
    float *o, *scratch;
    const float *q, *cache_k, *cache_v;
    const int32_t *cu, *past;
    int64_t capacity, ldo, ldq, ldkv, scratch_of_part, max_past;
    int n_heads, group, dim;
    float scale;
} Cached;

/* One head's attention of `n` new tokens from `row` on, the first of which sees `seen` keys. */
VECTORISED static void queries_run(const Cached *a, float *scores, const float *k, const float *v,
                                   int64_t row, int64_t n, int64_t seen, int head)
{
    float *o = a->o + row * a->ldo + (int64_t)head * a->dim;
    int64_t n_keys = seen + n - 1;
    double sums[QUERIES];
    gemm_run(&(Gemm){.trans_b = true,
                     .m = n,
                     .n = n_keys,
                     .k = a->dim,
                     .a = a->q + row * a->ldq + (int64_t)head * a->dim,
                     .b = k,
                     .c = scores,
                     .lda = a->ldq,
                     .ldb = a->ldkv,
                     .ldc = n_keys,
                     .alpha = a->scale});
    for (int64_t i = 0; i < n; i++) {
        float *s = scores + i * n_keys;
        sums[i] = vec_exp(s, s, vec_max(s, seen + i), seen + i);
        memset(s + seen + i, 0, (size_t)(n - 1 - i) * sizeof(float));
    }
    gemm_run(&(Gemm){.m = n,
                     .n = a->dim,
                     .k = n_keys,
                     .a = scores,
                     .b = v,
                     .c = o,
                     .lda = n_keys,
                     .ldb = a->ldkv,
                     .ldc = a->ldo,
                     .alpha = 1.0f});
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < a->dim; j++)
            o[i * a->ldo + j] *= (float)(1.0 / sums[i]);
}

static void head_run(const Cached *a, int64_t part)
{
    int64_t b = part / a->n_heads, row0 = a->cu[b], n = a->cu[b + 1] - row0, past = a->past[b];
    int head = (int)(part % a->n_heads);
    ASSERT(past >= 0 && past <= a->max_past && past + n <= a->capacity,
           "attention_cached: %lld + %lld tokens in a cache of %lld", (long long)past, (long long)n,
           (long long)a->capacity);
    int64_t at = b * a->capacity * a->ldkv + (int64_t)(head / a->group) * a->dim;
    for (int64_t i = 0; i < n; i += QUERIES)
        queries_run(a, a->scratch + part * a->scratch_of_part, a->cache_k + at, a->cache_v + at,
                    row0 + i, n - i < QUERIES ? n - i : QUERIES, past + i + 1, head);
}

static void cached_parts(void *args, int64_t part0, int64_t part1)
{
    for (int64_t part = part0; part < part1; part++)
        head_run(args, part);
}

void cpu_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v, const Tensor *q,
                          const Tensor *k, const Tensor *v, int n_heads, int n_kv_heads,
                          const Docs *docs, const Tensor *past, int64_t max_past, float scale)
{
    int64_t cols = tensor_cols(q), dim = cols / n_heads, n = tensor_rows(q);
    bool fits = n_kv_heads > 0 && n_heads % n_kv_heads == 0 && cols % n_heads == 0;
    ASSERT(fits, "attention_cached: %lld columns, %d heads on %d", (long long)cols, n_heads,
           n_kv_heads);
    check_matrix(o, n, cols, "attention_cached: o");
    check_matrix(k, n, n_kv_heads * dim, "attention_cached: k");
    check_matrix(v, n, n_kv_heads * dim, "attention_cached: v");
    check_cache(cache_k, n_kv_heads * dim, docs, past);
    check_cache(cache_v, n_kv_heads * dim, docs, past);
    ASSERT(docs->cu_host[docs->n_docs] == n, "attention_cached: sequences end at %d of %lld",
           docs->cu_host[docs->n_docs], (long long)n);
    append(d, cache_k, cache_v, k, v, docs, past);
    int64_t queries = docs->max_len < QUERIES ? docs->max_len : QUERIES;
    Cached a = {
        .o = data_f32(o),
        .q = dense_f32(q),
        .cache_k = dense_f32(cache_k),
        .cache_v = dense_f32(cache_v),
        .cu = docs->cu_host,
        .past = data_i32(past),
        .capacity = cache_k->shape[1],
        .ldo = o->ld,
        .ldq = cols,
        .ldkv = n_kv_heads * dim,
        .scratch_of_part = queries * (max_past + docs->max_len),
        .max_past = max_past,
        .n_heads = n_heads,
        .group = n_heads / n_kv_heads,
        .dim = (int)dim,
        .scale = scale,
    };
    int64_t n_parts = (int64_t)docs->n_docs * n_heads;
    a.scratch = workspace_take(
        d, cpu_attention_cached_scratch(docs->n_docs, n_heads, docs->max_len, max_past));
    /* Decoding a token is little work: heads go together rather than wake threads. */
    int64_t work = docs->max_len * (max_past + docs->max_len) * dim / 4;
    rows_run(d, n_parts, work, cached_parts, &a);
    workspace_give(d);
}
