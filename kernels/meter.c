/* A table of kernels that count and call on.  One function a kernel, in the order of kernels/kernels.h. */
#include "kernels/meter.h"

#include "base/clock.h"

#include <stddef.h>
#include <string.h>

#define ID(kernel) ((int)(offsetof(Kernels, kernel) / sizeof(void (*)(void))))

void meter_add(MeterCount *to, const MeterCount *c)
{
    to->calls += c->calls;
    to->flops += c->flops;
    to->bytes += c->bytes;
    to->seconds += c->seconds;
    to->floor += c->floor;
}

MeterClass meter_class(int kernel)
{
    if (kernel == ID(matmul)) return METER_PRODUCTS;
    if (kernel == ID(attention_fwd) || kernel == ID(attention_bwd) ||
        kernel == ID(attention_cached))
        return METER_ATTENTION;
    return METER_OTHER;
}

MeterCount meter_sum(const Meter *m, MeterClass c)
{
    MeterCount sum = {0};
    for (int i = 0; i < N_KERNELS; i++)
        if (c == METER_CLASSES || meter_class(i) == c) meter_add(&sum, &m->kernels[i]);
    return sum;
}

static MeterOp *find_op(Meter *m, const char *module, const char *name, MeterPass pass)
{
    for (int i = 0; i < m->n_ops; i++) {
        MeterOp *op = &m->ops[i];
        if (op->pass == pass && strcmp(op->name, name) == 0 && strcmp(op->module, module) == 0)
            return op;
    }
    ASSERT(m->n_ops < METER_MAX_OPS, "more than %d kinds of ops", METER_MAX_OPS);
    m->ops[m->n_ops] = (MeterOp){.module = module, .name = name, .pass = pass};
    return &m->ops[m->n_ops++];
}

void meter_op(Meter *m, const char *module, const char *name, MeterPass pass)
{
    if (m->pending.calls == 0) return;
    m->last = find_op(m, module ? module : "no module", name, pass);
    meter_rest(m);
}

void meter_rest(Meter *m)
{
    if (!m->last) return;
    meter_add(&m->last->count, &m->pending);
    m->pending = (MeterCount){0};
}

static bool is_optimizers(int kernel)
{
    return kernel == ID(adamw) || kernel == ID(sum_squares) || kernel == ID(step_scalars);
}

/* ---- around a kernel -------------------------------------------------------------------------- */

static const Kernels *begin(Device *d, const char *kernel)
{
    Meter *m = d->meter;
    if (d->backend->range) d->backend->range(d, kernel);
    if (m->timed) {
        d->backend->sync(d);
        m->began = seconds_monotonic();
    }
    return m->inner;
}

static double floor_of(const Meter *m, int kernel, double flops, double bytes)
{
    const GpuSpec *g = m->gpu;
    if (!g) return 0;
    double traffic = bytes / (g->bandwidth * g->copy), arithmetic = 0;
    if (meter_class(kernel) == METER_PRODUCTS) arithmetic = flops / (g->bf16_flops * g->sustained);
    /* a flash kernel's backward pass is five products, of which flops counts four */
    if (kernel == ID(attention_bwd)) flops *= 1.25;
    if (meter_class(kernel) == METER_ATTENTION) arithmetic = flops / (g->bf16_flops * g->attention);
    return arithmetic > traffic ? arithmetic : traffic;
}

static void end(Device *d, int kernel, double flops, double bytes)
{
    Meter *m = d->meter;
    MeterCount c = {1, flops, bytes, 0, floor_of(m, kernel, flops, bytes)};
    if (m->timed) {
        d->backend->sync(d);
        c.seconds = (seconds_monotonic() - m->began) / m->repeats;
    }
    if (d->backend->range) d->backend->range(d, NULL);
    meter_add(&m->kernels[kernel], &c);
    if (is_optimizers(kernel))
        meter_add(&find_op(m, "optimizer", kernel_name(kernel), METER_FORWARD)->count, &c);
    else
        meter_add(&m->pending, &c);
}

