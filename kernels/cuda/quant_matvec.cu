/* Products of a few rows (decoding) straight from 4 or 8 bits: the weights are read once, in their packed form, and never
 * written.
 *
 * nf4 and fp4 in bf16 go through the tensor cores: two neighbours of a row are one byte of codes, and a table of 256
 * pairs gives the register of an mma's operand.  The rest takes a warp a row. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

/* ---- a warp a row ------------------------------------------------------------------------------- */

enum { THREADS = 256, WARPS = THREADS / WARP };

template <typename T> __device__ inline void read8(float out[8], const T *x)
{
#pragma unroll
    for (int i = 0; i < 8; i += Vec<T>::N) {
        float part[Vec<T>::N];
        bits_to_f32(part, bits_load(x + i));
#pragma unroll
        for (int j = 0; j < Vec<T>::N; j++)
            out[i + j] = part[j];
    }
}

/* n <= N rows of x. */
template <typename T, QuantType TYPE, int N, bool EIGHTS>
__global__ void __launch_bounds__(THREADS)
    matvec_kernel(T *y, int64_t ldy, const T *add, int64_t ld_add, const T *x, int64_t ldx, int n,
                  const __grid_constant__ QuantViews q)
{
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    early_go();
    load_tables<TYPE>(tables, q);
    early_wait();
    int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= q.first[q.n]) return;
    int k = part_of(q, row);
    const QuantView &v = q.part[k];
    int64_t own = row - q.first[k];
    float sum[N] = {};
    if (EIGHTS) {
#pragma unroll 4
        for (int64_t col = 8 * lane; col < v.cols; col += 8 * WARP) {
            float w[8];
            float scale = raw8<TYPE>(w, load8<TYPE>(v, own, col), v, tables[k], own, col);
#pragma unroll
            for (int t = 0; t < N; t++) {
                if (t >= n) break;
                float xs[8], dot = 0;
                read8<T>(xs, x + t * ldx + col);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    dot += xs[i] * w[i];
                sum[t] += scaled<TYPE>(dot, scale);
            }
        }
    } else {
        for (int64_t col = lane; col < v.cols; col += WARP) {
            float w = value_at<TYPE>(v, tables[k], own, col);
#pragma unroll
            for (int t = 0; t < N; t++)
                if (t < n) sum[t] += to_f32(x[t * ldx + col]) * w;
        }
    }
#pragma unroll
    for (int t = 0; t < N; t++) {
        float s = warp_sum(sum[t]);
        if (lane != 0 || t >= n) continue;
        if (add) s += to_f32(add[t * ld_add + row]);
        y[t * ldy + row] = from_f32<T>(s);
    }
}

/* What all forms are given. */
struct Matvec {
    Tensor y, add, x; /* add without storage: nothing is added */
    const QuantPart *parts;
    int n_parts;
    QuantViews q;

    int n() const
    {
        return (int)tensor_rows(&x);
    }
};

template <typename T> static const T *add_of(const Matvec &m)
{
    return m.add.storage ? (const T *)tensor_data(&m.add) : NULL;
}

template <typename T, int N> static void matvec(Device *d, const Matvec &m)
{
    unsigned grid = (unsigned)ceil_div(m.q.first[m.n_parts], WARPS);
    bool eights = vectors_fit<T>(&m.x);
    for (int i = 0; i < m.n_parts; i++)
        eights &= codes_in_eights(&m.parts[i]);
    T *to = (T *)tensor_data(&m.y);
    const T *from = (const T *)tensor_data(&m.x), *add = add_of<T>(m);
    DISPATCH_QUANT(m.parts, TYPE, {
        if (eights)
            launch_early(d, matvec_kernel<T, TYPE, N, true>, grid, THREADS, 0, to, m.y.ld, add,
                         m.add.ld, from, m.x.ld, m.n(), m.q);
        else
            launch_early(d, matvec_kernel<T, TYPE, N, false>, grid, THREADS, 0, to, m.y.ld, add,
                         m.add.ld, from, m.x.ld, m.n(), m.q);
    });
}

/* ---- nf4 and fp4 on tensor cores ---------------------------------------------------------------- */

/* A block of threads takes a group of 16 rows at a time, its warps every sixteenth stretch of 64 columns, two stretches a
 * step.  In a warp g = lane / 4 names two rows (g and g + 8) and a row of x, c = lane % 4 sixteen of the 64 columns.
 * Which k of the mma is which column does not matter as long as both operands agree: step s of four has the bytes 2 s
 * and 2 s + 1 of c's eight, and the x that belong to them.  The table of pairs lies once for each lane, entry e of lane l
 * in bank l, so that lookups never collide.
 *
 * Two such blocks fill a multiprocessor and stay: the table is made once, and the codes of the next step, be it another
 * group's, are on their way while this one's are multiplied. */
