/* AdamW with states in 8 bits: a warp takes a block of 256 elements, eight a lane, decodes, updates and encodes it in
 * registers.  The traffic is 14 bytes an element in bf16, so instructions count as much as bytes: tables lie in shared memory
 * with a copy for each lane (no two lanes want one bank), and codes are found by a guess and two comparisons.
 *
 * m, v and their codes have the CPU column's bits: no fused multiply-adds there. */
#include "kernels/cuda/adamw.cuh"
#include "kernels/cuda/dynamic8.h"

enum { THREADS = 512, WARPS = THREADS / WARP, BLOCKS_PER_SM = 2 };
static_assert(STATES_BLOCK == WARP * EACH, "a warp takes a block");

/* Of both maps: magnitudes, ascending from 0, and where a number lies among them. */
struct Maps {
    float m[DYNAMIC_M_N], v[DYNAMIC_V_N];
    DynamicLine m_lines[DYNAMIC_DECADES], v_lines[DYNAMIC_DECADES];
};

/* In shared memory: a column a lane. */
struct Tables {
    float m[DYNAMIC_M_N][WARP], m_edges[DYNAMIC_M_N + 1][WARP];
    float v[DYNAMIC_V_N][WARP], v_edges[DYNAMIC_V_N + 1][WARP];
    DynamicLine m_lines[DYNAMIC_DECADES], v_lines[DYNAMIC_DECADES];
};

__device__ static void fill_tables(Tables *t, const Maps &maps)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int k = warp; k <= DYNAMIC_V_N; k += WARPS) {
        if (k < DYNAMIC_M_N) t->m[k][lane] = maps.m[k];
        if (k <= DYNAMIC_M_N) t->m_edges[k][lane] = dynamic_edge(maps.m, DYNAMIC_M_N, k);
        if (k < DYNAMIC_V_N) t->v[k][lane] = maps.v[k];
        t->v_edges[k][lane] = dynamic_edge(maps.v, DYNAMIC_V_N, k);
    }
    if (threadIdx.x < DYNAMIC_DECADES) {
        t->m_lines[threadIdx.x] = maps.m_lines[threadIdx.x];
        t->v_lines[threadIdx.x] = maps.v_lines[threadIdx.x];
    }
    __syncthreads();
}

/* What shared memory has at `at` + offset + 2^shift * k, at being an address there: one instruction for the address, whatever the
 * compiler would make of indices. */
template <int OFFSET, int SHIFT = 7>
__device__ static inline float shared_at(unsigned at, unsigned k)
{
    float x;
    asm("ld.shared.f32 %0, [%1 + %2];" : "=f"(x) : "r"(at + (k << SHIFT)), "n"(OFFSET));
    return x;
}
static_assert(sizeof(float[WARP]) == 1 << 7, "rows of tables");

template <int OFFSET> __device__ static inline DynamicLine line_at(unsigned at, unsigned decade)
{
    DynamicLine l;
    asm("ld.shared.v2.f32 {%0, %1}, [%2 + %3];"
        : "=f"(l.slope), "=f"(l.shift)
        : "r"(at + (decade << 3)), "n"(OFFSET));
    return l;
}

/* Eight codes, the first in the lowest byte; in two words, since bytes of an array would lie in memory. */
typedef uint2 Codes;

__device__ static inline int code_at(const Codes &c, int j)
{
    return (int)((j < 4 ? c.x : c.y) >> (8 * (j % 4)) & 255u);
}

/* Codes are put in where 0 was. */
__device__ static inline void code_put(Codes &c, int j, int code)
{
    (j < 4 ? c.x : c.y) |= (unsigned)code << (8 * (j % 4));
}

enum { CODE_OF_ZERO = 127 };

/* One instruction each, good to an ulp or two: enough for a guess, and for the step of a weight, whose denominator is no less
 * than eps. */
