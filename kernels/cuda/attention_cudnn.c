/* Flash attention by cuDNN in bf16.  The engine matches the list of operations, not the mathematics: order and kind are
 * those that NVIDIA's own front end emits.
 *
 * Two graphs.  Packed: documents of any lengths (ragged offsets); a plan fits a capacity: documents and longest document
 * are rounded up, far, so that few plans serve every batch.  Dense: documents of one length, which need neither offsets nor a
 * padding mask and run 7 % faster (cuDNN 9.19, one document of 16,384: 3.39 and 10.65 ms against 3.63 and 11.44).
 *
 * q, k, v and their gradients lie in plain buffers on both sides: fused inputs with plain gradients come out
 * wrong (found by test on cuDNN 9.19). */
#include "base/str.h"
#include "kernels/cuda/cudnn_graph.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"
#include "kernels/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Shape { /* what a plan depends on; b documents of at most s tokens */
    int64_t b, s, heads, kv_heads, width, ld_o, ld_do;
    int64_t backward;
    float scale;
    int32_t dense; /* exactly b documents of s tokens */
} Shape;

typedef struct Plan {
    Shape shape;
    CudnnGraph graph;
    CudnnTensor *q, *k, *v, *o, *stats, *d_o, *dq, *dk, *dv;
    CudnnTensor *len_q, *len_kv, *off_q, *off_kv, *off_o, *off_do, *off_stats; /* dense: NULL */
    CudnnTensor *dq_sum, *delta;    /* buffers that the graph wants from us */
    CudnnTensor *dk_full, *dv_full; /* packed: such buffers, too; dense: cuDNN's own */
    bool usable;
    struct Plan *next;
} Plan;

typedef struct Attention {
    cudnnHandle_t handle;
    Plan *plans;
    int64_t n_cudnn, n_dense, n_plain; /* calls of each kind, for tests and `bench` */
} Attention;

void cuda_attention_open(Device *d)
{
    Attention *a = xcalloc(1, sizeof *a);
    cudnnStatus_t s = cudnnCreate(&a->handle);
    if (s != CUDNN_STATUS_SUCCESS)
        panic("cuDNN: cudnnCreate on GPU %d: %s", cuda_ordinal(), cudnnGetErrorString(s));
    if (cudnnGetVersion() < 91501)
        panic("cuDNN %zu is too old: its attention reads out of bounds; 9.15.1 or later is needed",
              cudnnGetVersion());
    s = cudnnSetStream(a->handle, cuda_stream(d));
    if (s != CUDNN_STATUS_SUCCESS)
        panic("cuDNN: cudnnSetStream on GPU %d: %s", cuda_ordinal(), cudnnGetErrorString(s));
    cuda_impl(d)->attention = a;
}

void cuda_attention_close(Device *d)
{
    Attention *a = cuda_impl(d)->attention;
    for (Plan *p = a->plans, *next; p; p = next) {
        next = p->next;
        cudnn_clear(&p->graph);
        free(p);
    }
    cudnnDestroy(a->handle);
    free(a);
}

void cuda_attention_counts(const Device *d, DeviceInfo *out)
{
    const Attention *a = cuda_impl(d)->attention;
    out->n_flash = a->n_cudnn;
    out->n_dense = a->n_dense;
    out->n_plain = a->n_plain;
}

#define I4(a, b, c, d)                                                                             \
    (const int64_t[4])                                                                             \
    {                                                                                              \
        (a), (b), (c), (d)                                                                         \
    }
#define F32  CUDNN_DATA_FLOAT
#define BF16 CUDNN_DATA_BFLOAT16
#define I32  CUDNN_DATA_INT32

