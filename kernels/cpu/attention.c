/* Causal attention inside each document, by products over blocks of QUERIES rows: a block's scores against
 * all keys up to its last row stand in scratch, so the upper triangle beyond the block is never computed.
 *
 * A part is one document and one key/value head with the heads that read it, so that dk and dv are summed by
 * one thread in the order of heads and rows. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { QUERIES = CPU_ATTENTION_QUERIES };

typedef struct Attention {
    float *o, *lse, *dq, *dk, *dv;
    const float *q, *k, *v, *out, *d_o;
    const int32_t *cu;
    int64_t ldo, lddo, ldq, ldkv; /* pitches; of dq, dk, dv as of q, k, v */
    int n_heads, n_kv_heads, group, head_dim;
    float scale;
    float *scratch;         /* n_scores (QUERIES, L) for each part */
    int64_t scratch_of_row; /* floats of scratch for each token and key/value head */
} Attention;

static Attention attention_of(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *lse,
                              int n_heads, int n_kv_heads, const Docs *docs, float scale,
                              int n_scores)
{
    int64_t n = tensor_rows(q);
    int dim = (int)(tensor_cols(q) / n_heads);
    bool fits = n_kv_heads > 0 && n_heads % n_kv_heads == 0;
    ASSERT(fits, "attention: %d heads on %d", n_heads, n_kv_heads);
    check_matrix(q, n, (int64_t)n_heads * dim, "attention: q");
    check_matrix(k, n, (int64_t)n_kv_heads * dim, "attention: k");
    check_matrix(v, n, (int64_t)n_kv_heads * dim, "attention: v");
    ASSERT(docs->n_docs >= 0 && docs->cu_host[docs->n_docs] == n,
           "attention: documents end at %d of %lld tokens", docs->cu_host[docs->n_docs],
           (long long)n);
    return (Attention){
        .lse = dense_f32(lse),
        .q = dense_f32(q),
        .k = dense_f32(k),
        .v = dense_f32(v),
        .cu = docs->cu_host,
        .ldq = (int64_t)n_heads * dim,
        .ldkv = (int64_t)n_kv_heads * dim,
        .n_heads = n_heads,
        .n_kv_heads = n_kv_heads,
        .group = n_heads / n_kv_heads,
        .head_dim = dim,
        .scale = scale,
        .scratch_of_row = (int64_t)n_scores * QUERIES,
    };
}

static void attention_run(Device *d, Attention *a, const Docs *docs, PoolFn *fn)
{
    int64_t n = docs->cu_host[docs->n_docs];
    int n_scores = (int)(a->scratch_of_row / QUERIES);
    a->scratch = workspace_take(d, cpu_attention_scratch(n, a->n_kv_heads, n_scores));
    pool_run(d->pool, (int64_t)docs->n_docs * a->n_kv_heads, fn, a);
    workspace_give(d);
}

/* A block of queries of one head: rows [row0, row0 + n_rows) of the batch, keys [key0, key0 + n_keys), of
 * which row i sees the first n_keys - n_rows + i + 1. */
typedef struct Block {
    int64_t row0, n_rows, key0, n_keys;
    int head, kv_head;
} Block;

static const float *head_at(const float *x, int64_t ld, int64_t row, int head, int dim)
{
    return x + row * ld + (int64_t)head * dim;
}

/* scores (n_rows, n_keys) = alpha * x k^T for x = q or d_o, k = k or v */
static void scores_run(const Attention *a, const Block *b, float *scores, float alpha,
                       const float *x, int64_t ldx, const float *keys)
{
    gemm_run(&(Gemm){.trans_b = true,
                     .m = b->n_rows,
                     .n = b->n_keys,
                     .k = a->head_dim,
                     .a = head_at(x, ldx, b->row0, b->head, a->head_dim),
                     .b = head_at(keys, a->ldkv, b->key0, b->kv_head, a->head_dim),
                     .c = scores,
                     .lda = ldx,
                     .ldb = a->ldkv,
                     .ldc = b->n_keys,
                     .alpha = alpha});
}

/* The keys that a row sees, rounded up to whole vectors inside the block: what is computed behind them is
 * overwritten with zeros. */
INLINED int64_t whole_lanes(const Block *b, int64_t seen)
{
    int64_t whole = (seen + LANES - 1) / LANES * LANES;
    return whole < b->n_keys ? whole : b->n_keys;
}

VECTORISED static void block_fwd(const Attention *a, const Block *b, float *scores)
{
    int dim = a->head_dim;
    float *o = a->o + b->row0 * a->ldo + (int64_t)b->head * dim;
    double sums[QUERIES];
    scores_run(a, b, scores, a->scale, a->q, a->ldq, a->k);
    for (int64_t i = 0; i < b->n_rows; i++) {
        float *s = scores + i * b->n_keys;
        int64_t seen = b->n_keys - b->n_rows + i + 1, whole = whole_lanes(b, seen);
        for (int64_t j = seen; j < whole; j++)
            s[j] = s[0]; /* no maximum */
        float max = vec_max(s, whole);
        for (int64_t j = 0; j < whole; j++)
            s[j] = exp_f32(s[j] - max);
        memset(s + seen, 0, (size_t)(b->n_keys - seen) * sizeof(float));
        sums[i] = vec_sum(s, whole);
        a->lse[(b->row0 + i) * a->n_heads + b->head] = (float)((double)max + log(sums[i]));
    }
    gemm_run(&(Gemm){.m = b->n_rows,
                     .n = dim,
                     .k = b->n_keys,
                     .a = scores,
                     .b = head_at(a->v, a->ldkv, b->key0, b->kv_head, dim),
                     .c = o,
                     .lda = b->n_keys,
                     .ldb = a->ldkv,
                     .ldc = a->ldo,
                     .alpha = 1.0f});
    for (int64_t i = 0; i < b->n_rows; i++) {
        float scale = (float)(1.0 / sums[i]);
        for (int j = 0; j < dim; j++)
            o[i * a->ldo + j] *= scale;
    }
}