#define RUN(d, kernel, args)                                                                       \
    do {                                                                                           \
        const Kernels *inner_ = begin(d, #kernel);                                                 \
        for (int run_ = 0; run_ < (d)->meter->repeats; run_++)                                     \
            inner_->kernel args;                                                                   \
    } while (0)

static double size(const Tensor *t)
{
    return t ? (double)tensor_numel(t) * (double)dtype_bytes(t->dtype) : 0;
}

/* Written, and read first when it is added to. */
static double size_out(const Tensor *t, float beta)
{
    return size(t) * (beta != 0 ? 2 : 1);
}

static double squares(const Docs *docs)
{
    double sum = 0;
    for (int i = 0; i < docs->n_docs; i++) {
        double len = docs->cu_host[i + 1] - docs->cu_host[i];
        sum += len * len;
    }
    return sum;
}

/* ---- the table -------------------------------------------------------------------------------- */

static void m_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    RUN(d, matmul, (d, c, a, b, args));
    double k = (double)(args.trans_a ? tensor_rows(a) : tensor_cols(a));
    end(d, ID(matmul), 2 * (double)tensor_numel(c) * k, size(a) + size(b) + size_out(c, args.beta));
}

static void m_copy(Device *d, Tensor *y, const Tensor *src)
{
    RUN(d, copy, (d, y, src));
    end(d, ID(copy), 0, size(y) + size(src));
}

static void m_axpy(Device *d, Tensor *y, float alpha, const Tensor *x)
{
    RUN(d, axpy, (d, y, alpha, x));
    end(d, ID(axpy), 2 * (double)tensor_numel(x), 2 * size(y) + size(x));
}

static void m_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x)
{
    RUN(d, sum_rows, (d, y, beta, x));
    end(d, ID(sum_rows), (double)tensor_numel(x), size_out(y, beta) + size(x));
}

static void m_bias_fwd(Device *d, Tensor *y, const Tensor *bias)
{
    RUN(d, bias_fwd, (d, y, bias));
    end(d, ID(bias_fwd), (double)tensor_numel(y), 2 * size(y) + size(bias));
}

static void m_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy)
{
    RUN(d, bias_bwd, (d, db, beta, dy));
    end(d, ID(bias_bwd), (double)tensor_numel(dy), size_out(db, beta) + size(dy));
}

static void m_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids)
{
    RUN(d, embedding_fwd, (d, y, w, ids));
    end(d, ID(embedding_fwd), 0, 2 * size(y) + size(ids));
}

static void m_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids)
{
    RUN(d, embedding_bwd, (d, dw, beta, dy, ids));
    double rows = 2 * (double)tensor_numel(dy) * (double)dtype_bytes(dw->dtype);
    end(d, ID(embedding_bwd), (double)tensor_numel(dy),
        (beta == 0 ? size(dw) : 0) + rows + size(dy) + size(ids));
}

static void m_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                          float eps)
{
    RUN(d, rmsnorm_fwd, (d, y, rstd, x, w, eps));
    end(d, ID(rmsnorm_fwd), 4 * (double)tensor_numel(x), size(y) + size(x) + size(rstd) + size(w));
}

static void m_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta,
                          const Tensor *dy, const Tensor *x, const Tensor *rstd, const Tensor *w)
{
    RUN(d, rmsnorm_bwd, (d, dx, beta, dw, dw_beta, dy, x, rstd, w));
    end(d, ID(rmsnorm_bwd), 8 * (double)tensor_numel(x),
        size_out(dx, beta) + size_out(dw, dw_beta) + size(dy) + size(x) + size(rstd) + size(w));
}

static void m_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q,
                             Tensor *rstd_k, const Tensor *qkv, const Tensor *positions,
                             const Tensor *rope, const Tensor *q_norm, const Tensor *k_norm,
                             int n_heads, int n_kv_heads, float eps)
{
    RUN(d, split_rope_fwd,
        (d, q, k, v, rstd_q, rstd_k, qkv, positions, rope, q_norm, k_norm, n_heads, n_kv_heads,
         eps));
    end(d, ID(split_rope_fwd), 3 * (double)(tensor_numel(q) + tensor_numel(k)),
        2 * size(qkv) + size(rstd_q) + size(rstd_k));
}