/* Rows < len_q and columns < len_kv keep their score, the others become -inf. */
static CudnnTensor *padding_mask(Plan *p, CudnnTensor *x)
{
    if (p->shape.dense) return x;
    CudnnGraph *g = &p->graph;
    CudnnTensor *row = cudnn_like(g, x, I32), *col = cudnn_like(g, x, I32);
    CudnnTensor *row_in = cudnn_like(g, x, CUDNN_DATA_BOOLEAN),
                *col_in = cudnn_like(g, x, CUDNN_DATA_BOOLEAN);
    CudnnTensor *in = cudnn_like(g, x, CUDNN_DATA_BOOLEAN), *y = cudnn_like(g, x, F32);
    CudnnTensor *minus_inf = cudnn_scalar(g, -INFINITY);
    cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, I32, 2, x, NULL, NULL, row);
    cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, I32, 3, x, NULL, NULL, col);
    cudnn_pointwise(g, CUDNN_POINTWISE_CMP_LT, CUDNN_DATA_BOOLEAN, -1, row, p->len_q, NULL, row_in);
    cudnn_pointwise(g, CUDNN_POINTWISE_CMP_LT, CUDNN_DATA_BOOLEAN, -1, col, p->len_kv, NULL,
                    col_in);
    cudnn_pointwise(g, CUDNN_POINTWISE_LOGICAL_AND, CUDNN_DATA_BOOLEAN, -1, row_in, col_in, NULL,
                    in);
    cudnn_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, F32, -1, x, minus_inf, in, y);
    return y;
}

static CudnnTensor *causal_mask(Plan *p, CudnnTensor *x)
{
    CudnnGraph *g = &p->graph;
    CudnnTensor *row = cudnn_like(g, x, I32), *col = cudnn_like(g, x, I32);
    CudnnTensor *in = cudnn_like(g, x, CUDNN_DATA_BOOLEAN), *y = cudnn_like(g, x, F32);
    CudnnTensor *minus_inf = cudnn_scalar(g, -INFINITY);
    cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, F32, 2, x, NULL, NULL, row);
    cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, F32, 3, x, NULL, NULL, col);
    cudnn_pointwise(g, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, -1, row, col, NULL, in);
    cudnn_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, F32, -1, x, minus_inf, in, y);
    return y;
}

static CudnnTensor *offsets(Plan *p)
{
    if (p->shape.dense) return NULL;
    return cudnn_tensor(&p->graph, CUDNN_DATA_INT64, I4(p->shape.b + 1, 1, 1, 1), I4(1, 1, 1, 1), 0,
                        NULL);
}

/* Logical dimensions are always (b, heads, s, width); strides say where it lies.  K comes transposed, V
 * too in the backward graph. */
static void common(Plan *p)
{
    CudnnGraph *g = &p->graph;
    const Shape *c = &p->shape;
    int64_t b = c->b, s = c->s, h = c->heads, kv = c->kv_heads, w = c->width, rq = h * w,
            rk = kv * w;
    if (!c->dense) {
        p->len_q = cudnn_tensor(g, I32, I4(b, 1, 1, 1), I4(1, 1, 1, 1), 0, NULL);
        p->len_kv = cudnn_tensor(g, I32, I4(b, 1, 1, 1), I4(1, 1, 1, 1), 0, NULL);
    }
    p->off_q = offsets(p);
    p->off_kv = offsets(p);
    p->off_o = offsets(p);
    p->off_stats = offsets(p);
    p->q = cudnn_tensor(g, BF16, I4(b, h, s, w), I4(s * rq, w, rq, 1), 0, p->off_q);
    p->k = cudnn_tensor(g, BF16, I4(b, kv, w, s), I4(s * rk, w, 1, rk), 0, p->off_kv);
    p->v = c->backward ? cudnn_tensor(g, BF16, I4(b, kv, w, s), I4(s * rk, w, 1, rk), 0, p->off_kv)
                       : cudnn_tensor(g, BF16, I4(b, kv, s, w), I4(s * rk, w, rk, 1), 0, p->off_kv);
    p->o = cudnn_tensor(g, BF16, I4(b, h, s, w), I4(s * c->ld_o, w, c->ld_o, 1), 0, p->off_o);
    const int64_t *stats = c->dense ? I4(s * h, s, 1, 1) : I4(s * h, 1, h, 1);
    p->stats = cudnn_tensor(g, F32, I4(b, h, s, 1), stats, 0, p->off_stats);
}