enum { MMA_THREADS = 512, MMA_WARPS = MMA_THREADS / WARP, MMA_BLOCKS = 2, MMA_ROWS = 16 };
enum { MMA_COLS = 64, PAIRS = 256, STEP = 2, MMA_MOST_N = 8 };

__device__ inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two rows of a stretch, as a lane has them. */
struct Stretch {
    uint2 code[2];
    RawScale scale[2];
};

/* Where a block is: a group of rows, and a step of its columns. */
struct Place {
    int group, step;
};

__device__ inline int stretch_of(Place at, int i)
{
    return (at.step * STEP + i) * MMA_WARPS + threadIdx.x / WARP;
}

__device__ inline void fetch(Stretch (&s)[STEP], const QuantViews &q, Place at, int n_stretches)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    int row0 = at.group * MMA_ROWS, k = part_of(q, row0);
    const QuantView &v = q.part[k];
    row0 -= q.first[k];
#pragma unroll
    for (int i = 0; i < STEP; i++) {
        int stretch = stretch_of(at, i);
        s[i] = {};
        if (stretch >= n_stretches) continue;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int first = (row0 + g + 8 * r) * (int)v.cols + stretch * MMA_COLS;
            s[i].code[r] = *(const uint2 *)(v.codes + (first + 16 * c) / 2);
            s[i].scale[r] = scale_read(v, first >> v.shift);
        }
    }
}

/* part (16 x 8) = a stretch's codes times n rows of x. */
__device__ inline void multiply(float part[4], const Stretch &s, const uint32_t *pairs,
                                const bf16 *x, int64_t ldx, int n, int col0)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    uint4 xs[2] = {};
    if (g < n) {
        const bf16 *from = x + g * ldx + col0 + 16 * c;
        xs[0] = *(const uint4 *)from;
        xs[1] = *(const uint4 *)(from + 8);
    }
    const uint32_t xw[8] = {xs[0].x, xs[0].y, xs[0].z, xs[0].w, xs[1].x, xs[1].y, xs[1].z, xs[1].w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t upper = i < 2 ? s.code[0].x : s.code[0].y;
        uint32_t lower = i < 2 ? s.code[1].x : s.code[1].y;
        const int shift = i % 2 * 16;
        uint32_t a[4] = {
            pairs[(upper >> shift & 255) * WARP + lane],
            pairs[(lower >> shift & 255) * WARP + lane],
            pairs[(upper >> (shift + 8) & 255) * WARP + lane],
            pairs[(lower >> (shift + 8) & 255) * WARP + lane],
        };
        uint32_t b[2] = {xw[2 * i], xw[2 * i + 1]};
        mma_bf16(part, a, b);
    }
}

/* The first element of a pair is in the high nibble.  All threads; ends with a barrier. */
__device__ inline void make_pairs(uint32_t *pairs, const QuantTables &t)
{
    int lane = threadIdx.x % WARP;
    for (int e = threadIdx.x / WARP; e < PAIRS; e += MMA_WARPS)
        pairs[e * WARP + lane] = pair_of_bf16(t.code[e >> 4], t.code[e & 15]);
    __syncthreads();
}

/* The warps' sums of a group, [warp][row of x][row], to y. */
__device__ inline void finish(float *sums, const float acc[4], bf16 *y, int64_t ldy,
                              const bf16 *add, int64_t ld_add, int n, int64_t row0)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    float *mine = sums + threadIdx.x / WARP * (MMA_MOST_N * MMA_ROWS);
    mine[2 * c * MMA_ROWS + g] = acc[0], mine[(2 * c + 1) * MMA_ROWS + g] = acc[1];
    mine[2 * c * MMA_ROWS + g + 8] = acc[2], mine[(2 * c + 1) * MMA_ROWS + g + 8] = acc[3];
    __syncthreads();
    int r = threadIdx.x % MMA_ROWS, t = threadIdx.x / MMA_ROWS;
    if (t < n) {
        float sum = 0;
        for (int w = 0; w < MMA_WARPS; w++)
            sum += sums[w * (MMA_MOST_N * MMA_ROWS) + t * MMA_ROWS + r];
        if (add) sum += __bfloat162float(add[t * ld_add + row0 + r]);
        y[t * ldy + row0 + r] = __float2bfloat16_rn(sum);
    }
    __syncthreads(); /* before the next group's sums */
}

