/* Attention to a cache on tensor cores: bf16, head widths 64 and 128 (attention_cached.cuh says how the work is cut).
 *
 * One token is a matter of latency: a product on tensor cores is for its few instructions, though most of its rows are empty.
 * A warp takes eight keys at a time, and all stays in registers, for which k of an mma is which element does not matter as
 * long as both operands agree, and which of its columns is which element not at all:
 *
 * Scores (heads, keys) = q k^T.  Lane c = lane % 4 of g = lane / 4 loads sixteen bytes of head g and of key g, elements
 * 32 i + 8 c on, and they are operands as they are.  It is left with those of head g and the keys 2 c and 2 c + 1, which is
 * where the next product wants its first operand.
 *
 * Output (elements, heads) += values^T weights, m16n8k8.  The lane loads elements 64 h + 8 g on of the values 2 c and 2 c + 1
 * and pairs them, element by element; of the mma's rows, g and g + 8 are two of these elements.  So its sums are of
 * eight neighbours, 64 h + 8 g on, of the heads 2 c and 2 c + 1.  Weights are f32: what rounding leaves of them is multiplied, too. */
#include "kernels/cuda/attention_cached.cuh"
#include "kernels/cuda/mma.cuh"

enum { KEYS = 8 /* of a warp at a time */, TILE = WARPS * KEYS };

template <int WIDTH> struct Head {
    enum { CHUNKS = WIDTH / 32, HALVES = WIDTH / 64, TILES = WIDTH / 16 };
    enum { FOURS = WIDTH / 4 };
    enum { PITCH = FOURS + 2 /* so that neighbouring lanes' heads lie in different banks */ };
};

/* Eight keys, the lane's share of them. */
template <int WIDTH> struct Keys {
    Bits k[Head<WIDTH>::CHUNKS];
    Bits v[2][Head<WIDTH>::HALVES];
};

/* Of the tile from key j0 on, asks for the warp's keys that are in [first, end), and leaves the others as they are.  k and v:
 * where key 0 of the head would be. */
template <int WIDTH>
__device__ static inline void ask(Keys<WIDTH> *x, const bf16 *k, const bf16 *v, int next, int j0,
                                  int first, int end)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    int j = j0 + threadIdx.x / WARP * KEYS + g;
    if (first <= j && j < end)
#pragma unroll
        for (int i = 0; i < Head<WIDTH>::CHUNKS; i++)
            x->k[i] = bits_load(k + (int64_t)j * next + 32 * i + 8 * c);
    j += 2 * c - g;
#pragma unroll
    for (int u = 0; u < 2; u++, j++)
        if (first <= j && j < end)
#pragma unroll
            for (int h = 0; h < Head<WIDTH>::HALVES; h++)
                x->v[u][h] = bits_load(v + (int64_t)j * next + 64 * h + 8 * g);
}

/* The same the other way: key `own` to the cache. */
template <int WIDTH>
__device__ static inline void store_own(const Keys<WIDTH> &x, bf16 *k, bf16 *v, int next, int j0,
                                        int own)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    int j = j0 + threadIdx.x / WARP * KEYS + g;
    if (j == own)
#pragma unroll
        for (int i = 0; i < Head<WIDTH>::CHUNKS; i++)
            bits_store(k + (int64_t)j * next + 32 * i + 8 * c, x.k[i]);
    j += 2 * c - g;
#pragma unroll
    for (int u = 0; u < 2; u++, j++)
        if (j == own)
#pragma unroll
            for (int h = 0; h < Head<WIDTH>::HALVES; h++)
                bits_store(v + (int64_t)j * next + 64 * h + 8 * g, x.v[u][h]);
}

/* The softmax over the keys that the warp has had (Milakov & Gimelshein 2018): head g's largest score, and its sum over the lane's own
 * keys.  acc [tile]: of the heads 2 c and 2 c + 1, value_at's elements `tile` (two of them), then TILES + `tile`. */
template <int WIDTH> struct Softmax {
    float most, sum, acc[Head<WIDTH>::TILES][4];
};

/* Element number i of the lane's, of both values. */
template <int WIDTH> __device__ static inline unsigned value_at(const Keys<WIDTH> &x, int i)
{
    const Bits a = x.v[0][i / 8], b = x.v[1][i / 8];
    const unsigned as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
    return __byte_perm(as[i % 8 / 2], bs[i % 8 / 2], i % 2 ? 0x7632 : 0x5410);
}