static void build_forward(Plan *p)
{
    CudnnGraph *g = &p->graph;
    int64_t b = p->shape.b, s = p->shape.s, h = p->shape.heads;
    common(p);
    CudnnTensor *x =
        cudnn_tensor(g, F32, I4(b, h, s, s), I4(h * s * s, s * s, s, 1), CUDNN_VIRTUAL, NULL);
    cudnn_matmul(g, p->q, p->k, x, p->len_q, p->len_kv, NULL);
    CudnnTensor *scaled = cudnn_like(g, x, F32);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, x, cudnn_scalar(g, p->shape.scale), NULL,
                    scaled);
    x = causal_mask(p, padding_mask(p, scaled));
    /* softmax, with stats = max + log(sum) */
    const int64_t *dim = I4(b, h, s, 1), *stride = I4(h * s, s, 1, 1);
    CudnnTensor *most = cudnn_tensor(g, F32, dim, stride, CUDNN_VIRTUAL, NULL);
    CudnnTensor *sum = cudnn_tensor(g, F32, dim, stride, CUDNN_VIRTUAL, NULL);
    CudnnTensor *log_sum = cudnn_tensor(g, F32, dim, stride, CUDNN_VIRTUAL, NULL);
    CudnnTensor *less = cudnn_like(g, x, F32), *e = cudnn_like(g, x, F32),
                *prob = cudnn_like(g, x, BF16);
    cudnn_reduce(g, CUDNN_REDUCE_TENSOR_MAX, x, most);
    cudnn_pointwise(g, CUDNN_POINTWISE_SUB, F32, -1, x, most, NULL, less);
    cudnn_pointwise(g, CUDNN_POINTWISE_EXP, F32, -1, less, NULL, NULL, e);
    cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    cudnn_pointwise(g, CUDNN_POINTWISE_LOG, F32, -1, sum, NULL, NULL, log_sum);
    cudnn_pointwise(g, CUDNN_POINTWISE_ADD, F32, -1, most, log_sum, NULL, p->stats);
    cudnn_pointwise(g, CUDNN_POINTWISE_DIV, F32, -1, e, sum, NULL, prob);
    cudnn_matmul(g, prob, p->v, p->o, p->len_q, NULL, p->len_kv);
}

/* to = a^T b, summed over the query heads that share a key/value head: through a buffer of all heads where there
 * are several. */
static CudnnTensor *grouped_product(Plan *p, CudnnTensor *a_t, CudnnTensor *b_rows, CudnnTensor *to)
{
    CudnnGraph *g = &p->graph;
    const Shape *c = &p->shape;
    if (c->heads == c->kv_heads) {
        cudnn_matmul(g, a_t, b_rows, to, p->len_kv, NULL, p->len_q);
        return NULL;
    }
    int64_t row = c->heads * c->width;
    const int64_t *stride =
        c->dense ? I4(c->s * row, c->s * c->width, c->width, 1) : I4(c->s * row, c->width, row, 1);
    CudnnTensor *full = cudnn_tensor(g, BF16, I4(c->b, c->heads, c->s, c->width), stride,
                                     c->dense ? CUDNN_VIRTUAL : 0, p->off_kv);
    cudnn_matmul(g, a_t, b_rows, full, p->len_kv, NULL, p->len_q);
    cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, full, to);
    return full;
}