/* With P = exp(S - lse), S = scale q k^T:  dv = P^T do,  dP = do v^T,
 * dS = P (dP - rowsum(do o)),  dq = scale dS k,  dk = scale dS^T q. */
VECTORISED static void block_bwd(const Attention *a, const Block *b, float *p, float *ds)
{
    int dim = a->head_dim;
    const float *d_o = head_at(a->d_o, a->lddo, b->row0, b->head, dim);
    scores_run(a, b, p, a->scale, a->q, a->ldq, a->k);
    scores_run(a, b, ds, 1.0f, a->d_o, a->lddo, a->v);
    for (int64_t i = 0; i < b->n_rows; i++) {
        float *pi = p + i * b->n_keys, *dsi = ds + i * b->n_keys;
        int64_t seen = b->n_keys - b->n_rows + i + 1, whole = whole_lanes(b, seen);
        int64_t row = b->row0 + i;
        float lse = a->lse[row * a->n_heads + b->head];
        float delta =
            (float)vec_dot(d_o + i * a->lddo, head_at(a->out, a->ldo, row, b->head, dim), dim);
        for (int64_t j = 0; j < whole; j++) {
            pi[j] = exp_f32(pi[j] - lse);
            dsi[j] = a->scale * pi[j] * (dsi[j] - delta);
        }
        memset(pi + seen, 0, (size_t)(b->n_keys - seen) * sizeof(float));
        memset(dsi + seen, 0, (size_t)(b->n_keys - seen) * sizeof(float));
    }
    Gemm to_keys = {.trans_a = true,
                    .m = b->n_keys,
                    .n = dim,
                    .k = b->n_rows,
                    .lda = b->n_keys,
                    .ldc = a->ldkv,
                    .alpha = 1.0f,
                    .beta = 1.0f};
    int64_t at_key = b->key0 * a->ldkv + (int64_t)b->kv_head * dim;
    to_keys.a = p, to_keys.b = d_o, to_keys.ldb = a->lddo, to_keys.c = a->dv + at_key;
    gemm_run(&to_keys);
    to_keys.a = ds, to_keys.b = head_at(a->q, a->ldq, b->row0, b->head, dim);
    to_keys.ldb = a->ldq, to_keys.c = a->dk + at_key;
    gemm_run(&to_keys);
    gemm_run(&(Gemm){.m = b->n_rows,
                     .n = dim,
                     .k = b->n_keys,
                     .a = ds,
                     .b = a->k + at_key,
                     .c = a->dq + b->row0 * a->ldq + (int64_t)b->head * dim,
                     .lda = b->n_keys,
                     .ldb = a->ldkv,
                     .ldc = a->ldq,
                     .alpha = 1.0f});
}

static void part_run(const Attention *a, int64_t part, bool backward)
{
    int64_t doc = part / a->n_kv_heads, key0 = a->cu[doc], len = a->cu[doc + 1] - key0;
    int kv_head = (int)(part % a->n_kv_heads), dim = a->head_dim;
    /* Documents before this one, then its heads. */
    float *scores = a->scratch + a->scratch_of_row * (key0 * a->n_kv_heads + kv_head * len);
    for (int64_t r = key0; backward && r < key0 + len; r++) {
        memset(a->dk + r * a->ldkv + (int64_t)kv_head * dim, 0, (size_t)dim * sizeof(float));
        memset(a->dv + r * a->ldkv + (int64_t)kv_head * dim, 0, (size_t)dim * sizeof(float));
    }
    for (int h = 0; h < a->group; h++) {
        for (int64_t i = 0; i < len; i += QUERIES) {
            Block b = {.row0 = key0 + i, .key0 = key0, .kv_head = kv_head};
            b.n_rows = len - i < QUERIES ? len - i : QUERIES;
            b.n_keys = i + b.n_rows;
            b.head = kv_head * a->group + h;
            if (backward)
                block_bwd(a, &b, scores, scores + QUERIES * len);
            else
                block_fwd(a, &b, scores);
        }
    }
}

static void fwd_part(void *ud, int64_t part)
{
    part_run(ud, part, false);
}

static void bwd_part(void *ud, int64_t part)
{
    part_run(ud, part, true);
}

void cpu_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                       const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs, float scale)
{
    Attention a = attention_of(q, k, v, lse, n_heads, n_kv_heads, docs, scale, 1);
    check_matrix(o, tensor_rows(q), tensor_cols(q), "attention: o");
    a.o = data_f32(o);
    a.ldo = o->ld;
    attention_run(d, &a, docs, fwd_part);
}

void cpu_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                       const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                       const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                       float scale)
{
    Attention a = attention_of(q, k, v, lse, n_heads, n_kv_heads, docs, scale, 2);
    check_matrix(o, tensor_rows(q), tensor_cols(q), "attention: o");
    check_matrix(d_o, tensor_rows(q), tensor_cols(q), "attention: d_o");
    check_matrix(dq, tensor_rows(q), tensor_cols(q), "attention: dq");
    check_matrix(dk, tensor_rows(k), tensor_cols(k), "attention: dk");
    check_matrix(dv, tensor_rows(v), tensor_cols(v), "attention: dv");
    a.out = data_f32(o);
    a.d_o = data_f32(d_o);
    a.ldo = o->ld;
    a.lddo = d_o->ld;
    a.dq = dense_f32(dq);
    a.dk = dense_f32(dk);
    a.dv = dense_f32(dv);
    attention_run(d, &a, docs, bwd_part);
}
