/* Attention of new tokens to a cache (flash-decoding, Dao et al. 2023): a query's keys are cut into parts, so that one query
 * has the whole GPU, too.  A block has one part of the keys of a token and a key head, for all query heads that read it:
 * the cache is read once.  The last block of a token and head joins the parts, in their order: the same bits every time.
 *
 * One token is a matter of latency, not of bytes.  So a few lanes share a key, eight elements each, a lane asks for several
 * keys and values before it uses the first, and whoever joins asks for many parts at once.  The first keys of a part are on
 * their way while the kernels before this one still run: nothing that is recorded with it writes them.
 *
 * No block waits for another's keys: new ones are read from k and v, and the block that has a token's own key stores it. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/online.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, WARPS = THREADS / WARP, MOST_GROUP = 8, MOST_WIDTH = 256 };
enum {
    NARROW = 16 * SHARE /* widths up to it have all lanes of half a warp */,
    WIDE_GROUP = 4 /* at most beyond it */
};
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

/* Keys and values that LANES lanes have at a time: each ROWS-th from the row's own on. */
template <typename T, int LANES> struct Keys {
    enum { AT_ONCE = 64 / (SHARE * sizeof(T)), ROWS = THREADS / LANES, KEYS = AT_ONCE * ROWS };
    Share<T> k[AT_ONCE], v[AT_ONCE];
};

/* Where the lane's elements of a part's keys are, from element 0 of key 0 on. */
struct Reach {
    int row, left;      /* the lane's among ROWS; elements of the head from its first on */
    int64_t old, fresh; /* in the cache; in k and v, before which key 0 would be */
    int64_t next;       /* to the next key, both */
};

template <typename T, int LANES>
__device__ static inline Reach reach_of(const Cached<T> &a, const Place &p)
{
    const int element = threadIdx.x % LANES * SHARE;
    Reach r;
    r.row = threadIdx.x / LANES;
    r.left = a.width - element;
    r.next = (int64_t)a.n_kv_heads * a.width;
    r.old = p.doc * a.capacity * r.next + p.kv * a.width + element;
    r.fresh = (p.token - (p.n - 1)) * r.next + p.kv * a.width + element;
    return r;
}

/* Those from j0 on that are in the cache; zeros where others are. */
template <typename T, int LANES, bool WHOLE>
__device__ static inline void ask_old(Keys<T, LANES> *x, const Cached<T> &a, const Place &p,
                                      const Reach &r, int j0)
{
#pragma unroll
    for (int u = 0; u < Keys<T, LANES>::AT_ONCE; u++) {
        int j = j0 + u * Keys<T, LANES>::ROWS + r.row;
        int has = j < min(p.end, p.past) ? r.left : 0;
        x->k[u] = share_load<T, WHOLE>(a.cache_k + r.old + j * r.next, has);
        x->v[u] = share_load<T, WHOLE>(a.cache_v + r.old + j * r.next, has);
    }
}

/* The others. */
template <typename T, int LANES, bool WHOLE>
__device__ static inline void ask_fresh(Keys<T, LANES> *x, const Cached<T> &a, const Place &p,
                                        const Reach &r, int j0)
{
    if (j0 + Keys<T, LANES>::KEYS <= p.past) return;
#pragma unroll
    for (int u = 0; u < Keys<T, LANES>::AT_ONCE; u++) {
        int j = j0 + u * Keys<T, LANES>::ROWS + r.row;
        if (j < p.past || j >= p.end) continue;
        x->k[u] = share_load<T, WHOLE>(a.k + r.fresh + j * r.next, r.left);
        x->v[u] = share_load<T, WHOLE>(a.v + r.fresh + j * r.next, r.left);
    }
}

/* The token's own, where this part has it. */
template <typename T, int LANES, bool WHOLE>
__device__ static inline void store_own(const Keys<T, LANES> &x, const Cached<T> &a, const Place &p,
                                        const Reach &r, int j0)
{
#pragma unroll
    for (int u = 0; u < Keys<T, LANES>::AT_ONCE; u++) {
        int j = j0 + u * Keys<T, LANES>::ROWS + r.row;
        if (j != p.n - 1) continue;
        share_store<T, WHOLE>(a.cache_k + r.old + j * r.next, x.k[u], r.left);
        share_store<T, WHOLE>(a.cache_v + r.old + j * r.next, x.v[u], r.left);
    }
}

/* The part's keys, of which the first old ones are asked for. */
template <typename T, int GROUP, int LANES, bool WHOLE>
__device__ static inline void part_run(Online<GROUP> *on, Keys<T, LANES> *x, const Cached<T> &a,
                                       const Place &p, const Reach &r,
                                       const float (&q)[GROUP][SHARE])
{
    enum { AT_ONCE = Keys<T, LANES>::AT_ONCE, ROWS = Keys<T, LANES>::ROWS };
    typedef Spread<GROUP, AT_ONCE, LANES> S;
    const int warps_first = threadIdx.x / WARP * (WARP / LANES);
    for (int j0 = p.first; j0 + warps_first < p.end; j0 += ROWS * AT_ONCE) { /* a warp together */
        if (j0 > p.first) ask_old<T, LANES, WHOLE>(x, a, p, r, j0);
        ask_fresh<T, LANES, WHOLE>(x, a, p, r, j0);
        float score[S::N];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            float k[SHARE];
            share_to_f32(k, x->k[u]);
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float dot = 0;
#pragma unroll
                for (int e = 0; e < SHARE; e++)
                    dot += q[g][e] * k[e];
                score[g * AT_ONCE + u] = dot;
            }
        }
        sum_and_spread<S::N, LANES / 2>(score);