static void build_backward(Plan *p)
{
    CudnnGraph *g = &p->graph;
    const Shape *c = &p->shape;
    int64_t b = c->b, s = c->s, h = c->heads, kv = c->kv_heads, w = c->width, rq = h * w,
            rk = kv * w;
    common(p);
    p->off_do = offsets(p);
    p->d_o = cudnn_tensor(g, BF16, I4(b, h, s, w), I4(s * c->ld_do, w, c->ld_do, 1), 0, p->off_do);
    p->dq = cudnn_tensor(g, BF16, I4(b, h, s, w), I4(s * rq, w, rq, 1), 0, p->off_q);
    p->dk = cudnn_tensor(g, BF16, I4(b, kv, s, w), I4(s * rk, w, rk, 1), 0, p->off_kv);
    p->dv = cudnn_tensor(g, BF16, I4(b, kv, s, w), I4(s * rk, w, rk, 1), 0, p->off_kv);

    /* delta = rowsum(dO * O); the factor 1 stands where dropout would, the pattern expects it */
    CudnnTensor *product =
        cudnn_tensor(g, F32, I4(b, h, s, w), I4(h * s * w, s * w, h * w, 1), CUDNN_VIRTUAL, NULL);
    CudnnTensor *row_sum =
        cudnn_tensor(g, F32, I4(b, h, s, 1), I4(h * s, s, 1, 1), CUDNN_VIRTUAL, NULL);
    p->delta = cudnn_tensor(g, F32, I4(b, h, s, 1), p->stats->stride, 0, p->off_stats);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, p->d_o, p->o, NULL, product);
    cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, product, row_sum);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, row_sum, cudnn_scalar(g, 1), NULL, p->delta);

    /* P = exp(scale Q K^T - stats), masked; here the causal mask comes after the subtraction */
    const int64_t *dim = I4(b, h, s, s), *plain = I4(h * s * s, s * s, s, 1),
                  *turned = I4(h * s * s, s * s, 1, s);
    CudnnTensor *x = cudnn_tensor(g, F32, dim, plain, CUDNN_VIRTUAL, NULL),
                *scaled = cudnn_like(g, x, F32);
    CudnnTensor *scale = cudnn_scalar(g, c->scale);
    cudnn_matmul(g, p->q, p->k, x, p->len_q, p->len_kv, NULL);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, x, scale, NULL, scaled);
    x = padding_mask(p, scaled);
    CudnnTensor *less = cudnn_like(g, x, F32), *prob = cudnn_like(g, x, F32);
    cudnn_pointwise(g, CUDNN_POINTWISE_SUB, F32, -1, x, p->stats, NULL, less);
    cudnn_pointwise(g, CUDNN_POINTWISE_EXP, F32, -1, causal_mask(p, less), NULL, NULL, prob);

    CudnnTensor *prob_t = cudnn_tensor(g, BF16, dim, turned, CUDNN_VIRTUAL, NULL);
    cudnn_reshape(g, prob, prob_t);
    p->dv_full = grouped_product(p, prob_t, p->d_o, p->dv);

    /* dS = P * (dO V^T - delta) * scale */
    CudnnTensor *dp = cudnn_tensor(g, F32, dim, plain, CUDNN_VIRTUAL, NULL);
    CudnnTensor *dp_less = cudnn_like(g, dp, F32), *ds = cudnn_like(g, dp, F32),
                *ds_scaled = cudnn_like(g, dp, F32);
    cudnn_matmul(g, p->d_o, p->v, dp, p->len_q, p->len_kv, NULL);
    cudnn_pointwise(g, CUDNN_POINTWISE_SUB, F32, -1, dp, p->delta, NULL, dp_less);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, dp_less, prob, NULL, ds);
    cudnn_pointwise(g, CUDNN_POINTWISE_MUL, F32, -1, ds, scale, NULL, ds_scaled);

    CudnnTensor *ds_t = cudnn_tensor(g, BF16, dim, turned, CUDNN_VIRTUAL, NULL);
    cudnn_reshape(g, ds_scaled, ds_t);
    p->dk_full = grouped_product(p, ds_t, p->q, p->dk);

    /* dQ = dS K, summed in f32 by atomics */
    CudnnTensor *k_rows =
        cudnn_tensor(g, BF16, I4(b, kv, s, w), I4(s * rk, w, rk, 1), CUDNN_VIRTUAL, p->off_kv);
    cudnn_reshape(g, p->k, k_rows);
    const int64_t *sum_stride = c->dense ? I4(h * s * w, s * w, w, 1) : p->dq->stride;
    p->dq_sum = cudnn_tensor(g, F32, I4(b, h, s, w), sum_stride, 0, p->off_q);
    cudnn_matmul(g, ds_scaled, k_rows, p->dq_sum, p->len_q, NULL, p->len_kv);
    cudnn_pointwise(g, CUDNN_POINTWISE_IDENTITY, F32, -1, p->dq_sum, NULL, NULL, p->dq);
}

/* A plan takes 0.1 s to make and is no slower for the longest document that it allows (cuDNN 9.19: 90 documents, 16,384 tokens,
 * forward and backward 1.38 ms at 1,024 and at 16,384): one serves nearly all.  Documents cost 6 to 8 % an octave. */