__global__ void __launch_bounds__(MMA_THREADS, MMA_BLOCKS)
    matvec_mma_kernel(bf16 *y, int64_t ldy, const bf16 *add, int64_t ld_add, const bf16 *x,
                      int64_t ldx, int n, const __grid_constant__ QuantViews q)
{
    extern __shared__ uint32_t pairs[]; /* [PAIRS][WARP], then the sums */
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    float *sums = (float *)(pairs + PAIRS * WARP);
    const int n_groups = q.first[q.n] / MMA_ROWS, n_stretches = (int)(q.part[0].cols / MMA_COLS);
    const int n_steps = (n_stretches + STEP * MMA_WARPS - 1) / (STEP * MMA_WARPS);
    early_go();
    Place next = {(int)blockIdx.x, 0}; /* there are no more blocks than groups */
    Stretch coming[STEP];
    fetch(coming, q, next, n_stretches);
    load_tables<QUANT_NF4>(tables, q);
    int table_of = part_of(q, next.group * MMA_ROWS); /* whose values `pairs` is made of */
    make_pairs(pairs, tables[table_of]);
    early_wait();
    float acc[4] = {};
    while (next.group < n_groups) {
        const Place at = next;
        Stretch now[STEP];
#pragma unroll
        for (int i = 0; i < STEP; i++)
            now[i] = coming[i];
        if (++next.step == n_steps) next.step = 0, next.group += gridDim.x;
        if (next.group < n_groups) fetch(coming, q, next, n_stretches);
        const int64_t row0 = at.group * MMA_ROWS;
        const int k = part_of(q, row0);
        if (k != table_of) {
            bool other = threadIdx.x < 16 &&
                         tables[k].code[threadIdx.x] != tables[table_of].code[threadIdx.x];
            if (__syncthreads_or(other)) make_pairs(pairs, tables[k]);
            table_of = k;
        }
#pragma unroll
        for (int i = 0; i < STEP; i++) {
            int stretch = stretch_of(at, i);
            if (stretch >= n_stretches) break;
            float part[4] = {};
            multiply(part, now[i], pairs, x, ldx, n, stretch * MMA_COLS);
            float upper = scale_value(tables[k], q.part[k].is_nested, now[i].scale[0]);
            float lower = scale_value(tables[k], q.part[k].is_nested, now[i].scale[1]);
            acc[0] += upper * part[0], acc[1] += upper * part[1];
            acc[2] += lower * part[2], acc[3] += lower * part[3];
        }
        if (next.step != 0) continue;
        finish(sums, acc, y, ldy, add, ld_add, n, row0);
        acc[0] = acc[1] = acc[2] = acc[3] = 0;
    }
}

static bool mma_fits(const Device *d, const Matvec &m)
{
    bool fits = m.x.dtype == DT_BF16 && cuda_impl(d)->cc >= 80 && m.x.ld % 8 == 0 &&
                (uintptr_t)tensor_data(&m.x) % 16 == 0;
    for (int i = 0; i < m.n_parts; i++) {
        const QuantPart *q = &m.parts[i];
        fits &= quant_is_4bit(q->type) && q->rows % MMA_ROWS == 0 && q->cols % MMA_COLS == 0 &&
                shift_of(q) >= 6 && quant_numel(q) < INT32_MAX;
    }
    return fits;
}

static void matvec_mma(Device *d, const Matvec &m)
{
    const size_t shared = (PAIRS * WARP + MMA_WARPS * MMA_ROWS * MMA_MOST_N) * 4;
    int64_t groups = m.q.first[m.n_parts] / MMA_ROWS, most = MMA_BLOCKS * cuda_impl(d)->n_sms;
    launch_early(d, matvec_mma_kernel, (unsigned)(groups < most ? groups : most), MMA_THREADS,
                 shared, (bf16 *)tensor_data(&m.y), m.y.ld, add_of<bf16>(m), m.add.ld,
                 (const bf16 *)tensor_data(&m.x), m.x.ld, m.n(), m.q);
}

/* ---- parts that are encoded alike --------------------------------------------------------------- */

static void matvec_alike(Device *d, const Matvec &m)
{
    if (m.n() == 0 || m.q.first[m.n_parts] == 0) return;
    if (mma_fits(d, m)) {
        matvec_mma(d, m);
        return;
    }
    DISPATCH(&m.x, T, {
        if (m.n() == 1)
            matvec<T, 1>(d, m);
        else if (m.n() <= 4)
            matvec<T, 4>(d, m);
        else
            matvec<T, QUANT_MATVEC_ROWS>(d, m);
    });
}

void cuda_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                       const Tensor *packed, const QuantPart *parts, int n_parts)
{
    int64_t n = tensor_rows(x), row0 = 0;
    ASSERT(n <= QUANT_MATVEC_ROWS && tensor_rows(y) == n, "quant_matvec: %lld rows", (long long)n);
    for (int i = 0, k; i < n_parts; i += k) {
        k = quant_alike(parts + i, n_parts - i);
        ASSERT(tensor_cols(x) == parts[i].cols, "quant_matvec: shapes differ");
        Matvec m = {};
        m.parts = parts + i;
        m.n_parts = k;
        m.q = quant_views(packed, parts + i, k);
        m.x = *x;
        m.y = tensor_slice_cols(y, row0, m.q.first[k]);
        if (add) m.add = tensor_slice_cols(add, row0, m.q.first[k]);
        matvec_alike(d, m);
        row0 += m.q.first[k];
    }
    ASSERT(row0 == tensor_cols(y), "quant_matvec: shapes differ");
}
