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

/* A block of threads takes a group of 16 rows at a time, its warps every sixteenth pair of stretches of 64 columns, a pair
 * a step.  In a warp g = lane / 4 names two rows (g and g + 8) and a row of x, c = lane % 4 sixteen of the 64 columns.
 * Which k of the mma is which column does not matter as long as both operands agree: step s of four has the bytes 2 s
 * and 2 s + 1 of c's eight, and the x that belong to them.  A pair of stretches has 32 scales of 64 weights: each lane reads
 * and decodes one, and the others ask it.
 *
 * The table of pairs lies at a fixed place of shared memory, behind what is declared, so that a lookup's instruction has
 * it as a constant.  It lies once for each lane, entry e of lane l in bank l, so that lookups never collide, and an entry
 * takes 256 bytes, so that one permutation of bytes makes an offset of a code and a lane.  The halves of entries that
 * this leaves free hold the warps' sums.
 *
 * Two such blocks fill a multiprocessor and stay: the table is made once, and the codes of the next steps, be they another
 * group's, are on their way while this one's are multiplied. */
enum { MMA_THREADS = 512, MMA_WARPS = MMA_THREADS / WARP, MMA_BLOCKS = 2, MMA_ROWS = 16 };
enum { MMA_COLS = 64, PAIRS = 256, STEP = 2, AHEAD = 2, MMA_MOST_N = 8 };
enum { STEP_COLS = STEP * MMA_COLS }; /* of a warp */
enum { ENTRIES_AT = 8192 };           /* in shared memory */

typedef struct Entry {
    uint32_t pair[WARP];
    float sum[WARP];
} Entry;

/* Two buffers of sums, used in turn, of [warp][row of x][row]. */
static_assert(2 * MMA_WARPS * MMA_MOST_N * MMA_ROWS <= PAIRS * WARP, "the sums lie in the entries");
static_assert(sizeof(Entry) == 256 && STEP * MMA_ROWS == WARP,
              "a byte is an offset's; a scale a lane");

__device__ inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* What a lane has of a step: two rows of each stretch, and one scale. */
struct Fetched {
    uint2 code[STEP][2];
    RawScale scale;
};

/* Where a block is: a group of rows, and a step of its columns. */
struct Place {
    int group, step;
};

__device__ inline int first_stretch(int step)
{
    return (step * MMA_WARPS + (int)threadIdx.x / WARP) * STEP;
}

/* What is to be read next, as a lane sees it. */
struct Reader {
    Place at;
    int part;
    const uint8_t *codes;
    uint32_t scaled; /* an element of the part that the lane's scale is of */
};

__device__ inline void reader_seek(Reader &r, const QuantViews &q, int group)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const uint32_t col = first_stretch(0) * MMA_COLS;
    r.at = {group, 0};
    r.part = part_of(q, group * MMA_ROWS);
    const QuantView &v = q.part[r.part];
    const uint32_t row = group * MMA_ROWS - q.first[r.part], cols = (uint32_t)v.cols;
    r.codes = v.codes + ((row + g) * cols + col + 16 * c) / 2;
    r.scaled = (row + lane % MMA_ROWS) * cols + col + lane / MMA_ROWS * MMA_COLS;
}

/* Reads a step, of which nothing may be there, and goes on to the next. */
__device__ inline void fetch(Fetched &f, Reader &r, const QuantViews &q, int n_groups,
                             int n_stretches, int n_steps)
{
    if (r.at.group >= n_groups) return;
    const QuantView &v = q.part[r.part];
    const int lane = threadIdx.x % WARP, stretch = first_stretch(r.at.step);
    const uint32_t lower = 8 / 2 * (uint32_t)v.cols; /* bytes to the other row */
#pragma unroll
    for (int i = 0; i < STEP; i++) {
        if (stretch + i >= n_stretches) break;
        f.code[i][0] = __ldcs((const uint2 *)(r.codes + i * (MMA_COLS / 2)));
        f.code[i][1] = __ldcs((const uint2 *)(r.codes + lower + i * (MMA_COLS / 2)));
    }
    f.scale = {};
    if (stretch + lane / MMA_ROWS < n_stretches) f.scale = scale_read(v, r.scaled >> v.shift);
    r.codes += MMA_WARPS * STEP_COLS / 2;
    r.scaled += MMA_WARPS * STEP_COLS;
    if (++r.at.step == n_steps) reader_seek(r, q, r.at.group + gridDim.x);
}