static int64_t longest_capacity(int64_t n)
{
    int64_t capacity = 16384;
    while (capacity < n)
        capacity *= 2;
    return capacity;
}

static AttentionScratch scratch_of(const Shape *s, int64_t n_docs, int64_t n_tokens, size_t own)
{
    return cuda_attention_scratch(n_docs, n_tokens, s->heads, s->kv_heads, s->width, s->backward,
                                  own);
}

/* A dense plan has room where a packed one keeps what dense ones have in cuDNN's: scratch is the same for both. */
static bool fits_scratch(const Plan *p)
{
    const Shape *s = &p->shape;
    if (!s->dense) return true;
    AttentionScratch at = scratch_of(s, s->b, s->b * s->s, 0);
    return (size_t)p->graph.workspace_bytes <= at.bytes - at.dense_own;
}

/* NULL: cuDNN does not take this shape. */
static Plan *plan_of(Device *d, const Shape *shape)
{
    Attention *a = cuda_impl(d)->attention;
    for (Plan *p = a->plans; p; p = p->next)
        if (memcmp(&p->shape, shape, sizeof *shape) == 0) return p->usable ? p : NULL;
    Plan *p = xcalloc(1, sizeof *p);
    p->shape = *shape;
    p->graph.handle = a->handle;
    p->next = a->plans;
    a->plans = p;
    if (shape->backward)
        build_backward(p);
    else
        build_forward(p);
    p->usable = cudnn_finish(&p->graph) && fits_scratch(p);
    return p->usable ? p : NULL;
}

/* Whether the tokens are documents of one length: known on the host.  Only lengths of whole tiles, so that batches of
 * one document each do not make a plan for every length. */
static bool one_length(const Docs *docs, int64_t n_tokens)
{
    return docs->n_docs * docs->max_len == n_tokens && docs->max_len % 128 == 0;
}

/* The dense plan where documents allow it, else the packed one; NULL: our own kernels. */
static Plan *choose_plan(Device *d, const Tensor *q, int heads, int kv_heads, int64_t ld_o,
                         int64_t ld_do, bool backward, const Docs *docs, float scale)
{
    int64_t width = tensor_cols(q) / heads;
    if (cuda_impl(d)->own_attention || !cuda_attention_is_flash(q->dtype == DT_BF16, width))
        return NULL;
    Shape shape;
    memset(&shape, 0, sizeof shape);
    shape = (Shape){docs->n_docs, docs->max_len, heads,    kv_heads, width,
                    ld_o,         ld_do,         backward, scale,    true};
    Plan *p = one_length(docs, tensor_rows(q)) ? plan_of(d, &shape) : NULL;
    if (p) return p;
    shape.b = cuda_attention_capacity(docs->n_docs);
    shape.s = longest_capacity(docs->max_len);
    shape.dense = false;
    return plan_of(d, &shape);
}

/* Lengths and offsets of the documents, and the buffers of the backward pass, in the kernel's scratch. */
typedef struct Scratch {
    char *base, *own; /* own: cuDNN's */
    AttentionScratch at;
} Scratch;

static Scratch take_scratch(Device *d, Plan *p, const Docs *docs, int64_t n_tokens)
{
    const Shape *s = &p->shape;
    size_t own = s->dense ? 0 : (size_t)p->graph.workspace_bytes;
    Scratch x = {.at = scratch_of(s, docs->n_docs, n_tokens, own)};
    x.base = workspace_take(d, x.at.bytes);
    x.own = x.base + (s->dense ? x.at.dense_own : x.at.own);
    cudnn_bind(&p->graph, p->stats, x.base + x.at.stats);
    if (s->dense) return x;
    int64_t *off[] = {(int64_t *)(x.base + x.at.off_q), (int64_t *)(x.base + x.at.off_kv),
                      (int64_t *)(x.base + x.at.off_o), (int64_t *)(x.base + x.at.off_do),
                      (int64_t *)(x.base + x.at.off_stats)};
    const int64_t factors[] = {s->heads * s->width, s->kv_heads * s->width, s->ld_o, s->ld_do,
                               s->heads};
    cuda_document_offsets(d, (int32_t *)(x.base + x.at.lengths), s->b, docs, off, factors, 5);
    CudnnGraph *g = &p->graph;
    cudnn_bind(g, p->len_q, x.base + x.at.lengths);
    cudnn_bind(g, p->len_kv, x.base + x.at.lengths);
    cudnn_bind(g, p->off_q, x.base + x.at.off_q);
    cudnn_bind(g, p->off_kv, x.base + x.at.off_kv);
    cudnn_bind(g, p->off_o, x.base + x.at.off_o);
    if (p->off_do) cudnn_bind(g, p->off_do, x.base + x.at.off_do);
    cudnn_bind(g, p->off_stats, x.base + x.at.off_stats);
    return x;
}