#pragma unroll
        for (int i = 0; i < S::PER; i++)
            if (j0 + (S::first() % AT_ONCE + i) * ROWS + r.row >= p.end) score[i] = -INFINITY;
        online_add<T, GROUP, AT_ONCE, LANES>(on, score, x->v);
        if (p.stores) store_own<T, LANES, WHOLE>(*x, a, p, r, j0);
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
__device__ static inline void part_store(Online<GROUP> &on, const Cached<T> &a, const Place &p)
{
    extern __shared__ float4 accs[]; /* [WARPS][GROUP][pitch] of float */
    __shared__ float2 most_sum[WARPS][GROUP];
    enum { FOURS = LANES * SHARE / 4 }; /* of a head, or more */
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, element = lane * SHARE,
              of_head = a.pitch / 4;
    typedef Spread<GROUP, Keys<T, LANES>::AT_ONCE, LANES> S;
    online_sum<GROUP, Keys<T, LANES>::AT_ONCE, LANES>(&on);
    if (lane < LANES && lane % S::OF_HEAD == 0)
        most_sum[warp][lane / S::OF_HEAD] = make_float2(on.most, on.sum);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float4 *to = accs + (warp * GROUP + g) * of_head + element / 4;
#pragma unroll
        for (int e = 0; e < SHARE; e += 4)
            if (lane < LANES && element < a.width)
                to[e / 4] =
                    make_float4(on.acc[g][e], on.acc[g][e + 1], on.acc[g][e + 2], on.acc[g][e + 3]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_heads * FOURS; i += THREADS) {
        int g = i / FOURS, e = i % FOURS, head = p.head0 + g;
        if (e >= of_head) continue;
        float largest = -INFINITY, total = 0;
        float4 x = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            largest = fmaxf(largest, most_sum[w][g].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float f = weight_of(most_sum[w][g].x, largest);
            total += f * most_sum[w][g].y;
            add_times(&x, f, accs[(w * GROUP + g) * of_head + e]);
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
template <typename T, int GROUP, int LANES>
__device__ static inline void parts_join(const Cached<T> &a, const Place &p)
{
    enum { PARTS = CUDA_CACHED_MOST_PARTS, FOURS = LANES * SHARE / 4 };
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
static_assert((int)MOST_GROUP <= (int)WARPS, "a warp a head");

/* ---- the kernel ---- */

/* grid: parts, key heads x groups, tokens */
template <typename T, int GROUP, int LANES, bool WHOLE>
__global__ void __launch_bounds__(THREADS, GROUP > 4 ? 1 : 2)
    attention_cached_kernel(const Cached<T> a)
{
    early_go();
    Place p = place_of_heads(a);
    place_keys(&p, a); /* what is past is given: no kernel of the pass writes it */
    const Reach r = reach_of<T, LANES>(a, p);
    Keys<T, LANES> keys;
    ask_old<T, LANES, WHOLE>(&keys, a, p, r, p.first);
    early_wait();
    if (p.first >= p.n) return; /* the whole block */
    const T *x = a.q + ((int64_t)p.token * a.n_heads + p.head0) * a.width + a.width - r.left;
    float q[GROUP][SHARE];
    Online<GROUP> on = {-INFINITY, 0, {}};
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        share_to_f32(q[g], share_load<T, WHOLE>(x + (g < p.n_heads ? g : 0) * a.width, r.left));
#pragma unroll
        for (int e = 0; e < SHARE; e++)
            q[g][e] *= a.scale;
    }
    part_run<T, GROUP, LANES, WHOLE>(&on, &keys, a, p, r, q);
    part_store<T, GROUP, LANES>(on, a, p);
    if (p.n_parts > 1 && is_last(a.tickets + (int64_t)p.token * gridDim.y + blockIdx.y, p.n_parts))
        parts_join<T, GROUP, LANES>(a, p);
}

template <typename T, int GROUP, int LANES, bool WHOLE>
static void launch(Device *d, const Cached<T> &a, int64_t n_tokens, int64_t n_parts)
{
    dim3 grid((unsigned)n_parts, (unsigned)(a.n_kv_heads * a.n_groups), (unsigned)n_tokens);
    size_t shared = (size_t)(WARPS * GROUP * a.pitch) * sizeof(float); /* 32 KiB at most */
    launch_early(d, attention_cached_kernel<T, GROUP, LANES, WHOLE>, grid, THREADS, shared, a);
}

template <typename T, int GROUP>
static void by_width(Device *d, const Cached<T> &a, int64_t n_tokens, int64_t n_parts)
{
    if (a.width <= 8 * SHARE)
        launch<T, GROUP, 8, true>(d, a, n_tokens, n_parts);
    else if (a.width <= NARROW)
        launch<T, GROUP, NARROW / SHARE, true>(d, a, n_tokens, n_parts);
    else
        launch < T, GROUP<WIDE_GROUP ? GROUP : WIDE_GROUP, MOST_WIDTH / SHARE, true>(d, a, n_tokens,
                                                                                     n_parts);
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
        const int most = !whole ? 1 : width <= NARROW ? (int)MOST_GROUP : (int)WIDE_GROUP;
        a.group = of_kv < most ? of_kv : most;
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