/* Where the entries are, of which a block is given `room` from behind its declared variables on. */
__device__ inline Entry *entries_in(char *room)
{
    const int skip = ENTRIES_AT - (int)__cvta_generic_to_shared(room);
    if (skip < 0) __trap();
    return (Entry *)(room + skip);
}

/* The pair of the byte-th byte of a word of codes; lane4 is 4 times the lane. */
__device__ inline uint32_t look_up(uint32_t word, int byte, uint32_t lane4)
{
    uint32_t offset = __byte_perm(word, lane4, 0x5504 | byte << 4), pair; /* byte * 256 + lane4 */
    asm volatile("ld.shared.b32 %0, [%1 + %2];" : "=r"(pair) : "r"(offset), "n"((int)ENTRIES_AT));
    return pair;
}

/* part (16 x 8) = a stretch's codes times n rows of x; the lane's own are at x. */
__device__ inline void multiply(float part[4], const uint2 code[2], const bf16 *x, bool has_row)
{
    const uint32_t lane4 = threadIdx.x % WARP * 4;
    uint4 xs[2] = {};
    if (has_row) {
        xs[0] = *(const uint4 *)x;
        xs[1] = *(const uint4 *)(x + 8);
    }
    const uint32_t xw[8] = {xs[0].x, xs[0].y, xs[0].z, xs[0].w, xs[1].x, xs[1].y, xs[1].z, xs[1].w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t upper = i < 2 ? code[0].x : code[0].y;
        const uint32_t lower = i < 2 ? code[1].x : code[1].y;
        const int byte = i % 2 * 2;
        const uint32_t a[4] = {
            look_up(upper, byte, lane4),
            look_up(lower, byte, lane4),
            look_up(upper, byte + 1, lane4),
            look_up(lower, byte + 1, lane4),
        };
        const uint32_t b[2] = {xw[2 * i], xw[2 * i + 1]};
        mma_bf16(part, a, b);
    }
}

/* acc += a step of a group, from `stretch` on; the lane's own of x are at x, has_row is false beyond its last row. */
__device__ inline void add_step(float acc[4], const Fetched &f, const QuantTables &t,
                                bool is_nested, const bf16 *x, bool has_row, int stretch,
                                int n_stretches)
{
    const int g = threadIdx.x % WARP / 4;
    const float scale = scale_value(t, is_nested, f.scale);
#pragma unroll
    for (int i = 0; i < STEP; i++) {
        if (stretch + i >= n_stretches) break;
        float part[4] = {};
        multiply(part, f.code[i], x + i * MMA_COLS, has_row);
        float upper = __shfl_sync(0xffffffff, scale, i * MMA_ROWS + g);
        float lower = __shfl_sync(0xffffffff, scale, i * MMA_ROWS + g + 8);
        acc[0] += upper * part[0], acc[1] += upper * part[1];
        acc[2] += lower * part[2], acc[3] += lower * part[3];
    }
}

/* The first element of a pair is in the high nibble.  All threads; ends with a barrier. */
__device__ inline void make_pairs(Entry *entries, const QuantTables &t)
{
    int lane = threadIdx.x % WARP;
    for (int e = threadIdx.x / WARP; e < PAIRS; e += MMA_WARPS)
        entries[e].pair[lane] = pair_of_bf16(t.code[e >> 4], t.code[e & 15]);
    __syncthreads();
}

/* Makes the entries part k's if they are another's with other values.  All threads. */
__device__ inline void change_pairs(Entry *entries, const QuantTables *tables, int &of, int k)
{
    if (k == of) return;
    bool other = threadIdx.x < 16 && tables[k].code[threadIdx.x] != tables[of].code[threadIdx.x];
    if (__syncthreads_or(other)) make_pairs(entries, tables[k]);
    of = k;
}