__device__ static inline float log2_fast(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ static inline float sqrt_fast(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ static inline float reciprocal_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Addresses of a lane's columns and of the lines; the rounded ones take numbers above DYNAMIC_ROUND. */
struct Places {
    unsigned column, rounded_column, rounded_lines;
};

__device__ static inline Places places_of(const Tables *t)
{
    unsigned at = (unsigned)__cvta_generic_to_shared(t);
    unsigned column = at + threadIdx.x % WARP * (unsigned)sizeof(float);
    return {column, column - (DYNAMIC_ROUND << 7), at - (DYNAMIC_ROUND << 3)};
}

__device__ static inline float m_of_code(const Places &p, int code, float absmax)
{
    int k = code - CODE_OF_ZERO;
    float m = shared_at<offsetof(Tables, m)>(p.column, (unsigned)abs(k));
    unsigned x = __float_as_uint(__fmul_rn(m, absmax));
    return __uint_as_float(x | ((unsigned)k & 0x80000000u));
}

__device__ static inline float v_of_code(const Places &p, int code, float absmax)
{
    return __fmul_rn(shared_at<offsetof(Tables, v)>(p.column, (unsigned)code), absmax);
}

template <int LINES, int EDGES, int N>
__device__ static inline int index_of(const Places &p, float x)
{
    DynamicLine l = line_at<LINES>(p.rounded_lines, dynamic_decade(log2_fast(x)));
    unsigned k = dynamic_guess(x, l, N);
    float next = shared_at<EDGES + (int)sizeof(float[WARP])>(p.rounded_column, k);
    return (int)(k - DYNAMIC_ROUND) + (x > next);
}

/* The map is the same on both sides of 0, but for the 1 at its upper end. */
__device__ static inline int code_of_m(const Places &p, float m, float inverse)
{
    int k = index_of<offsetof(Tables, m_lines), offsetof(Tables, m_edges), DYNAMIC_M_N>(
        p, __fmul_rn(fabsf(m), inverse));
    if (m >= 0) return CODE_OF_ZERO + k;
    return CODE_OF_ZERO - min(max(k, 1), CODE_OF_ZERO);
}

__device__ static inline int code_of_v(const Places &p, float v, float inverse)
{
    return index_of<offsetof(Tables, v_lines), offsetof(Tables, v_edges), DYNAMIC_V_N>(
        p, __fmul_rn(v, inverse));
}

__device__ static inline float reciprocal(float absmax)
{
    return __fdiv_rn(1.0f, absmax > 1e-38f ? absmax : 1e-38f);
}

__device__ static inline void update(const Factors &f, float *w, float *m, float *v, float grad)
{
    float g = __fmul_rn(grad, f.grad_scale);
    *m = __fadd_rn(__fmul_rn(f.beta1, *m), __fmul_rn(__fsub_rn(1.0f, f.beta1), g));
    *v = __fadd_rn(__fmul_rn(f.beta2, *v), __fmul_rn(__fmul_rn(__fsub_rn(1.0f, f.beta2), g), g));
    float root = sqrt_fast(*v) * f.rsqrt_bias2 + f.eps;
    *w = *w * f.keep - f.step_size * *m * reciprocal_fast(root);
}

/* Eight elements of every array from i on; those from n on are 0 and are not written. */
template <typename W, typename G> struct Arrays {
    W *w;
    int16_t *low;
    uint8_t *m, *v;
    const G *grad;

    __device__ inline void load(int64_t i, int64_t n, Eight &x, Eight &g, Codes &cm,
                                Codes &cv) const
    {
        if (i + EACH <= n) {
            cm = *reinterpret_cast<const Codes *>(m + i);
            cv = *reinterpret_cast<const Codes *>(v + i);
            g = eight_load(grad + i);
            x = master_load(w + i, low + i);
            return;
        }
        cm = cv = make_uint2(0, 0);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            bool is_there = i + j < n;
            code_put(cm, j, is_there ? m[i + j] : CODE_OF_ZERO);
            code_put(cv, j, is_there ? v[i + j] : 0);
            g.v[j] = is_there ? to_f32(grad[i + j]) : 0.0f;
            x.v[j] = is_there ? master_load_one(w + i + j, low + i + j) : 0.0f;
        }
    }

    __device__ inline void store_weights(int64_t i, int64_t n, const Eight &x) const
    {
        if (i + EACH <= n) {
            master_store(w + i, low + i, x);
            return;
        }
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (i + j < n) master_store_one(w + i + j, low + i + j, x.v[j]);
    }

    __device__ inline void store_codes(int64_t i, int64_t n, const Codes &cm, const Codes &cv) const
    {
        if (i + EACH <= n) {
            *reinterpret_cast<Codes *>(m + i) = cm;
            *reinterpret_cast<Codes *>(v + i) = cv;
            return;
        }
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            if (i + j >= n) break;
            m[i + j] = (uint8_t)code_at(cm, j);
            v[i + j] = (uint8_t)code_at(cv, j);
        }
    }
};