static void m_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm,
                             float dq_norm_beta, Tensor *dk_norm, float dk_norm_beta,
                             const Tensor *dq, const Tensor *dk, const Tensor *dv,
                             const Tensor *qkv, const Tensor *rstd_q, const Tensor *rstd_k,
                             const Tensor *positions, const Tensor *rope, const Tensor *q_norm,
                             const Tensor *k_norm, int n_heads, int n_kv_heads)
{
    RUN(d, split_rope_bwd,
        (d, dqkv, beta, dq_norm, dq_norm_beta, dk_norm, dk_norm_beta, dq, dk, dv, qkv, rstd_q,
         rstd_k, positions, rope, q_norm, k_norm, n_heads, n_kv_heads));
    end(d, ID(split_rope_bwd), 3 * (double)(tensor_numel(dq) + tensor_numel(dk)),
        size_out(dqkv, beta) + size(dq) + size(dk) + size(dv) + (q_norm ? size(qkv) : 0));
}

static void m_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                            const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    RUN(d, attention_fwd, (d, o, lse, q, k, v, n_heads, n_kv_heads, docs, scale));
    end(d, ID(attention_fwd), 2 * squares(docs) * (double)tensor_cols(q),
        size(o) + size(lse) + size(q) + size(k) + size(v));
}

static void m_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                            const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                            const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    RUN(d, attention_bwd, (d, dq, dk, dv, d_o, q, k, v, o, lse, n_heads, n_kv_heads, docs, scale));
    end(d, ID(attention_bwd), 4 * squares(docs) * (double)tensor_cols(q),
        size(d_o) + size(o) + size(lse) + 2 * (size(q) + size(k) + size(v)));
}

/* The cache is counted up to the bound on what it holds. */
static void m_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v,
                               const Tensor *q, const Tensor *k, const Tensor *v, int n_heads,
                               int n_kv_heads, const Docs *docs, const Tensor *past,
                               int64_t max_past, float scale)
{
    RUN(d, attention_cached,
        (d, o, cache_k, cache_v, q, k, v, n_heads, n_kv_heads, docs, past, max_past, scale));
    double seen = (double)(max_past + docs->max_len);
    double row = (double)(tensor_cols(q) / n_heads * n_kv_heads) * (double)dtype_bytes(q->dtype);
    end(d, ID(attention_cached), 4 * (double)tensor_numel(q) * seen,
        size(o) + size(q) + size(k) + size(v) + 2 * (double)docs->n_docs * seen * row);
}

static void m_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu)
{
    RUN(d, swiglu_fwd, (d, h, gu));
    end(d, ID(swiglu_fwd), 5 * (double)tensor_numel(h), size(h) + size(gu));
}

static void m_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                         const Tensor *gu)
{
    RUN(d, swiglu_bwd, (d, dgu, beta, h, dh, gu));
    end(d, ID(swiglu_bwd), 10 * (double)tensor_numel(dh),
        size_out(dgu, beta) + size(h) + size(dh) + size(gu));
}

static void m_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows)
{
    RUN(d, gather_rows, (d, y, x, rows));
    end(d, ID(gather_rows), 0, 2 * size(y) + size(rows));
}

static void m_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows)
{
    RUN(d, scatter_rows, (d, dx, beta, dy, rows));
    end(d, ID(scatter_rows), 0, (beta == 0 ? size(dx) : size(dy)) + size(dy) + size(rows));
}

static void m_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                           float grad_scale)
{
    RUN(d, softmax_xent, (d, loss, logits, targets, grad_scale));
    end(d, ID(softmax_xent), 6 * (double)tensor_numel(logits),
        size(loss) + size(logits) * (grad_scale != 0 ? 3 : 1) + size(targets));
}