/* x [0], x [1]: scores of keys 2 c and 2 c + 1, -infinity where there is no key. */
template <int WIDTH>
__device__ static inline void add_keys(Softmax<WIDTH> *s, const float (&x)[2],
                                       const Keys<WIDTH> &keys, bool is_first)
{
    enum { TILES = Head<WIDTH>::TILES };
    float largest = fmaxf(s->most, fmaxf(x[0], x[1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float w0 = weight_of(x[0], largest), w1 = weight_of(x[1], largest);
    const float f = weight_of(s->most, largest);
    s->most = largest;
    s->sum = s->sum * f + w0 + w1;
    if (!is_first && __any_sync(0xffffffffu, f != 1.0f)) {
        const int c = threadIdx.x % 4;
        const float of_head[2] = {__shfl_sync(0xffffffffu, f, 8 * c),
                                  __shfl_sync(0xffffffffu, f, 8 * c + 4)};
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s->acc[t][i] *= of_head[i % 2];
    }
    const unsigned rounded = pair_of_bf16(w0, w1);
    const unsigned rest = pair_of_bf16(w0 - __uint_as_float(rounded << 16),
                                       w1 - __uint_as_float(rounded & 0xffff0000u));
    unsigned v[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        v[t][0] = value_at<WIDTH>(keys, t);
        v[t][1] = value_at<WIDTH>(keys, TILES + t);
        mma_add_8(s->acc[t], v[t][0], v[t][1], rounded);
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
        mma_add_8(s->acc[t], v[t][0], v[t][1], rest);
}

/* grid: parts, key heads x groups, tokens */
template <int WIDTH>
__global__ void __launch_bounds__(THREADS, 2) attention_cached_mma_kernel(const Cached<bf16> a)
{
    typedef Head<WIDTH> H;
    extern __shared__ float4 fours[]; /* [WARPS][a.group][H::PITCH] */
    __shared__ float2 most_sum[WARPS][MOST_GROUP];
    early_go();
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int next = a.n_kv_heads * WIDTH;
    Place p = place_of_heads(a);
    place_keys(&p, a); /* what is past is given: no kernel of the pass writes it */
    const int64_t old = p.doc * a.capacity * next + p.kv * WIDTH,
                  fresh = (int64_t)(p.token - (p.n - 1)) * next + p.kv * WIDTH;
    const int end_old = min(p.end, p.past);
    Keys<WIDTH> keys = {};
    ask<WIDTH>(&keys, a.cache_k + old, a.cache_v + old, next, p.first, p.first, end_old);
    early_wait();
    if (p.first >= p.n) return; /* the whole block */
    Bits q[H::CHUNKS];
#pragma unroll
    for (int i = 0; i < H::CHUNKS; i++)
        q[i] = g < p.n_heads
                   ? bits_load(a.q + ((int64_t)p.token * a.n_heads + p.head0 + g) * WIDTH + 32 * i +
                               8 * c)
                   : bits_zero();
    Softmax<WIDTH> s = {-INFINITY, 0, {}};
    for (int j0 = p.first; j0 + warp * KEYS < p.end; j0 += TILE) { /* a warp together */
        if (j0 > p.first) {
            keys = {};
            ask<WIDTH>(&keys, a.cache_k + old, a.cache_v + old, next, j0, p.first, end_old);
        }
        if (j0 + TILE > p.past)
            ask<WIDTH>(&keys, a.k + fresh, a.v + fresh, next, j0, p.past, p.end);
        float even[4] = {}, odd[4] = {};
#pragma unroll
        for (int i = 0; i < H::CHUNKS; i++) {
            const unsigned first[4] = {q[i].x, 0, q[i].y, 0}, second[4] = {q[i].z, 0, q[i].w, 0};
            mma_add(even, first, keys.k[i].x, keys.k[i].y);
            mma_add(odd, second, keys.k[i].z, keys.k[i].w);
        }
        float x[2];
#pragma unroll
        for (int u = 0; u < 2; u++)
            x[u] = j0 + warp * KEYS + 2 * c + u < p.end ? (even[u] + odd[u]) * a.scale : -INFINITY;
        add_keys<WIDTH>(&s, x, keys, j0 == p.first);
        if (p.stores) store_own<WIDTH>(keys, a.cache_k + old, a.cache_v + old, next, j0, p.n - 1);
    }
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
    if (c == 0 && g < a.group) most_sum[warp][g] = make_float2(s.most, s.sum);
#pragma unroll
    for (int u = 0; u < 2; u++) {
        if (2 * c + u >= a.group) break;
        float4 *to = fours + (warp * a.group + 2 * c + u) * H::PITCH + 2 * g;
#pragma unroll
        for (int i = 0; i < H::HALVES * 8; i += 4) {
            float y[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                y[e] = s.acc[(i + e) % H::TILES][(i + e) / H::TILES * 2 + u];
            to[i / 8 * 16 + i % 8 / 4] = make_float4(y[0], y[1], y[2], y[3]);
        }
    }
    const WarpSums sums = {fours, H::PITCH, most_sum};
    part_end<bf16, MOST_GROUP, H::FOURS>(sums, a, p);
}

bool attention_cached_mma(Device *d, const Cached<bf16> &a, int64_t n_tokens, int64_t n_parts)
{
    if (cuda_impl(d)->cc < 80 || (a.width != 64 && a.width != 128)) return false;
    const dim3 grid((unsigned)n_parts, (unsigned)(a.n_kv_heads * a.n_groups), (unsigned)n_tokens);
    const size_t shared = (size_t)(WARPS * a.group * (a.width / 4 + 2)) * sizeof(float4);
    launch_early(d,
                 a.width == 64 ? attention_cached_mma_kernel<64> : attention_cached_mma_kernel<128>,
                 grid, THREADS, shared, a);
    return true;
}
