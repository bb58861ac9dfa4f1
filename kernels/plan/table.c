/* Kernels that take their scratch and give it back.  Which of them take any, and when, is as in the column that is
 * planned for; how much is said by kernels/scratch.c alone. */
#include "kernels/plan/table.h"

#include "kernels/scratch.h"

static void scratch(Device *d, size_t bytes)
{
    workspace_take(d, bytes);
    workspace_give(d);
}

static void p_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    int64_t k = args.trans_a ? tensor_rows(a) : tensor_cols(a);
    (void)d;
    ASSERT((args.trans_a ? tensor_cols(a) : tensor_rows(a)) == tensor_rows(c) &&
               (args.trans_b ? tensor_rows(b) : tensor_cols(b)) == tensor_cols(c) &&
               (args.trans_b ? tensor_cols(b) : tensor_rows(b)) == k,
           "matmul: shapes (%lld,%lld) (%lld,%lld) -> (%lld,%lld)", (long long)tensor_rows(a),
           (long long)tensor_cols(a), (long long)tensor_rows(b), (long long)tensor_cols(b),
           (long long)tensor_rows(c), (long long)tensor_cols(c));
    ASSERT(!args.add || tensor_same_shape(args.add, c), "matmul: add is not of the output's shape");
}

static void p_copy(Device *d, Tensor *y, const Tensor *src)
{
}

static void p_axpy(Device *d, Tensor *y, float alpha, const Tensor *x)
{
}

static void p_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x)
{
}

static void p_bias_fwd(Device *d, Tensor *y, const Tensor *bias)
{
}

static void p_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy)
{
    if (plan_target(d)->cuda && tensor_rows(dy) > 0)
        scratch(d, cuda_bias_scratch(tensor_rows(dy), tensor_cols(dy)));
}

static void p_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids)
{
}

static void p_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids)
{
}

static void p_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                          float eps)
{
}

static void p_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta,
                          const Tensor *dy, const Tensor *x, const Tensor *rstd, const Tensor *w)
{
    const PlanTarget *t = plan_target(d);
    if (t->cuda && dw && tensor_rows(x) > 0)
        scratch(d, cuda_rmsnorm_scratch(tensor_rows(x), tensor_cols(x), t->n_sms));
}

static void p_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q,
                             Tensor *rstd_k, const Tensor *qkv, const Tensor *positions,
                             const Tensor *rope, const Tensor *q_norm, const Tensor *k_norm,
                             int n_heads, int n_kv_heads, float eps)
{
}

static void p_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm,
                             float dq_norm_beta, Tensor *dk_norm, float dk_norm_beta,
                             const Tensor *dq, const Tensor *dk, const Tensor *dv,
                             const Tensor *qkv, const Tensor *rstd_q, const Tensor *rstd_k,
                             const Tensor *positions, const Tensor *rope, const Tensor *q_norm,
                             const Tensor *k_norm, int n_heads, int n_kv_heads)
{
    const PlanTarget *t = plan_target(d);
    int64_t rows = tensor_rows(dq), width = tensor_cols(rope);
    if (!t->cuda) {
        if (dq_norm || dk_norm) scratch(d, cpu_split_rope_scratch(rows, tensor_cols(dqkv), width));
        return;
    }
    if (rows == 0) return;
    if (dq_norm) scratch(d, cuda_rope_scratch(rows, n_heads, width, t->n_sms));
    if (dk_norm) scratch(d, cuda_rope_scratch(rows, n_kv_heads, width, t->n_sms));
}

static void attention(Device *d, const Tensor *q, int n_heads, int n_kv_heads, const Docs *docs,
                      bool backward)
{
    const PlanTarget *t = plan_target(d);
    int64_t n = tensor_rows(q), width = tensor_cols(q) / n_heads;
    if (!t->cuda)
        scratch(d, cpu_attention_scratch(n, n_kv_heads, backward ? 2 : 1));
    else if (n > 0 && t->flash_attention && cuda_attention_is_flash(q->dtype == DT_BF16, width))
        scratch(d, cuda_attention_scratch(docs->n_docs, n, n_heads, n_kv_heads, width, backward,
                                          CUDNN_OWN_SCRATCH)
                       .bytes);
    else if (n > 0 && backward)
        scratch(d, cuda_attention_plain_scratch(n, n_heads));
}

static void p_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                            const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    attention(d, q, n_heads, n_kv_heads, docs, false);
}

static void p_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                            const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                            const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale)
{
    attention(d, q, n_heads, n_kv_heads, docs, true);
}

