/* Attention of new tokens to a cache (flash-decoding, Dao et al. 2023): a query's keys are cut into parts, so that one query
 * has the whole GPU, too.  A block has one part of the keys of a token and a key head, for all query heads that read it:
 * the cache is read once.  The last block of a token and head joins the parts, in their order: the same bits every time.
 *
 * One token is a matter of latency, not of bytes.  So a few lanes share a key, eight elements each, a lane asks for several
 * keys and values before it uses the first, and whoever joins asks for many parts at once.
 *
 * No block waits for another's keys: new ones are read from k and v, and the block that has a token's own key stores it. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/online.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 128, WARPS = THREADS / WARP, MOST_GROUP = 8, MOST_WIDTH = 256 };
enum { PARTS_AT_ONCE = 16 }; /* that a thread asks for when it joins */

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

/* ---- a part ---- */

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

/* Dots of the lane's queries with one key, whole in each of its LANES lanes. */
template <typename T, int GROUP, int LANES>
__device__ static inline void dots(float (&y)[GROUP], const float (&q)[GROUP][SHARE],
                                   const Share<T> &key)
{
    float k[SHARE];
    share_to_f32(k, key);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float dot = 0;
#pragma unroll
        for (int e = 0; e < SHARE; e++)
            dot += q[g][e] * k[e];
        y[g] = dot;
    }
#pragma unroll
    for (int o = LANES / 2; o > 0; o >>= 1)
#pragma unroll
        for (int g = 0; g < GROUP; g++)
            y[g] += __shfl_xor_sync(0xffffffffu, y[g], o);
}

/* The block's keys: each LANES lanes take AT_ONCE of them at a time. */
template <typename T, int GROUP, int LANES, bool WHOLE>
__device__ static inline void part_run(Online<GROUP> *on, const Cached<T> &a, const Place &p,
                                       const float (&q)[GROUP][SHARE])
{
    enum { AT_ONCE = 64 / (SHARE * sizeof(T)), ROWS = THREADS / LANES };
    const int element = threadIdx.x % LANES * SHARE, left = a.width - element;
    const int warps_first = threadIdx.x / WARP * (WARP / LANES), own = p.stores ? p.n - 1 : -1;
    const int64_t row = (int64_t)a.n_kv_heads * a.width, in_row = (int64_t)p.kv * a.width + element;
    const int64_t old = p.doc * a.capacity * row + in_row;               /* of key 0 in the cache */
    const int64_t fresh = (int64_t)(p.token - (p.n - 1)) * row + in_row; /* of key 0 before k */
    for (int j0 = p.first; j0 + warps_first < p.end; j0 += ROWS * AT_ONCE) { /* a warp together */
        Share<T> k[AT_ONCE], v[AT_ONCE];
        float score[AT_ONCE][GROUP];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int j = j0 + u * ROWS + (int)threadIdx.x / LANES, has = j < p.end ? left : 0;
            int64_t at = (j < p.past ? old : fresh) + j * row;
            k[u] = share_load<T, WHOLE>((j < p.past ? a.cache_k : a.k) + at, has);
            v[u] = share_load<T, WHOLE>((j < p.past ? a.cache_v : a.v) + at, has);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int j = j0 + u * ROWS + (int)threadIdx.x / LANES;
            dots<T, GROUP, LANES>(score[u], q, k[u]);
#pragma unroll
            for (int g = 0; g < GROUP; g++)
                if (j >= p.end) score[u][g] = -INFINITY;
            if (j == own) {
                share_store<T, WHOLE>(a.cache_k + old + j * row, k[u], left);
                share_store<T, WHOLE>(a.cache_v + old + j * row, v[u], left);
            }
        }
        online_add(on, score, v);
    }
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

