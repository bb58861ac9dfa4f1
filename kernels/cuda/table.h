/* The CUDA column: one function for each entry of kernels/kernels.h, and what they share. */
#pragma once

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

void cuda_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args);
void cuda_copy(Device *d, Tensor *y, const Tensor *src);
void cuda_axpy(Device *d, Tensor *y, float alpha, const Tensor *x);
void cuda_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x);
void cuda_bias_fwd(Device *d, Tensor *y, const Tensor *bias);
void cuda_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy);
void cuda_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids);
void cuda_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids);
void cuda_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                      float eps);
void cuda_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta,
                      const Tensor *dy, const Tensor *x, const Tensor *rstd, const Tensor *w);
void cuda_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q, Tensor *rstd_k,
                         const Tensor *qkv, const Tensor *positions, const Tensor *rope,
                         const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads,
                         float eps);
void cuda_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm, float dq_norm_beta,
                         Tensor *dk_norm, float dk_norm_beta, const Tensor *dq, const Tensor *dk,
                         const Tensor *dv, const Tensor *qkv, const Tensor *rstd_q,
                         const Tensor *rstd_k, const Tensor *positions, const Tensor *rope,
                         const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads);
void cuda_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                        const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                        float scale);
void cuda_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                        const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                        const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                        float scale);
void cuda_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v, const Tensor *q,
                           const Tensor *k, const Tensor *v, int n_heads, int n_kv_heads,
                           const Docs *docs, const Tensor *past, int64_t max_past, float scale);
void cuda_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu);
void cuda_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                     const Tensor *gu);
void cuda_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows);
void cuda_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows);
void cuda_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                       float grad_scale);
void cuda_argmax(Device *d, Tensor *best, const Tensor *x);
void cuda_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best);
void cuda_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args);
void cuda_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy, const DropoutArgs *args);
void cuda_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std);
void cuda_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n);
void cuda_row_norms(Device *d, Tensor *norm, const Tensor *w);
void cuda_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                        const Tensor *aa, const Tensor *b, float s);
void cuda_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                   const Tensor *norm);
void cuda_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                   const Tensor *z, const Tensor *m, const Tensor *norm);
void cuda_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src);
void cuda_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n);
void cuda_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                       const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                       int n_parts);
void cuda_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                      const Tensor *packed, const QuantPart *q, float threshold);
void cuda_sum(Device *d, Tensor *out, float beta, const Tensor *x);
void cuda_sum_squares(Device *d, Tensor *out, float beta, const Tensor *x);
void cuda_count_nonfinite(Device *d, Tensor *count, float beta, const Tensor *x);
void cuda_checksum(Device *d, Tensor *sum, const Tensor *x);
void cuda_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                       float clip);
void cuda_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                const Tensor *step, const AdamwArgs *args);

/* A product of a few rows by a kernel of our own (matvec.cu): whether it takes this one, as matmul. */
bool cuda_matvec_takes(const Tensor *a, const Tensor *b, MatmulArgs args);
void cuda_matvec(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args);

/* Attention of our own (attention.cu) and cuDNN's (attention_cudnn.c), of which attention.c chooses. */
void cuda_attention_fwd_plain(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                              const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                              float scale);
void cuda_attention_bwd_plain(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                              const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                              const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                              float scale);

/* The own kernels' form for tensor cores (attention_mma.cu): whether it takes the shape (rows: o or d_o), and as above with
 * delta (N,H), the row sums of dO * O. */
bool cuda_attention_mma_takes(const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *rows,
                              int n_heads);
void cuda_attention_fwd_mma(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                            const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale);
void cuda_attention_bwd_mma(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                            const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *lse,
                            const float *delta, int n_heads, int n_kv_heads, const Docs *docs,
                            float scale);
/* lengths (b) and, for each of n <= 5 arrays, off (b + 1) = first token of the document * factor. */
void cuda_document_offsets(Device *d, int32_t *lengths, int64_t b, const Docs *docs,
                           int64_t *const *off, const int64_t *factors, int n);
/* to (n, cols, rows) = from (n, rows, cols), both dense. */
void cuda_transpose_f32(Device *d, float *to, const float *from, int64_t n, int64_t rows,
                        int64_t cols);
/* Blocks of a kernel that runs beside a product, on STREAM_AHEAD: multiprocessors that the product goes without. */
enum { CUDA_AHEAD_BLOCKS = 16 };
/* How many attention calls went where: n_flash, n_dense, n_plain. */
void cuda_attention_counts(const Device *d, DeviceInfo *out);

/* out (cols) = beta * out + the n_parts rows of part (n_parts, cols) summed in order. */
void cuda_sum_partials(Device *d, Tensor *out, float beta, const float *part, int64_t n_parts,
                       int64_t cols);

#ifdef __cplusplus
}
#endif