void cuda_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                        const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs, float scale)
{
    Attention *a = cuda_impl(d)->attention;
    if (tensor_rows(q) == 0) return;
    Plan *p = choose_plan(d, q, n_heads, n_kv_heads, o->ld, 0, false, docs, scale);
    if (!p) {
        a->n_plain++;
        cuda_attention_fwd_plain(d, o, lse, q, k, v, n_heads, n_kv_heads, docs, scale);
        return;
    }
    a->n_cudnn++;
    a->n_dense += p->shape.dense;
    CudnnGraph *g = &p->graph;
    Scratch x = take_scratch(d, p, docs, tensor_rows(q));
    cudnn_bind(g, p->q, tensor_data(q));
    cudnn_bind(g, p->k, tensor_data(k));
    cudnn_bind(g, p->v, tensor_data(v));
    cudnn_bind(g, p->o, tensor_data(o));
    if (!p->shape.dense) cudnn_bind(g, p->stats, tensor_data(lse));
    if (!cudnn_execute(g, x.own)) panic("%s, on GPU %d", g->why, cuda_ordinal());
    if (p->shape.dense) /* by head, then token; ours the other way round */
        cuda_transpose_f32(d, tensor_data(lse), (float *)(x.base + x.at.stats), p->shape.b,
                           p->shape.heads, p->shape.s);
    workspace_give(d);
}

void cuda_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                        const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                        const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                        float scale)
{
    Attention *a = cuda_impl(d)->attention;
    if (tensor_rows(q) == 0) return;
    Plan *p = choose_plan(d, q, n_heads, n_kv_heads, o->ld, d_o->ld, true, docs, scale);
    if (!p) {
        a->n_plain++;
        cuda_attention_bwd_plain(d, dq, dk, dv, d_o, q, k, v, o, lse, n_heads, n_kv_heads, docs,
                                 scale);
        return;
    }
    a->n_cudnn++;
    a->n_dense += p->shape.dense;
    CudnnGraph *g = &p->graph;
    Scratch x = take_scratch(d, p, docs, tensor_rows(q));
    cudnn_bind(g, p->q, tensor_data(q));
    cudnn_bind(g, p->k, tensor_data(k));
    cudnn_bind(g, p->v, tensor_data(v));
    cudnn_bind(g, p->o, tensor_data(o));
    cudnn_bind(g, p->d_o, tensor_data(d_o));
    if (p->shape.dense)
        cuda_transpose_f32(d, (float *)(x.base + x.at.stats), tensor_data(lse), p->shape.b,
                           p->shape.s, p->shape.heads);
    else
        cudnn_bind(g, p->stats, tensor_data(lse));
    cudnn_bind(g, p->dq, tensor_data(dq));
    cudnn_bind(g, p->dk, tensor_data(dk));
    cudnn_bind(g, p->dv, tensor_data(dv));
    cudnn_bind(g, p->dq_sum, x.base + x.at.dq_sum);
    cudnn_bind(g, p->delta, x.base + x.at.delta);
    if (p->dk_full && !p->shape.dense) {
        cudnn_bind(g, p->dk_full, x.base + x.at.dk_full);
        cudnn_bind(g, p->dv_full, x.base + x.at.dv_full);
    }
    if (!cudnn_execute(g, x.own)) panic("%s, on GPU %d", g->why, cuda_ordinal());
    workspace_give(d);
}
