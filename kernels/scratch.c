/* Scratch sizes of both columns. */
#include "kernels/scratch.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- the CPU column ---- */

/* About 10 us of simple arithmetic: several times what waking a thread costs. */
enum { PART_WORK = 1 << 15 };

int64_t cpu_part_rows(int64_t n_rows, int64_t work)
{
    int64_t rows = work > 0 ? PART_WORK / work : n_rows;
    return rows < 1 ? 1 : rows;
}

size_t cpu_reduce_scratch(int64_t numel)
{
    return (size_t)ceil_div(numel, CPU_REDUCE_PART) * sizeof(double);
}

size_t cpu_attention_scratch(int64_t n_tokens, int64_t n_kv_heads, int n_scores)
{
    return (size_t)(n_scores * CPU_ATTENTION_QUERIES * n_tokens * n_kv_heads) * sizeof(float);
}

size_t cpu_attention_cached_scratch(int64_t n_docs, int64_t n_heads, int64_t max_len,
                                    int64_t max_past)
{
    int64_t queries = max_len < CPU_ATTENTION_QUERIES ? max_len : CPU_ATTENTION_QUERIES;
    return (size_t)(n_docs * n_heads * queries * (max_past + max_len)) * sizeof(float);
}

size_t cpu_split_rope_scratch(int64_t n_rows, int64_t qkv_cols, int64_t head_dim)
{
    int64_t n_parts = ceil_div(n_rows, cpu_part_rows(n_rows, 4 * qkv_cols));
    return (size_t)(n_parts * 2 * head_dim) * sizeof(double);
}

size_t cpu_quant_matvec_scratch(int64_t rows, int64_t cols)
{
    return (size_t)(ceil_div(rows, CPU_QUANT_ROWS) * cols) * sizeof(float);
}

/* ---- both columns ---- */

MixedScratch quant_mixed_scratch(int64_t n_rows, int64_t cols)
{
    MixedScratch s = {.pitch = ceil_div(cols, 32) * 32};
    s.absmax = (size_t)ceil_div(n_rows * s.pitch, 256) * 256;
    s.list = s.absmax + (size_t)ceil_div(n_rows * 4, 256) * 256;
    s.flags = s.list + (size_t)ceil_div((cols + 1) * 4, 256) * 256;
    s.bytes = s.flags + (size_t)cols;
    return s;
}

/* ---- the CUDA column ---- */

size_t cuda_reduce_scratch(void)
{
    return CUDA_REDUCE_BLOCKS * sizeof(double);
}

int64_t cuda_bias_parts(int64_t n_rows)
{
    return n_rows < 128 ? n_rows : 128;
}

size_t cuda_bias_scratch(int64_t n_rows, int64_t cols)
{
    return (size_t)(cuda_bias_parts(n_rows) * cols) * sizeof(float);
}

int64_t cuda_rmsnorm_blocks(int64_t n_rows, int n_sms)
{
    return n_rows < 4 * n_sms ? n_rows : 4 * n_sms;
}

size_t cuda_rmsnorm_scratch(int64_t n_rows, int64_t cols, int n_sms)
{
    return (size_t)(cuda_rmsnorm_blocks(n_rows, n_sms) * cols) * sizeof(float);
}

int64_t cuda_rope_blocks(int64_t n_rows, int64_t n_heads, bool want_dw, int n_sms)
{
    int64_t blocks = ceil_div(n_rows * n_heads, CUDA_ROPE_WARPS);
    return want_dw && blocks > 4 * n_sms ? 4 * n_sms : blocks;
}

size_t cuda_rope_scratch(int64_t n_rows, int64_t n_heads, int64_t head_dim, int n_sms)
{
    int64_t blocks = cuda_rope_blocks(n_rows, n_heads, true, n_sms);
    return (size_t)(blocks * CUDA_ROPE_WARPS * head_dim) * sizeof(float);
}

size_t cuda_attention_plain_scratch(int64_t n_tokens, int64_t n_heads)
{
    return (size_t)(n_tokens * n_heads) * sizeof(float);
}

int64_t cuda_cached_parts(int64_t n_tokens, int64_t n_kv_heads, int64_t longest, int n_sms)
{
    enum { BLOCKS = 2 }; /* of a multiprocessor at once: more parts would wait for a second turn */
    int64_t parts = BLOCKS * n_sms / (n_tokens * n_kv_heads);
    int64_t most = ceil_div(longest, CUDA_CACHED_LEAST_KEYS);
    if (most > CUDA_CACHED_MOST_PARTS) most = CUDA_CACHED_MOST_PARTS;
    if (parts > most) parts = most;
    return parts > 1 ? parts : 1;
}

size_t cuda_attention_cached_scratch(int64_t n_tokens, int64_t n_heads, int64_t n_kv_heads,
                                     int64_t head_dim, int64_t longest, int n_sms)
{
    int64_t parts = cuda_cached_parts(n_tokens, n_kv_heads, longest, n_sms);
    int64_t pitch = ceil_div(head_dim, CUDA_CACHED_SHARE) * CUDA_CACHED_SHARE;
    return parts > 1 ? (size_t)(n_tokens * n_heads * parts * (pitch + 2)) * sizeof(float) : 0;
}

size_t cuda_argmax_scratch(int64_t n_rows)
{
    return (size_t)(n_rows * CUDA_ARGMAX_PARTS) * sizeof(uint64_t);
}

bool cuda_attention_is_flash(bool is_bf16, int64_t head_dim)
{
    return is_bf16 && head_dim % 16 == 0 && head_dim <= 256;
}

int64_t cuda_attention_capacity(int64_t n_docs)
{
    int64_t capacity = 32;
    while (capacity < n_docs)
        capacity *= 2;
    return capacity;
}

/* The next piece, each on 256 bytes. */
static size_t carve(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + 255) & ~(size_t)255;
    return at;
}

AttentionScratch cuda_attention_scratch(int64_t n_docs, int64_t n_tokens, int64_t n_heads,
                                        int64_t n_kv_heads, int64_t head_dim, bool backward,
                                        size_t own)
{
    size_t b = (size_t)cuda_attention_capacity(n_docs), n_off = (b + 1) * sizeof(int64_t);
    size_t heads = (size_t)(n_tokens * n_heads), all = heads * (size_t)head_dim;
    AttentionScratch s = {0};
    s.lengths = carve(&s.bytes, b * sizeof(int32_t));
    s.off_q = carve(&s.bytes, n_off);
    s.off_kv = carve(&s.bytes, n_off);
    s.off_o = carve(&s.bytes, n_off);
    s.off_do = carve(&s.bytes, n_off);
    s.off_stats = carve(&s.bytes, n_off);
    s.stats = carve(&s.bytes, heads * sizeof(float));
    if (backward) {
        s.dq_sum = carve(&s.bytes, all * sizeof(float));
        s.delta = carve(&s.bytes, heads * sizeof(float));
        s.dense_own = s.bytes;
        if (n_heads != n_kv_heads) {
            s.dk_full = carve(&s.bytes, all * 2);
            s.dv_full = carve(&s.bytes, all * 2);
        }
    }
    if (!backward) s.dense_own = s.bytes;
    s.own = carve(&s.bytes, own > CUDNN_OWN_SCRATCH ? own : CUDNN_OWN_SCRATCH);
    return s;
}