static void m_argmax(Device *d, Tensor *best, const Tensor *x)
{
    RUN(d, argmax, (d, best, x));
    end(d, ID(argmax), (double)tensor_numel(x), size(best) + size(x));
}

static void m_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best)
{
    RUN(d, next_tokens, (d, past, ids, best));
    end(d, ID(next_tokens), (double)tensor_numel(past), size(past) * (best ? 4 : 2));
}

static void m_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args)
{
    RUN(d, dropout_fwd, (d, y, x, args));
    end(d, ID(dropout_fwd), (double)tensor_numel(x), size(y) + size(x));
}

static void m_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy,
                          const DropoutArgs *args)
{
    RUN(d, dropout_bwd, (d, dx, beta, dy, args));
    end(d, ID(dropout_bwd), (double)tensor_numel(dy), size_out(dx, beta) + size(dy));
}

static void m_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std)
{
    RUN(d, fill_normal, (d, t, low, key, mean, std));
    end(d, ID(fill_normal), 0, size(t) + size(low));
}

static void m_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n)
{
    RUN(d, write_adapters, (d, w, parts, n));
    double bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += 2 * (size(parts[i].a) + size(parts[i].b));
    end(d, ID(write_adapters), 0, bytes);
}

static void m_row_norms(Device *d, Tensor *norm, const Tensor *w)
{
    RUN(d, row_norms, (d, norm, w));
    end(d, ID(row_norms), 2 * (double)tensor_numel(w), size(norm) + size(w));
}

static void m_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                            const Tensor *aa, const Tensor *b, float s)
{
    RUN(d, adapted_norms, (d, norm, base, wa, aa, b, s));
    double rank = (double)tensor_cols(wa);
    end(d, ID(adapted_norms), 2 * (rank + 2) * (double)tensor_numel(wa),
        size(norm) + size(base) + size(wa) + size(aa) + size(b));
}

static void m_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                       const Tensor *norm)
{
    RUN(d, dora_fwd, (d, y, add, z, m, norm));
    end(d, ID(dora_fwd), (add ? 2 : 1) * (double)tensor_numel(z),
        size(y) + size(z) + (add ? size(add) : 0));
}

static void m_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta,
                       const Tensor *dy, const Tensor *z, const Tensor *m, const Tensor *norm)
{
    RUN(d, dora_bwd, (d, dz, beta, dm, dm_beta, dy, z, m, norm));
    end(d, ID(dora_bwd), 3 * (double)tensor_numel(z),
        size_out(dz, beta) + size(dy) + (dm ? size(z) : 0));
}

static double size_packed(const QuantPart *q)
{
    return quant_bits(q) / 8 * (double)quant_numel(q);
}

static void m_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src)
{
    RUN(d, quantize, (d, packed, q, src));
    end(d, ID(quantize), 0, size_packed(q) + size(src));
}

/* Of all parts: numbers, and what is stored. */
static double numel_of(const QuantPart *parts, int n, double *bytes)
{
    double numel = 0;
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        numel += (double)quant_numel(&parts[i]);
        *bytes += size_packed(&parts[i]);
    }
    return numel;
}

static void m_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n)
{
    RUN(d, dequantize, (d, y, packed, parts, n));
    double bytes;
    numel_of(parts, n, &bytes);
    end(d, ID(dequantize), 0, size(y) + bytes);
}

static void m_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                           const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                           int n)
{
    RUN(d, quant_matvec, (d, y, add, x, norm, packed, parts, n));
    double bytes, numel = numel_of(parts, n, &bytes);
    end(d, ID(quant_matvec), 2 * (double)tensor_rows(x) * numel,
        size(y) + size(add) + size(x) + bytes);
}

static void m_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                          const Tensor *packed, const QuantPart *q, float threshold)
{
    RUN(d, quant_mixed, (d, y, add, x, packed, q, threshold));
    end(d, ID(quant_mixed), 2 * (double)tensor_rows(x) * (double)quant_numel(q),
        size(y) + size(add) + size(x) + size_packed(q));
}

