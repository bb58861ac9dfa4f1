/* Attention of new tokens to a cache (flash-decoding, Dao et al. 2023): a query's keys are cut into parts, so that one query
 * has the whole GPU, too.  A block has one part of the keys of a token and a key head, for all query heads that read it:
 * the cache is read once.  The last block of a token and head joins the parts, in their order: the same bits every time.
 *
 * No block waits for another's keys: new ones are read from k and v, and the block that has a token's own key stores it.
 * The first keys of a part are on their way while the kernels before this one still run: nothing that is recorded with it
 * writes them.
 *
 * Here is what the kernels for a part share (attention_cached.cu for all types and widths, attention_cached_mma.cu on tensor
 * cores): a block's place, and how the sums of its warps, and then those of the parts, become the output. */
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP, MOST_GROUP = 8 };
enum { PARTS_AT_ONCE = 16 }; /* that a thread asks for when it joins */
static_assert((int)MOST_GROUP <= (int)WARPS, "a warp a head");

/* What the kernel works on.  A head's keys are cut into equal parts, CUDA_CACHED_LEAST_KEYS each at least. */
template <typename T> struct Cached {
    T *o, *cache_k, *cache_v;
    const T *q, *k, *v;
    const int32_t *cu, *past;
    int n_docs, n_heads, n_kv_heads, width, pitch /* of partial sums: whole shares */;
    int of_kv, group,
        n_groups; /* heads of a key head, and its groups, each of `group` heads at most */
    int64_t capacity, ld_o;
    float scale;
    float *acc;        /* (tokens, heads, parts, pitch) */
    float2 *most_sum;  /* (tokens, heads, parts) */
    unsigned *tickets; /* (tokens, key heads, groups), 0 before and after */
};

/* ---- a block's place ---- */

/* A block's place: heads [head0, head0 + n_heads) of `token`, and of the n keys it sees [first, end), one of n_parts. */
struct Place {
    int token, doc, kv, head0, n_heads, past, n, n_parts, first, end;
    bool stores; /* the token's own key and value, which are among these keys */
};

/* The heads, which the grid says. */
template <typename T> __device__ static inline Place place_of_heads(const Cached<T> &a)
{
    Place p = {};
    int in_kv = 0;
    p.token = blockIdx.z;
    p.kv = blockIdx.y;
    if (a.n_groups > 1) { /* seldom, and a division is latency, too */
        p.kv = blockIdx.y / a.n_groups;
        in_kv = ((int)blockIdx.y - p.kv * a.n_groups) * a.group;
    }
    p.head0 = p.kv * a.of_kv + in_kv;
    p.n_heads = min(a.of_kv - in_kv, a.group);
    p.stores = in_kv == 0;
    return p;
}

/* The keys, which take loads to know. */
template <typename T> __device__ static inline void place_keys(Place *p, const Cached<T> &a)
{
    p->doc = doc_of(a.cu, a.n_docs, p->token);
    p->past = a.past[p->doc];
    p->n = p->past + p->token - a.cu[p->doc] + 1;
    int each = max((p->n + (int)gridDim.x - 1) / (int)gridDim.x, (int)CUDA_CACHED_LEAST_KEYS);
    p->n_parts = (p->n + each - 1) / each; /* fewer than blocks where the bound was far off */
    p->first = blockIdx.x * each;
    p->end = min(p->first + each, p->n);
    p->stores = p->stores && p->end == p->n;
}

/* ---- joining ---- */

__device__ static inline void add_times(float4 *x, float w, float4 y)
{
    x->x += w * y.x, x->y += w * y.y, x->z += w * y.z, x->w += w * y.w;
}

/* Four outputs of head `head` from element e on; the last ones may lie behind its end. */
template <typename T>
__device__ static inline void out_store(const Cached<T> &a, int token, int head, int e, float4 x,
                                        float f)
{
    T *o = a.o + token * a.ld_o + (int64_t)head * a.width + e;
    const float y[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (e + i < a.width) o[i] = from_f32<T>(y[i] * f);
}

/* What the block's warps have of its keys, in shared memory: of each warp and head a row of `pitch` fours, sums of values times
 * weights, and the largest score and the sum of weights. */
struct WarpSums {
    float4 *fours;
    int pitch;
    float2 (*most_sum)[MOST_GROUP]; /* [WARPS] */
};

/* The block's keys as one part: written away, or the output where it is the only one.  FOURS of a head, or more. */
template <typename T, int FOURS>
__device__ static inline void warps_join(const WarpSums &s, const Cached<T> &a, const Place &p)
{
    const int of_head = a.pitch / 4;
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_heads * FOURS; i += THREADS) {
        int g = i / FOURS, e = i % FOURS, head = p.head0 + g;
        if (e >= of_head) continue;
        float largest = -INFINITY, total = 0;
        float4 x = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            largest = fmaxf(largest, s.most_sum[w][g].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float f = weight_of(s.most_sum[w][g].x, largest);
            total += f * s.most_sum[w][g].y;
            add_times(&x, f, s.fours[(w * a.group + g) * s.pitch + e]);
        }
        if (p.n_parts == 1) {
            out_store(a, p.token, head, 4 * e, x, 1 / total);
            continue;
        }
        int64_t cell = ((int64_t)p.token * a.n_heads + head) * gridDim.x + blockIdx.x;
        reinterpret_cast<float4 *>(a.acc)[cell * of_head + e] = x;
        if (e == 0) a.most_sum[cell] = make_float2(largest, total);
    }
}

