/* The CPU column: one function for each entry of Kernels (what it means stands in kernels/kernels.h), and
 * what its files share.  Float32 throughout; sums that matter in double.
 *
 * Work is cut into parts by shape alone and each output is written by one part in one order, so that the
 * bits of a result never depend on the number of threads. */
#pragma once

#include "kernels/kernels.h"
#include "kernels/scratch.h"

extern const Backend cpu_backend;
extern const Kernels cpu_kernels;

/* Data of a tensor after a check of its dtype; dense_f32 checks for a pitch, too. */
float *data_f32(const Tensor *t);
float *dense_f32(const Tensor *t);
const int32_t *data_i32(const Tensor *t);
const int64_t *data_i64(const Tensor *t);
/* Dies unless t is a matrix of rows x cols; the name of the argument is for the message. */
void check_matrix(const Tensor *t, int64_t rows, int64_t cols, const char *argument);

/* Calls fn for [row0, row1) until all rows are done, on the threads of the pool.  `work` is a row's cost in
 * floats touched; rows that are too little for a part of their own go together. */
typedef void RowsFn(void *args, int64_t row0, int64_t row1);
void rows_run(Device *d, int64_t n_rows, int64_t work, RowsFn *fn, void *args);

/* c (m,n) = alpha * op(a) op(b) + beta * (add, or c where that is NULL) on the calling thread; lda, ldb, ldc, ldadd
 * are row pitches. */
typedef struct Gemm {
    bool trans_a, trans_b;
    int64_t m, n, k;
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
    float alpha, beta;
    const float *add;
    int64_t ldadd;
} Gemm;
void gemm_run(const Gemm *g);
/* Makes OpenBLAS leave threads to the pool: once, when a device is opened. */
void gemm_setup(void);

void cpu_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args);

void cpu_copy(Device *d, Tensor *y, const Tensor *src);
void cpu_axpy(Device *d, Tensor *y, float alpha, const Tensor *x);
void cpu_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x);
void cpu_bias_fwd(Device *d, Tensor *y, const Tensor *bias);
void cpu_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy);

void cpu_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids);
void cpu_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids);

void cpu_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                     float eps);
void cpu_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta, const Tensor *dy,
                     const Tensor *x, const Tensor *rstd, const Tensor *w);

void cpu_split_rope_fwd(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q, Tensor *rstd_k,
                        const Tensor *qkv, const Tensor *positions, const Tensor *rope,
                        const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads,
                        float eps);
void cpu_split_rope_bwd(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm, float dq_norm_beta,
                        Tensor *dk_norm, float dk_norm_beta, const Tensor *dq, const Tensor *dk,
                        const Tensor *dv, const Tensor *qkv, const Tensor *rstd_q,
                        const Tensor *rstd_k, const Tensor *positions, const Tensor *rope,
                        const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads);

void cpu_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                       const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs, float scale);
void cpu_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                       const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                       const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                       float scale);

void cpu_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v, const Tensor *q,
                          const Tensor *k, const Tensor *v, int n_heads, int n_kv_heads,
                          const Docs *docs, const Tensor *past, int64_t max_past, float scale);

void cpu_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu);
void cpu_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                    const Tensor *gu);

void cpu_gather_rows(Device *d, Tensor *y, const Tensor *x, const Tensor *rows);
void cpu_scatter_rows(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows);

void cpu_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                      float grad_scale);

void cpu_argmax(Device *d, Tensor *best, const Tensor *x);
void cpu_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best);

void cpu_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args);
void cpu_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy, const DropoutArgs *args);

void cpu_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std);
void cpu_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n);
void cpu_row_norms(Device *d, Tensor *norm, const Tensor *w);
void cpu_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                       const Tensor *aa, const Tensor *b, float s);
void cpu_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                  const Tensor *norm);
void cpu_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                  const Tensor *z, const Tensor *m, const Tensor *norm);
void cpu_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src);
void cpu_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n);
void cpu_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                      const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                      int n_parts);
void cpu_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *packed,
                     const QuantPart *q, float threshold);

void cpu_sum(Device *d, Tensor *out, float beta, const Tensor *x);
void cpu_sum_squares(Device *d, Tensor *out, float beta, const Tensor *x);
void cpu_count_nonfinite(Device *d, Tensor *count, float beta, const Tensor *x);
void cpu_checksum(Device *d, Tensor *sum, const Tensor *x);

void cpu_step_scalars(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                      float clip);
void cpu_adamw(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
               const Tensor *step, const AdamwArgs *args);
