/* Attention to a cache for all types and widths, in f32 (attention_cached.cuh says how the work is cut).
 *
 * One token is a matter of latency, not of bytes.  So a few lanes share a key, eight elements each, a lane asks for several
 * keys and values before it uses the first, and whoever joins asks for many parts at once. */
#include "kernels/cuda/attention_cached.cuh"
#include "kernels/cuda/online.cuh"
#include "kernels/cuda/table.h"

enum { MOST_WIDTH = 256 };
enum {
    NARROW = 16 * SHARE /* widths up to it have all lanes of half a warp */,
    WIDE_GROUP = 4 /* at most beyond it */
};

/* ---- a part ---- */

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

/* The warp's keys to shared memory. */
template <typename T, int GROUP, int LANES>
__device__ static inline void warp_store(const WarpSums &s, Online<GROUP> &on, const Cached<T> &a)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, element = lane * SHARE;
    typedef Spread<GROUP, Keys<T, LANES>::AT_ONCE, LANES> S;
    online_sum<GROUP, Keys<T, LANES>::AT_ONCE, LANES>(&on);
    if (lane < LANES && lane % S::OF_HEAD == 0)
        s.most_sum[warp][lane / S::OF_HEAD] = make_float2(on.most, on.sum);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float4 *to = s.fours + (warp * a.group + g) * s.pitch + element / 4;
#pragma unroll
        for (int e = 0; e < SHARE; e += 4)
            if (g < a.group && lane < LANES && element < a.width)
                to[e / 4] =
                    make_float4(on.acc[g][e], on.acc[g][e + 1], on.acc[g][e + 2], on.acc[g][e + 3]);
    }
}

/* ---- the kernel ---- */

/* grid: parts, key heads x groups, tokens */
template <typename T, int GROUP, int LANES, bool WHOLE>
__global__ void __launch_bounds__(THREADS, GROUP > 4 ? 1 : 2)
    attention_cached_kernel(const Cached<T> a)
{
    extern __shared__ float4 fours[]; /* [WARPS][a.group][pitch] of float */
    __shared__ float2 most_sum[WARPS][MOST_GROUP];
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
    const WarpSums sums = {fours, a.pitch / 4, most_sum};
    warp_store<T, GROUP, LANES>(sums, on, a);
    part_end<T, GROUP, LANES * SHARE / 4>(sums, a, p);
}

template <typename T, int GROUP, int LANES, bool WHOLE>
static void launch(Device *d, const Cached<T> &a, int64_t n_tokens, int64_t n_parts)
{
    dim3 grid((unsigned)n_parts, (unsigned)(a.n_kv_heads * a.n_groups), (unsigned)n_tokens);
    size_t shared = (size_t)(WARPS * a.group * a.pitch) * sizeof(float); /* 32 KiB at most */
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

static bool by_mma(Device *d, const Cached<bf16> &a, int64_t n, int64_t parts)
{
    return attention_cached_mma(d, a, n, parts);
}
static bool by_mma(Device *, const Cached<float> &, int64_t, int64_t)
{
    return false;
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
        if (!whole)
            launch<T, 1, MOST_WIDTH / SHARE, false>(d, a, n, parts);
        else if (!by_mma(d, a, n, parts))
            by_group(d, a, n, parts);
    });
    if (parts > 1) workspace_give(d);
}