/* True in the last of the n_parts blocks that come with a ticket: it can read what the others wrote, past its L1. */
__device__ static inline bool is_last(unsigned *ticket, int n_parts)
{
    __shared__ bool last;
    __syncthreads(); /* one thread's release is for what the barrier has shown it, too */
    if (threadIdx.x == 0) {
        unsigned before;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                     : "=r"(before)
                     : "l"(__cvta_generic_to_global(ticket))
                     : "memory");
        last = before == (unsigned)n_parts - 1;
        if (last) *ticket = 0;
    }
    __syncthreads();
    return last;
}

/* Some parts' sums of the i-th four elements of the block's heads, from part `at` on. */
template <typename T, int FOURS>
__device__ static inline void ask_parts(float4 (&y)[PARTS_AT_ONCE], const Cached<T> &a,
                                        const Place &p, int i, int at)
{
    const int of_head = a.pitch / 4, g = i / FOURS, e = i % FOURS;
    const int64_t cell = ((int64_t)p.token * a.n_heads + p.head0 + g) * gridDim.x;
    const float4 *from = reinterpret_cast<const float4 *>(a.acc) + cell * of_head + e;
#pragma unroll
    for (int u = 0; u < PARTS_AT_ONCE; u++) {
        y[u] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (g < p.n_heads && e < of_head && at + u < p.n_parts)
            y[u] = __ldcg(from + (int64_t)(at + u) * of_head);
    }
}

/* The parts of the block's heads become the output. */
template <typename T, int GROUP, int FOURS>
__device__ static inline void parts_join(const Cached<T> &a, const Place &p)
{
    enum { PARTS = CUDA_CACHED_MOST_PARTS };
    __shared__ float weights[GROUP][PARTS]; /* over the sum of all */
    const int lane = threadIdx.x % WARP, g_warp = threadIdx.x / WARP;
    const int64_t cell0 = ((int64_t)p.token * a.n_heads + p.head0 + g_warp) * gridDim.x;
    float2 part[PARTS / WARP];
    float4 y[PARTS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < PARTS / WARP; i++) {
        int at = lane + i * WARP;
        part[i] = make_float2(-INFINITY, 0.0f);
        if (g_warp < p.n_heads && at < p.n_parts) part[i] = __ldcg(a.most_sum + cell0 + at);
    }
    ask_parts<T, FOURS>(y, a, p, threadIdx.x, 0);
    if (g_warp < GROUP) { /* a warp a head */
        float largest = -INFINITY, total = 0;
#pragma unroll
        for (int i = 0; i < PARTS / WARP; i++)
            largest = fmaxf(largest, part[i].x);
        largest = warp_max(largest);
#pragma unroll
        for (int i = 0; i < PARTS / WARP; i++)
            total += weight_of(part[i].x, largest) * part[i].y;
        total = warp_sum(total);
#pragma unroll
        for (int i = 0; i < PARTS / WARP; i++)
            weights[g_warp][lane + i * WARP] = __fdividef(weight_of(part[i].x, largest), total);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_heads * FOURS; i += THREADS) {
        int g = i / FOURS, e = i % FOURS;
        float4 x = {};
        for (int at = 0; at < p.n_parts; at += PARTS_AT_ONCE) {
            if (i >= THREADS || at > 0) ask_parts<T, FOURS>(y, a, p, i, at);
#pragma unroll
            for (int u = 0; u < PARTS_AT_ONCE; u++)
                add_times(&x, weights[g][at + u], y[u]);
        }
        out_store(a, p.token, p.head0 + g, 4 * e, x, 1.0f);
    }
}
static_assert(CUDA_CACHED_MOST_PARTS % WARP == 0 && CUDA_CACHED_MOST_PARTS % PARTS_AT_ONCE == 0,
              "parts go by lanes and by what a thread asks for at once");

/* A part's last steps: what its warps have, and, in the last block, all parts. */
template <typename T, int GROUP, int FOURS>
__device__ static inline void part_end(const WarpSums &s, const Cached<T> &a, const Place &p)
{
    warps_join<T, FOURS>(s, a, p);
    if (p.n_parts > 1 && is_last(a.tickets + (int64_t)p.token * gridDim.y + blockIdx.y, p.n_parts))
        parts_join<T, GROUP, FOURS>(a, p);
}

/* bf16 on tensor cores: false, and nothing done, where head widths do not fit (attention_cached_mma.cu). */
bool attention_cached_mma(Device *d, const Cached<bf16> &a, int64_t n_tokens, int64_t n_parts);