/* The block's keys as one part: written away, or the output where it is the only one. */
template <typename T, int GROUP, int LANES>
__device__ static inline void part_store(const Online<GROUP> &on, const Cached<T> &a,
                                         const Place &p)
{
    enum { ROWS = THREADS / LANES };
    extern __shared__ float4 accs[]; /* [ROWS][GROUP][pitch] of float */
    __shared__ float2 most_sum[ROWS][GROUP];
    const int row = threadIdx.x / LANES, element = threadIdx.x % LANES * SHARE,
              of_head = a.pitch / 4;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        if (element == 0) most_sum[row][g] = make_float2(on.most[g], on.sum[g]);
        float4 *to = accs + (row * GROUP + g) * of_head + element / 4;
#pragma unroll
        for (int e = 0; e < SHARE; e += 4)
            if (element < a.width)
                to[e / 4] =
                    make_float4(on.acc[g][e], on.acc[g][e + 1], on.acc[g][e + 2], on.acc[g][e + 3]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_heads * of_head; i += THREADS) {
        int g = i / of_head, e = i % of_head, head = p.head0 + g;
        float largest = -INFINITY, total = 0;
        float4 x = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            largest = fmaxf(largest, most_sum[r][g].x);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float w = weight_of(most_sum[r][g].x, largest);
            total += w * most_sum[r][g].y;
            add_times(&x, w, accs[(r * GROUP + g) * of_head + e]);
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

/* The parts of the block's heads become the output. */
template <typename T, int GROUP>
__device__ static inline void parts_join(const Cached<T> &a, const Place &p)
{
    enum { PARTS = CUDA_CACHED_MOST_PARTS };
    __shared__ float weights[GROUP][PARTS]; /* over the sum of all */
    const int lane = threadIdx.x % WARP, of_head = a.pitch / 4;
    const int64_t cell0 = ((int64_t)p.token * a.n_heads + p.head0) * gridDim.x;
    for (int g = threadIdx.x / WARP; g < p.n_heads; g += WARPS) {
        float2 part[PARTS / WARP];
        float largest = -INFINITY, total = 0;
#pragma unroll
        for (int i = 0; i < PARTS / WARP; i++) {
            int at = lane + i * WARP;
            part[i] = make_float2(-INFINITY, 0.0f);
            if (at < p.n_parts) part[i] = __ldcg(a.most_sum + cell0 + (int64_t)g * gridDim.x + at);
        }
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
            weights[g][lane + i * WARP] = weight_of(part[i].x, largest) / total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_heads * of_head; i += THREADS) {
        int g = i / of_head, e = i % of_head;
        const float4 *from = reinterpret_cast<const float4 *>(a.acc) +
                             (cell0 + (int64_t)g * gridDim.x) * of_head + e;
        float4 x = {};
        for (int at = 0; at < p.n_parts; at += PARTS_AT_ONCE) {
            float4 y[PARTS_AT_ONCE];
#pragma unroll
            for (int u = 0; u < PARTS_AT_ONCE; u++) {
                y[u] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (at + u < p.n_parts) y[u] = __ldcg(from + (int64_t)(at + u) * of_head);
            }
#pragma unroll
            for (int u = 0; u < PARTS_AT_ONCE; u++)
                add_times(&x, weights[g][at + u], y[u]);
        }
        out_store(a, p.token, p.head0 + g, 4 * e, x, 1.0f);
    }
}
static_assert(CUDA_CACHED_MOST_PARTS % WARP == 0 && CUDA_CACHED_MOST_PARTS % PARTS_AT_ONCE == 0,
              "parts go by lanes and by what a thread asks for at once");

/* ---- the kernel ---- */

/* grid: parts, key heads x groups, tokens */
template <typename T, int GROUP, int LANES, bool WHOLE>
__global__ void __launch_bounds__(THREADS) attention_cached_kernel(const Cached<T> a)
{
    early_go();
    Place p = place_of_heads(a);
    const int element = threadIdx.x % LANES * SHARE;
    const T *x = a.q + ((int64_t)p.token * a.n_heads + p.head0) * a.width + element;
    early_wait();
    Share<T> raw[GROUP]; /* queries, asked for before the wait for `past` */
#pragma unroll
    for (int g = 0; g < GROUP; g++)
        raw[g] = share_load<T, WHOLE>(x + (g < p.n_heads ? g : 0) * a.width, a.width - element);
    place_keys(&p, a);
    if (p.first >= p.n) return; /* the whole block */
    float q[GROUP][SHARE];
    Online<GROUP> on;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        share_to_f32(q[g], raw[g]);
        on.most[g] = -INFINITY, on.sum[g] = 0;
#pragma unroll
        for (int e = 0; e < SHARE; e++)
            on.acc[g][e] = 0, q[g][e] *= a.scale;
    }
    part_run<T, GROUP, LANES, WHOLE>(&on, a, p, q);
    part_store<T, GROUP, LANES>(on, a, p);
    if (p.n_parts > 1 && is_last(a.tickets + (int64_t)p.token * gridDim.y + blockIdx.y, p.n_parts))
        parts_join<T, GROUP>(a, p);
}

template <typename T, int GROUP, int LANES, bool WHOLE>
static void launch(Device *d, const Cached<T> &a, int64_t n_tokens, int64_t n_parts)
{
    dim3 grid((unsigned)n_parts, (unsigned)(a.n_kv_heads * a.n_groups), (unsigned)n_tokens);
    size_t shared =
        (size_t)(THREADS / LANES * GROUP * a.pitch) * sizeof(float); /* 32 KiB at most */
    launch_early(d, attention_cached_kernel<T, GROUP, LANES, WHOLE>, grid, THREADS, shared, a);
}

template <typename T, int GROUP>
static void by_width(Device *d, const Cached<T> &a, int64_t n_tokens, int64_t n_parts)
{
    if (a.width <= 8 * SHARE)
        launch<T, GROUP, 8, true>(d, a, n_tokens, n_parts);
    else if (a.width <= 16 * SHARE)
        launch<T, GROUP, 16, true>(d, a, n_tokens, n_parts);
    else
        launch<T, GROUP, MOST_WIDTH / SHARE, true>(d, a, n_tokens, n_parts);
}

template <typename T> static void by_group(Device *d, const Cached<T> &a, int64_t n, int64_t parts)
{
    if (a.group == 1)
        by_width<T, 1>(d, a, n, parts);
    else if (a.group == 2)
        by_width<T, 2>(d, a, n, parts);
    else if (a.group <= 4)
        by_width<T, 4>(d, a, n, parts);
    else
        by_width<T, MOST_GROUP>(d, a, n, parts);
}

void cuda_attention_cached(Device *d, Tensor *o, Tensor *cache_k, Tensor *cache_v, const Tensor *q,
                           const Tensor *k, const Tensor *v, int n_heads, int n_kv_heads,
                           const Docs *docs, const Tensor *past, int64_t max_past, float scale)
{
    int64_t n = tensor_rows(q), longest = max_past + docs->max_len,
            width = tensor_cols(q) / n_heads;
    if (n == 0) return;
    ASSERT(width <= MOST_WIDTH && n <= 65535, "%lld tokens, head width %lld", (long long)n,
           (long long)width);
    int n_sms = cuda_impl(d)->n_sms, of_kv = n_heads / n_kv_heads;
    int64_t parts = cuda_cached_parts(n, n_kv_heads, longest, n_sms), cells = n * n_heads * parts;
    int64_t pitch = ceil_div(width, SHARE) * SHARE;
    float *scratch = NULL;
    if (parts > 1)
        scratch = (float *)workspace_take(
            d, cuda_attention_cached_scratch(n, n_heads, n_kv_heads, width, longest, n_sms));
    DISPATCH(q, T, {
        bool whole = width % SHARE == 0 && vectors_fit<T>(q) && vectors_fit<T>(k) &&
                     vectors_fit<T>(v) && vectors_fit<T>(cache_k) && vectors_fit<T>(cache_v);
        Cached<T> a = {};
        a.o = (T *)tensor_data(o);
        a.cache_k = (T *)tensor_data(cache_k);
        a.cache_v = (T *)tensor_data(cache_v);
        a.q = (const T *)tensor_data(q);
        a.k = (const T *)tensor_data(k);
        a.v = (const T *)tensor_data(v);
        a.cu = (const int32_t *)tensor_data(docs->cu);
        a.past = (const int32_t *)tensor_data(past);
        a.n_docs = docs->n_docs;
        a.n_heads = n_heads;
        a.n_kv_heads = n_kv_heads;
        a.width = (int)width;
        a.pitch = (int)pitch;
        a.of_kv = of_kv;
        a.group = !whole ? 1 : of_kv < MOST_GROUP ? of_kv : (int)MOST_GROUP;
        a.n_groups = (int)ceil_div(of_kv, a.group);
        a.capacity = cache_k->shape[1];
        a.ld_o = o->ld;
        a.scale = scale;
        a.acc = scratch;
        a.most_sum = (float2 *)(scratch + cells * pitch);
        a.tickets = cuda_impl(d)->tickets;
        ASSERT(parts == 1 || n * n_kv_heads * a.n_groups <= CUDA_TICKETS, "%lld tickets",
               (long long)(n * n_kv_heads * a.n_groups));
        if (whole)
            by_group(d, a, n, parts);
        else
            launch<T, 1, MOST_WIDTH / SHARE, false>(d, a, n, parts);
    });
    if (parts > 1) workspace_give(d);
}
