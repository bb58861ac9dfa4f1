/* Every kernel's prototype and meaning: the one interface between autograd (and the optimizer) and the
 * arithmetic.  One table, a column a backend: kernels/cpu/table.c is the reference (float32, sums in
 * double or by OpenBLAS), kernels/cuda/ the fast one.
 *
 *   N tokens   C model width   F feed-forward width   H heads   K key/value heads   D head width
 *   V vocabulary   R rank   M rows chosen out of N   B sequences
 *
 * A kernel allocates nothing, owns nothing and knows nothing of gradients or graphs.  Outputs come
 * first.  `beta` is 0 to overwrite an output and 1 to add to it; an output that may be NULL is not wanted
 * and not computed.  Matrices (two dimensions) may have a pitch ld > cols where it says "pitch"; everything
 * else must be dense.  Activations are of the device's compute dtype unless stated. */
#pragma once

#include "base/rng.h"
#include "tensor/device.h"
#include "tensor/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MatmulArgs {
    bool trans_a, trans_b;
    float alpha, beta;
    const Tensor *add; /* (m,n): what beta multiplies; NULL: the output itself */
} MatmulArgs;

/* What decides a dropout mask: element (row, col) of the input is dropped by Philox of
 * key = mix(seed, epoch, layer, site), counter = (sample id, position in document, col / 4), so the same
 * document gets the same mask wherever and whenever it is computed. */
typedef struct DropoutArgs {
    float p; /* probability of dropping, 0 <= p < 1; what is kept is scaled by 1 / (1 - p) */
    uint64_t key;
    const Tensor *samples;   /* (N) i64 */
    const Tensor *positions; /* (N) i32 */
} DropoutArgs;

/* The draw of element (row, col): keep when >= p.  Shared by both columns. */
RNG_FN float dropout_draw(uint64_t key, int64_t sample, int32_t position, int64_t col)
{
    Rng4 r =
        philox(key, (uint64_t)sample, ((uint64_t)(uint32_t)position << 32) | (uint64_t)(col >> 2));
    return rng_unit(r.v[col & 3]);
}

/* Of a word and its place (SplitMix64's finalizer, Steele et al. 2014): no other word and no other order has the same sum but by
 * chance. */
