/* Bytes of scratch that kernels take from the workspace, as functions of shapes: the one place of these
 * formulas.  The kernels of both columns take what these say and the plan backend asks for the same, so that a
 * planned peak is the run's to the byte. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the CPU column ---- */

/* Rows of a part of a loop whose rows cost `work` floats touched each. */
int64_t cpu_part_rows(int64_t n_rows, int64_t work);
enum { CPU_REDUCE_PART = 1 << 15 }; /* elements summed by one thread */
size_t cpu_reduce_scratch(int64_t numel);
enum { CPU_ATTENTION_QUERIES = 64 }; /* rows of a block of scores */
/* n_scores: matrices of scores in a block, 1 forward, 2 backward */
size_t cpu_attention_scratch(int64_t n_tokens, int64_t n_kv_heads, int n_scores);
size_t cpu_attention_cached_scratch(int64_t n_docs, int64_t n_heads, int64_t max_len,
                                    int64_t max_past);
/* Only where the gradient of a head norm is wanted. */
size_t cpu_split_rope_scratch(int64_t n_rows, int64_t qkv_cols, int64_t head_dim);

enum { CPU_QUANT_ROWS = 64 }; /* of a part of quant_matvec */
size_t cpu_quant_matvec_scratch(int64_t rows, int64_t cols);

/* ---- both columns ---- */

/* quant_mixed: where x's codes (N, pitch) i8, its rows' absmax (N) f32, the columns' flags (C) u8 and the list of flagged ones,
 * i32 [1 + C], its length first, lie in the one scratch. */
typedef struct MixedScratch {
    size_t codes, absmax, flags, list, bytes;
    int64_t pitch; /* whole words of 32 codes, the last ones 0 */
} MixedScratch;
MixedScratch quant_mixed_scratch(int64_t n_rows, int64_t cols);

/* ---- the CUDA column ---- */

enum { CUDA_REDUCE_BLOCKS = 1024, CUDA_ROPE_WARPS = 8 };
size_t cuda_reduce_scratch(void);
int64_t cuda_bias_parts(int64_t n_rows); /* partial sums of a column */
size_t cuda_bias_scratch(int64_t n_rows, int64_t cols);
int64_t cuda_rmsnorm_blocks(int64_t n_rows, int n_sms);
size_t cuda_rmsnorm_scratch(int64_t n_rows, int64_t cols, int n_sms); /* only with dw */
/* Of one of q and k; only with the gradient of its norm. */
int64_t cuda_rope_blocks(int64_t n_rows, int64_t n_heads, bool want_dw, int n_sms);
size_t cuda_rope_scratch(int64_t n_rows, int64_t n_heads, int64_t head_dim, int n_sms);
size_t cuda_attention_plain_scratch(int64_t n_tokens, int64_t n_heads); /* backward alone */

/* Attention to a cache: parts that a query's keys are cut into, so that one query has the whole GPU, too; a part has
 * the least of keys, or is the only one.  longest: a bound on the keys of a query.  Scratch only where there are several. */
enum {
    CUDA_CACHED_MOST_PARTS = 64,
    CUDA_CACHED_LEAST_KEYS = 64,
    CUDA_CACHED_SHARE = 8 /* elements of a head that a thread has */
};
int64_t cuda_cached_parts(int64_t n_tokens, int64_t n_kv_heads, int64_t longest, int n_sms);
size_t cuda_attention_cached_scratch(int64_t n_tokens, int64_t n_heads, int64_t n_kv_heads,
                                     int64_t head_dim, int64_t longest, int n_sms);

enum { CUDA_ARGMAX_PARTS = 64 }; /* of a row */
size_t cuda_argmax_scratch(int64_t n_rows);

/* cuDNN's attention: where each piece of the one scratch lies, in bytes from its start. */
typedef struct AttentionScratch {
    size_t lengths, off_q, off_kv, off_o, off_do, off_stats;
    size_t stats;                           /* dense plans: the log-sums by head, then token */
    size_t dq_sum, delta, dk_full, dv_full; /* backward; the last two where heads share keys */
    size_t own;                             /* of cuDNN */
    size_t dense_own; /* the same of dense plans, which keep dk_full and dv_full there */
    size_t bytes;
} AttentionScratch;
/* What cuDNN's engines want for themselves lies below this (9.19: next to nothing). */
#define CUDNN_OWN_SCRATCH ((size_t)1 << 20)
/* Whether cuDNN's engine computes this kind of shape rightly.  It takes every width of whole 16-byte vectors, but its packed
 * backward graph gives a wrong dQ where the width is an odd multiple of 8 (9.19 on an H200, by test_parity_bf16). */
bool cuda_attention_is_flash(bool is_bf16, int64_t head_dim);
/* Documents that a plan is made for, so that few plans serve every batch. */
int64_t cuda_attention_capacity(int64_t n_docs);
/* own: bytes for cuDNN itself, CUDNN_OWN_SCRATCH at least. */
AttentionScratch cuda_attention_scratch(int64_t n_docs, int64_t n_tokens, int64_t n_heads,
                                        int64_t n_kv_heads, int64_t head_dim, bool backward,
                                        size_t own);

#ifdef __cplusplus
}
#endif