/* A warp's sum of row t of x and a row of the group.  Two rows of x share an entry, turned by 8 banks from one entry to
 * the next, so that the lanes of a warp, which write four entries, do not collide. */
__device__ inline float *sum_at(Entry *entries, int buffer, int warp, int t, int row)
{
    Entry *e = entries + (buffer * MMA_WARPS + warp) * (MMA_MOST_N / 2) + t / 2;
    return &e->sum[(t % 2 * MMA_ROWS + row + t / 2 * 8) % WARP];
}

/* The warps' sums of a group to y.  One barrier: whoever writes a buffer again has passed the next group's, which those
 * who still read it have not reached. */
__device__ inline void finish(Entry *entries, int buffer, const float acc[4], bf16 *y, int64_t ldy,
                              const bf16 *add, int64_t ld_add, int n, int64_t row0)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    if (2 * c < n) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            *sum_at(entries, buffer, warp, 2 * c + i % 2, g + i / 2 * 8) = acc[i];
    }
    __syncthreads();
    int r = threadIdx.x % MMA_ROWS, t = threadIdx.x / MMA_ROWS;
    if (t < n) {
        float sum = 0;
        for (int w = 0; w < MMA_WARPS; w++)
            sum += *sum_at(entries, buffer, w, t, r);
        if (add) sum += __bfloat162float(add[t * ld_add + row0 + r]);
        y[t * ldy + row0 + r] = __float2bfloat16_rn(sum);
    }
}

__global__ void __launch_bounds__(MMA_THREADS, MMA_BLOCKS)
    matvec_mma_kernel(bf16 *y, int64_t ldy, const bf16 *add, int64_t ld_add, const bf16 *x,
                      int64_t ldx, int n, const __grid_constant__ QuantViews q)
{
    extern __shared__ char room[];
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    const int n_groups = q.first[q.n] / MMA_ROWS, n_stretches = (int)(q.part[0].cols / MMA_COLS);
    const int n_steps = (n_stretches + STEP * MMA_WARPS - 1) / (STEP * MMA_WARPS);
    const int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    Entry *const entries = entries_in(room);
    const uint32_t mine = g * (uint32_t)ldx + 16 * c + first_stretch(0) * MMA_COLS;
    early_go();
    Place at = {(int)blockIdx.x, 0}; /* there are no more blocks than groups */
    Reader reader;
    reader_seek(reader, q, at.group);
    Fetched coming[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        fetch(coming[i], reader, q, n_groups, n_stretches, n_steps);
    load_tables<QUANT_NF4>(tables, q);
    int k = part_of(q, at.group * MMA_ROWS), pairs_of = k, buffer = 0;
    make_pairs(entries, tables[k]);
    early_wait();
    float acc[4] = {};
    /* A step out of what was fetched, which makes room for a later one; whether there is another. */
    auto step = [&](Fetched & f) __attribute__((always_inline))
    {
        add_step(acc, f, tables[k], q.part[k].is_nested,
                 x + (mine + at.step * (MMA_WARPS * STEP_COLS)), g < n, first_stretch(at.step),
                 n_stretches);
        fetch(f, reader, q, n_groups, n_stretches, n_steps);
        if (++at.step < n_steps) return true;
        finish(entries, buffer, acc, y, ldy, add, ld_add, n, (int64_t)at.group * MMA_ROWS);
        at = {at.group + (int)gridDim.x, 0};
        if (at.group >= n_groups) return false;
        acc[0] = acc[1] = acc[2] = acc[3] = 0;
        buffer ^= 1;
        k = part_of(q, at.group * MMA_ROWS);
        change_pairs(entries, tables, pairs_of, k);
        return true;
    };
    while (step(coming[0]) && step(coming[1])) {
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
    const size_t shared = ENTRIES_AT + PAIRS * sizeof(Entry); /* more than what is left of it */
    CUDA_CHECK(cudaFuncSetAttribute((const void *)matvec_mma_kernel,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
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