RNG_FN uint64_t checksum_term(uint64_t word, uint64_t place)
{
    uint64_t z = word + (place + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Documents of a packed batch: `cu` (n_docs + 1) i32 on the device, first token of each, then N. */
typedef struct Docs {
    const Tensor *cu;
    const int32_t *cu_host; /* the same on the host */
    int n_docs;
    int64_t max_len;
} Docs;

/* An adapter on rows [row0, row0 + rows of b) of a matrix of I columns: a (R,I), b (rows,R), dense. */
typedef struct AdapterPart {
    const Tensor *a, *b;
    int64_t row0;
    float scale;
} AdapterPart;

/* Scalars of an optimizer step in device memory, f32, so that no kernel argument changes from step to step. */
enum { STEP_LR, STEP_BIAS1, STEP_BIAS2, STEP_GRAD_SCALE, STEP_SKIP, STEP_N };

/* Elements of a flat array, from the end of the range before to `end`, that are updated alike.  All ends but the last are
 * multiples of 8, and of STATES_BLOCK where states are in 8 bits. */
typedef struct AdamwRange {
    int64_t end;
    float lr_scale, weight_decay;
} AdamwRange;

enum { ADAMW_MAX_RANGES = 32 };

/* Elements that share an absmax where AdamW's states are in 8 bits. */
enum { STATES_BLOCK = 256 };

/* AdamW's mean of gradients and mean of their squares, n elements each: f32; or codes u8 of the dynamic maps (tensor/quant.h), m's of
 * the signed one and v's of the unsigned, and the absmax of each STATES_BLOCK elements, f32 (n / STATES_BLOCK, rounded up). */
typedef struct AdamwStates {
    Tensor m, v;
    Tensor m_max, v_max; /* without storage beside f32 */
} AdamwStates;

typedef struct AdamwArgs {
    double beta1,
        beta2; /* 1 - beta is formed of these: of floats it is wrong in its fifth digit for 0.999 */
    float eps;
    int n_ranges;
    AdamwRange ranges[ADAMW_MAX_RANGES];
} AdamwArgs;

/* A norm that stands before a product: of x (N,C) as rmsnorm_fwd has it, by w (C).  y (N,C) of x's dtype and rstd (N) f32 are
 * room for its result; a kernel that norms on its way leaves them as they are, and may round x * w where rmsnorm_fwd rounds
 * x * rstd. */
typedef struct NormBefore {
    const Tensor *w;
    float eps;
    Tensor *y, *rstd;
} NormBefore;

typedef struct Kernels {
    /* c (m,n) = alpha * op(a) op(b) + beta * (args.add, or c where that is NULL); op transposes where said.
     * pitch: a, b, c, add.  a and b of one dtype; c may be f32 beside bf16 operands; add is of c's dtype and shares no
     * memory with it. */
    void (*matmul)(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args);

    /* y (N,C) = src (N,C), rows by pitch, dtypes converted. */
    void (*copy)(Device *d, Tensor *y, const Tensor *src);
    /* y += alpha * x, any equal shape; pitch. */
    void (*axpy)(Device *d, Tensor *y, float alpha, const Tensor *x);
    /* y (C) = beta * y + rows of x (N,C) added in their order in f32, rounded once; few rows, dense; y and x f32 or bf16. */
    void (*sum_rows)(Device *d, Tensor *y, float beta, const Tensor *x);

    /* y (N,C) += bias (C); pitch: y.     db (C) = beta * db + column sums of dy (N,C); pitch: dy. */
    void (*bias_fwd)(Device *d, Tensor *y, const Tensor *bias);
    void (*bias_bwd)(Device *d, Tensor *db, float beta, const Tensor *dy);

    /* y (N,C) = w[ids] (V,C).     dw (V,C) = beta * dw + rows of dy summed by id.  ids (N) i32 in [0,V). */
    void (*embedding_fwd)(Device *d, Tensor *y, const Tensor *w, const Tensor *ids);
    void (*embedding_bwd)(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids);

    /* y (N,C) = x * rstd(x) * w (C), rstd = (mean(x^2) + eps)^-1/2 in f32, kept (N) for backward; x * rstd is
     * rounded to the compute dtype before the product with w, as transformers does.  pitch: x, y.
     * dx = beta * dx + rstd * (w dy - x rstd^2 mean(w dy x));  dw (C) = dw_beta * dw + sum over rows of
     * dy x rstd.  dx or dw may be NULL.  pitch: dx, dy, x. */
    void (*rmsnorm_fwd)(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                        float eps);
    void (*rmsnorm_bwd)(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta,
                        const Tensor *dy, const Tensor *x, const Tensor *rstd, const Tensor *w);

    /* qkv (N, (H+2K) D), pitch, split into dense q (N,H*D), k, v (N,K*D); q and k are normed per head where
     * q_norm, k_norm (D) are given (Qwen3; rstd_q (N,H), rstd_k (N,K) f32 kept, else NULL) and rotated: the
     * pair (i, i + D/2) of each head turns by the angle of positions (N) i32 in rope (P, D) f32 =
     * [cos (D/2), sin (D/2)].
     * Backward: dqkv (pitch) = beta * dqkv + ...; dq_norm, dk_norm (D) may be NULL; qkv is read for the norms alone
     * and may be NULL without them. */
    void (*split_rope_fwd)(Device *d, Tensor *q, Tensor *k, Tensor *v, Tensor *rstd_q,
                           Tensor *rstd_k, const Tensor *qkv, const Tensor *positions,
                           const Tensor *rope, const Tensor *q_norm, const Tensor *k_norm,
                           int n_heads, int n_kv_heads, float eps);
    void (*split_rope_bwd)(Device *d, Tensor *dqkv, float beta, Tensor *dq_norm, float dq_norm_beta,
                           Tensor *dk_norm, float dk_norm_beta, const Tensor *dq, const Tensor *dk,
                           const Tensor *dv, const Tensor *qkv, const Tensor *rstd_q,
                           const Tensor *rstd_k, const Tensor *positions, const Tensor *rope,
                           const Tensor *q_norm, const Tensor *k_norm, int n_heads, int n_kv_heads);

    /* Causal attention inside each document: o (N,H*D) = softmax(scale q k^T) v, head h reads key/value head
     * h / (H/K); lse (N,H) f32 = log of the sum of exponentials.  q (N,H*D); k, v (N,K*D); pitch: o, d_o. */
    void (*attention_fwd)(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                          const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs,
                          float scale);
    void (*attention_bwd)(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                          const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                          const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                          float scale);

    /* Inference.  cache_k, cache_v (B, T, K*D).  The N new tokens are those of B sequences back to back (docs,
     * one a sequence); sequence b has past[b] (B) i32 tokens in the cache.  k, v (N,K*D) are stored behind
     * them, and o (N,H*D), pitch: each new token's attention to the cache up to and with itself.  max_past is
     * a bound on past. */
    void (*attention_cached)(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v,
                             const Tensor *q, const Tensor *k, const Tensor *v, int n_heads,
                             int n_kv_heads, const Docs *docs, const Tensor *past, int64_t max_past,
                             float scale);

    /* gu (N,2F) = [gate, up], pitch.  h (N,F) = silu(gate) * up, pitch.     dgu from dh, perhaps in place of gu; h or
     * NULL, perhaps in place of dh: the forward's bits again; pitch: all. */
    void (*swiglu_fwd)(Device *d, Tensor *h, const Tensor *gu);
    void (*swiglu_bwd)(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                       const Tensor *gu);

    /* y (M,C) = x[rows];  dx (N,C) = beta * dx, then dx[rows] += dy.  rows (M) i32, ascending, distinct. */
    void (*gather_rows)(Device *d, Tensor *y, const Tensor *x, const Tensor *rows);
    void (*scatter_rows)(Device *d, Tensor *dx, float beta, const Tensor *dy, const Tensor *rows);

    /* In place: logits (M,V) become (softmax - onehot(target)) * grad_scale; loss (M) f32 = -log
     * softmax[target].  targets (M) i32 in [0,V).  grad_scale 0: the loss alone, logits stay as they were. */
    void (*softmax_xent)(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                         float grad_scale);

    /* best (N) i32 = where each row of x (N,V) f32 is largest, of equal ones the lowest; -1 for a row with a NaN, with
     * +infinity, or of nothing but -infinity.  pitch: x. */
    void (*argmax)(Device *d, Tensor *best, const Tensor *x);
    /* Each sequence goes on by a token: past (N) i32 += 1 and, unless best is NULL, ids (N) i32 = best (N) i32, 0 for -1. */
    void (*next_tokens)(Device *d, Tensor *past, Tensor *ids, const Tensor *best);

    /* y (N,C) = x * mask / (1-p).     dx = beta * dx + dy * mask / (1-p).  pitch: all. */
    void (*dropout_fwd)(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args);
    void (*dropout_bwd)(Device *d, Tensor *dx, float beta, const Tensor *dy,
                        const DropoutArgs *args);

    /* t = mean + std * the standard normal draws 0, 1, ... of the stream `key` (base/rng.h), row after row; pitch.  low
     * (i16, dense as t then is; or NULL): what rounding to bf16 leaves of each, as adamw's. */
    void (*fill_normal)(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std);

    /* The room around w (O,I), R the sum of the n <= 3 adapters' ranks: the R rows behind it become their a, one below the
     * other, the R columns beside it scale * b, zero in the rows of others.  w's storage has the room: a pitch of I + R
     * or more. */
    void (*write_adapters)(Device *d, Tensor *w, const AdapterPart *parts, int n);

    /* DoRA (Liu et al. 2024).  row_norms: norm (O) f32 = Euclidean norms of w's (O,I) rows; pitch: w.
     * adapted_norms: norm (O) f32 = those of W + s b a, of which nothing is as large as W: from base (O) f32 = W's row
     * norms, b (O,R), wa (O,R) f32 = W a^T and aa (R,R) f32 = a a^T,
     *   norm^2 = base^2 + s b . (2 wa + s b aa), row by row.
     * dora_fwd: y (N,O) = add + z * m / norm, column by column; m (O); add may be NULL.
     * dora_bwd: dz = beta * dz + dy * m / norm;  dm (O) f32 = dm_beta * dm + sum over rows of dy z / norm; either may be
     * NULL.  pitch: y, add, z, dz, dy. */
    void (*row_norms)(Device *d, Tensor *norm, const Tensor *w);
    void (*adapted_norms)(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                          const Tensor *aa, const Tensor *b, float s);
    void (*dora_fwd)(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                     const Tensor *norm);
    void (*dora_bwd)(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                     const Tensor *z, const Tensor *m, const Tensor *norm);

    /* Quantised matrices (tensor/quant.h): one checkpoint tensor `q` of `packed`, or all n of a matrix, the rows of one
     * below the other's.
     * quantize: packed = the codes of src (rows, cols); pitch.  4 bits: code of x * (1 / absmax); the offset is the mean
     * of the absmax, summed in f64 and divided in f32.
     * dequantize: y (rows, cols) = the values, computed in f32, rounded to y's dtype; pitch.
     * quant_mixed: y (N, rows) = add + x (N, cols) w^T for int8 as LLM.int8 (Dettmers et al. 2022; bitsandbytes
     * MatMul8bitLt) does it, for evaluation.  In float16, x's columns with any |x| >= threshold are multiplied as they are
     * with decoded columns of w; the others, in rows of round(127 x / absmax of the row's elements below threshold), with the
     * codes, summed in int32.  add may be NULL; pitch: y, add, x.
     * quant_matvec: y (N, rows) = add + x (N, cols) w^T without the values in between, N <= QUANT_MATVEC_ROWS; add may be
     * NULL, or y; of x normed where norm is given (NULL: of x as it is); pitch: y, add, x. */
    void (*quantize)(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src);
    void (*dequantize)(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n);
    void (*quant_matvec)(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                         const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                         int n_parts);
    void (*quant_mixed)(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                        const Tensor *packed, const QuantPart *q, float threshold);

    /* out (1) f32 = beta * out + sum of x / of x^2; summed in f64; any shape, dense. */
    void (*sum)(Device *d, Tensor *out, float beta, const Tensor *x);
    void (*sum_squares)(Device *d, Tensor *out, float beta, const Tensor *x);
    /* count (1) f32 = beta * count + how many elements of x are NaN or infinite. */
    void (*count_nonfinite)(Device *d, Tensor *count, float beta, const Tensor *x);
    /* sum (1) i64 = the sum mod 2^64 of checksum_term over x's rows, each cut into words of eight bytes (zeros behind the last):
     * the same whoever adds in whatever order.  Any dtype; pitch. */
    void (*checksum)(Device *d, Tensor *sum, const Tensor *x);

    /* step[STEP_GRAD_SCALE] = min(1, clip / (sqrt(sum_squares) + 1e-6)) as torch's clip_grad_norm_ (clip 0: 1);
     * step[STEP_SKIP] = 1 when sum_squares or loss (1 each, f32) is not finite; else it stays as it was. */
    void (*step_scalars)(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                         float clip);

    /* Decoupled weight decay as torch.optim.AdamW (Loshchilov & Hutter 2019); dense, n elements; grad f32 or bf16; per
     * range of args, in one pass:
     *   g = grad * step[GRAD_SCALE];  lr = step[LR] * lr_scale;  w -= lr * weight_decay * w
     *   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;  beta in f32, 1 - beta formed in f64 and rounded
     *   w -= lr * (m / step[BIAS1]) / (sqrt(v / step[BIAS2]) + eps),   BIASi = 1 - beta_i^t
     * w is f32 and low NULL; or w is the bf16 working copy and low (i16) what it lacks of the f32 master, whose bits are
     * (w << 16) + low: the master is put together, updated and split again (convert_split), so that it takes 16 bits
     * beside the working copy and not one bit of it is lost.  Nothing happens when step[SKIP] != 0.
     * States in 8 bits (Dettmers et al. 2022, block-wise quantisation; bitsandbytes' AdamW8bit): a block is decoded, w takes its
     * step from the new m and v in f32 (1 - beta, too, formed as there), and they are encoded again: absmax of the block, then the code whose magnitude is
     * nearest to |x| * (1 / absmax), the smaller of two; m below 0 never becomes 0. */
    void (*adamw)(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                  const Tensor *step, const AdamwArgs *args);
} Kernels;

/* What rows [row0, row1) in host memory, pitch_bytes apart, add to Kernels.checksum's sum. */
uint64_t checksum_rows(const void *x, size_t row_bytes, size_t pitch_bytes, int64_t row0,
                       int64_t row1);

/* The backends that were built in.  NULL when there is none of that name. */
const Backend *backend_find(const char *name);
const char *backend_names(void); /* "cpu cuda": those that compute, for --version and messages */
/* The name of the i-th entry of Kernels. */
const char *kernel_name(int i);
/* Dies naming the first NULL entry of a table: called once for each backend by backend_find. */
void kernels_check(const char *backend, const Kernels *k);

#ifdef __cplusplus
}
#endif