static void p_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v,
                               const Tensor *q, const Tensor *k, const Tensor *v, int n_heads,
                               int n_kv_heads, const Docs *docs, const Tensor *past,
                               int64_t max_past, float scale)
{
    const PlanTarget *t = plan_target(d);
    size_t bytes =
        t->cuda ? cuda_attention_cached_scratch(tensor_rows(q), n_heads, n_kv_heads,
                                                tensor_cols(q) / n_heads, max_past + docs->max_len,
                                                t->n_sms)
                : cpu_attention_cached_scratch(docs->n_docs, n_heads, docs->max_len, max_past);
    if (bytes > 0) scratch(d, bytes);
}

static void p_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu)
{
}

static void p_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                         const Tensor *gu)
{
}

static void p_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows)
{
}

static void p_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows)
{
}

static void p_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                           float grad_scale)
{
}

static void p_argmax(Device *d, Tensor *best, const Tensor *x)
{
    if (plan_target(d)->cuda && tensor_rows(x) > 0) scratch(d, cuda_argmax_scratch(tensor_rows(x)));
}

static void p_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best)
{
}

static void p_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args)
{
}

static void p_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy,
                          const DropoutArgs *args)
{
}

static void p_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std)
{
}

static void p_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n)
{
}

static void p_row_norms(Device *d, Tensor *norm, const Tensor *w)
{
}

static void p_checksum(Device *d, Tensor *sum, const Tensor *x)
{
}

static void p_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                            const Tensor *aa, const Tensor *b, float s)
{
}

static void p_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                       const Tensor *norm)
{
}

static void p_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta,
                       const Tensor *dy, const Tensor *z, const Tensor *m, const Tensor *norm)
{
    if (plan_target(d)->cuda && dm && tensor_rows(z) > 0)
        scratch(d, cuda_bias_scratch(tensor_rows(z), tensor_cols(z)));
}

static void p_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src)
{
    if (q->nested) scratch(d, quant_encode_scratch(q));
}

static void p_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n)
{
}

static void p_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                           const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                           int n)
{
    for (int i = 0; !plan_target(d)->cuda && i < n; i++)
        scratch(d, cpu_quant_matvec_scratch(parts[i].rows, parts[i].cols));
}

static void p_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                          const Tensor *packed, const QuantPart *q, float threshold)
{
    scratch(d, quant_mixed_scratch(tensor_rows(x), q->cols).bytes);
}

static void p_reduce(Device *d, Tensor *out, float beta, const Tensor *x)
{
    scratch(d, plan_target(d)->cuda ? cuda_reduce_scratch() : cpu_reduce_scratch(tensor_numel(x)));
}

static void p_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                           float clip)
{
}

static void p_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                    const Tensor *step, const AdamwArgs *args)
{
}

const Kernels plan_kernels = {
    .matmul = p_matmul,
    .copy = p_copy,
    .axpy = p_axpy,
    .sum_rows = p_sum_rows,
    .bias_fwd = p_bias_fwd,
    .bias_bwd = p_bias_bwd,
    .embedding_fwd = p_embedding_fwd,
    .embedding_bwd = p_embedding_bwd,
    .rmsnorm_fwd = p_rmsnorm_fwd,
    .rmsnorm_bwd = p_rmsnorm_bwd,
    .split_rope_fwd = p_split_rope_fwd,
    .split_rope_bwd = p_split_rope_bwd,
    .attention_fwd = p_attention_fwd,
    .attention_bwd = p_attention_bwd,
    .attention_cached = p_attention_cached,
    .swiglu_fwd = p_swiglu_fwd,
    .swiglu_bwd = p_swiglu_bwd,
    .gather_rows = p_gather_rows,
    .scatter_rows = p_scatter_rows,
    .softmax_xent = p_softmax_xent,
    .argmax = p_argmax,
    .next_tokens = p_next_tokens,
    .dropout_fwd = p_dropout_fwd,
    .dropout_bwd = p_dropout_bwd,
    .fill_normal = p_fill_normal,
    .write_adapters = p_write_adapters,
    .row_norms = p_row_norms,
    .adapted_norms = p_adapted_norms,
    .dora_fwd = p_dora_fwd,
    .dora_bwd = p_dora_bwd,
    .quantize = p_quantize,
    .dequantize = p_dequantize,
    .quant_matvec = p_quant_matvec,
    .quant_mixed = p_quant_mixed,
    .sum = p_reduce,
    .sum_squares = p_reduce,
    .count_nonfinite = p_reduce,
    .checksum = p_checksum,
    .step_scalars = p_step_scalars,
    .adamw = p_adamw,
};