static void m_sum(Device *d, Tensor *out, float beta, const Tensor *x)
{
    RUN(d, sum, (d, out, beta, x));
    end(d, ID(sum), (double)tensor_numel(x), size(x));
}

static void m_sum_squares(Device *d, Tensor *out, float beta, const Tensor *x)
{
    RUN(d, sum_squares, (d, out, beta, x));
    end(d, ID(sum_squares), 2 * (double)tensor_numel(x), size(x));
}

static void m_count_nonfinite(Device *d, Tensor *count, float beta, const Tensor *x)
{
    RUN(d, count_nonfinite, (d, count, beta, x));
    end(d, ID(count_nonfinite), 0, size(x));
}

static void m_checksum(Device *d, Tensor *sum, const Tensor *x)
{
    RUN(d, checksum, (d, sum, x));
    end(d, ID(checksum), 0, size(x));
}

static void m_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                           float clip)
{
    RUN(d, step_scalars, (d, step, sum_squares, loss, clip));
    end(d, ID(step_scalars), 0, size(step));
}

static void m_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                    const Tensor *step, const AdamwArgs *args)
{
    RUN(d, adamw, (d, w, low, states, grad, step, args));
    end(d, ID(adamw), 14 * (double)tensor_numel(w),
        2 * (size(w) + size(low) + size(&states->m) + size(&states->v)) +
            2 * (size(&states->m_max) + size(&states->v_max)) + size(grad));
}

static const Kernels meter_kernels = {
    .matmul = m_matmul,
    .copy = m_copy,
    .axpy = m_axpy,
    .sum_rows = m_sum_rows,
    .bias_fwd = m_bias_fwd,
    .bias_bwd = m_bias_bwd,
    .embedding_fwd = m_embedding_fwd,
    .embedding_bwd = m_embedding_bwd,
    .rmsnorm_fwd = m_rmsnorm_fwd,
    .rmsnorm_bwd = m_rmsnorm_bwd,
    .split_rope_fwd = m_split_rope_fwd,
    .split_rope_bwd = m_split_rope_bwd,
    .attention_fwd = m_attention_fwd,
    .attention_bwd = m_attention_bwd,
    .attention_cached = m_attention_cached,
    .swiglu_fwd = m_swiglu_fwd,
    .swiglu_bwd = m_swiglu_bwd,
    .gather_rows = m_gather_rows,
    .scatter_rows = m_scatter_rows,
    .softmax_xent = m_softmax_xent,
    .argmax = m_argmax,
    .next_tokens = m_next_tokens,
    .dropout_fwd = m_dropout_fwd,
    .dropout_bwd = m_dropout_bwd,
    .fill_normal = m_fill_normal,
    .write_adapters = m_write_adapters,
    .row_norms = m_row_norms,
    .adapted_norms = m_adapted_norms,
    .dora_fwd = m_dora_fwd,
    .dora_bwd = m_dora_bwd,
    .quantize = m_quantize,
    .dequantize = m_dequantize,
    .quant_matvec = m_quant_matvec,
    .quant_mixed = m_quant_mixed,
    .sum = m_sum,
    .sum_squares = m_sum_squares,
    .count_nonfinite = m_count_nonfinite,
    .checksum = m_checksum,
    .step_scalars = m_step_scalars,
    .adamw = m_adamw,
};

void meter_attach(Meter *m, Device *d, const GpuSpec *gpu, bool timed)
{
    ASSERT(!d->meter, "the device has a meter");
    kernels_check("meter", &meter_kernels);
    *m = (Meter){.inner = d->k, .gpu = gpu, .timed = timed, .repeats = 1};
    d->meter = m;
    d->k = &meter_kernels;
}

void meter_detach(Meter *m, Device *d)
{
    ASSERT(d->meter == m, "another meter is attached");
    meter_rest(m);
    d->k = m->inner;
    d->meter = NULL;
}

void meter_reset(Meter *m)
{
    memset(m->kernels, 0, sizeof m->kernels);
    m->n_ops = 0;
    m->last = NULL;
    m->pending = (MeterCount){0};
}