template <typename W, typename G>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    adamw8_kernel(Arrays<W, G> arrays, float *m_max, float *v_max, const float *step, int64_t n,
                  const __grid_constant__ AdamwArgs a, const __grid_constant__ Maps maps)
{
    extern __shared__ __align__(16) char shared[];
    Tables *t = reinterpret_cast<Tables *>(shared);
    if (step[STEP_SKIP] != 0) return;
    fill_tables(t, maps);
    const Places p = places_of(t);
    int lane = threadIdx.x % WARP, r = 0;
    int64_t n_blocks = (n + STATES_BLOCK - 1) / STATES_BLOCK;
    int64_t b = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    Factors f = factors_of(a, r, step);
    for (; b < n_blocks; b += gridDim.x * (int64_t)WARPS) {
        int64_t i = b * STATES_BLOCK + lane * EACH;
        if (b * STATES_BLOCK >= a.ranges[r].end) {
            while (b * STATES_BLOCK >= a.ranges[r].end)
                r++;
            f = factors_of(a, r, step);
        }
        Eight x, g, m, v;
        Codes cm, cv;
        arrays.load(i, n, x, g, cm, cv);
        float m_scale = m_max[b], v_scale = v_max[b], m_most = 0, v_most = 0;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            m.v[j] = m_of_code(p, code_at(cm, j), m_scale);
            v.v[j] = v_of_code(p, code_at(cv, j), v_scale);
            update(f, &x.v[j], &m.v[j], &v.v[j], g.v[j]);
            m_most = fmaxf(m_most, fabsf(m.v[j]));
            v_most = fmaxf(v_most, v.v[j]);
        }
        arrays.store_weights(i, n, x);
        m_most = warp_max(m_most);
        v_most = warp_max(v_most);
        float m_inverse = reciprocal(m_most), v_inverse = reciprocal(v_most);
        cm = cv = make_uint2(0, 0);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            code_put(cm, j, code_of_m(p, m.v[j], m_inverse));
            code_put(cv, j, code_of_v(p, v.v[j], v_inverse));
        }
        arrays.store_codes(i, n, cm, cv);
        if (lane == 0) m_max[b] = m_most;
        if (lane == 1) v_max[b] = v_most;
    }
}

static void fill_maps(Maps *maps)
{
    float map[DYNAMIC_V_N];
    quant_dynamic_map(map, true);
    memcpy(maps->m, map + CODE_OF_ZERO, sizeof maps->m);
    quant_dynamic_map(maps->v, false);
    for (int i = 0; i < DYNAMIC_DECADES; i++) {
        maps->m_lines[i] = dynamic_line(i, DYNAMIC_M_CELLS);
        maps->v_lines[i] = dynamic_line(i, DYNAMIC_V_CELLS);
    }
}

template <typename W, typename G>
static void launch(Device *d, const Arrays<W, G> &arrays, AdamwStates *s, const Tensor *step,
                   int64_t n, const AdamwArgs *args)
{
    void (*kernel)(Arrays<W, G>, float *, float *, const float *, int64_t, AdamwArgs, Maps) =
        adamw8_kernel<W, G>;
    CUDA_CHECK(cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(Tables)));
    Maps maps;
    fill_maps(&maps);
    int64_t wanted = ceil_div(ceil_div(n, STATES_BLOCK), WARPS);
    int64_t fit = (int64_t)BLOCKS_PER_SM * cuda_impl(d)->n_sms;
    unsigned grid = (unsigned)(wanted < fit ? wanted : fit);
    kernel<<<grid, THREADS, sizeof(Tables), cuda_stream(d)>>>(
        arrays, (float *)tensor_data(&s->m_max), (float *)tensor_data(&s->v_max),
        (const float *)tensor_data(step), n, *args, maps);
    LAUNCHED();
}

void cuda_adamw8(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                 const Tensor *step, const AdamwArgs *args)
{
    int64_t n = tensor_numel(w), n_blocks = ceil_div(n, STATES_BLOCK);
    ASSERT(tensor_numel(&states->m_max) == n_blocks && tensor_numel(&states->v_max) == n_blocks,
           "adamw: there are %lld blocks", (long long)n_blocks);
    DISPATCH(w, W, {
        DISPATCH(grad, G, {
            Arrays<W, G> arrays = {(W *)tensor_data(w), low ? (int16_t *)tensor_data(low) : NULL,
                                   (uint8_t *)tensor_data(&states->m),
                                   (uint8_t *)tensor_data(&states->v),
                                   (const G *)tensor_data(grad)};
            launch(d, arrays, states, step, n, args);
        });
    });
}
