/* Products of a few rows straight from nf4 and fp4, on tensor cores.
 *
 * Two neighbours of a row are one byte of codes, and a table of 256 pairs gives the register of an mma's operand (16 rows of
 * the matrix by 16 columns; the other operand is x).  Reading the table is what a multiprocessor has to do most: a KiB of codes
 * is 32 loads of a warp, a cycle each, of some 60 in which the memory brings that KiB.  So everything else is kept off its way:
 *
 * A block of eight warps takes a group of 16 rows at a time, a warp an eighth of their columns, which come as quant_stream.cuh
 * says.
 *
 * Which k of the mma is which column does not matter as long as both operands agree: lane c = lane % 4 of row g = lane / 4 (and
 * of row g + 8) has columns 32 c to 32 c + 31 of a unit, four of them a step.  A unit has two stretches of 64 columns, each
 * with a scale: c = 0 and 1 have the first, 2 and 3 the second.  The mma's eight columns, of which one row of x needs one, keep
 * stretches apart: x of row t stands in column t * S + s only where the codes are of stretch s of S.  Sums are scaled once for
 * S stretches, each by the lane that has them: of one row of x eight stretches, a quad of units, wait in the eight columns.
 *
 * A norm before a product of one row whose x stays is made here, where a kernel of its own would take longer than its work: warps
 * multiply their x by the norm's weights, and whoever adds a group's sums divides by the root of the mean of all squares.  No
 * warp waits for another's x.
 *
 * Two such blocks fill a multiprocessor and stay.  Half of the ring is on its way before the kernel waits for those before it,
 * and half when it has asked for x: whatever is asked for behind codes waits until they have come. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quant_matvec.cuh"
#include "kernels/cuda/quant_stream.cuh"
#include "kernels/cuda/table.h"

enum { BLOCKS = 2, BUFFERS = 4 };

/* The table lies once for each lane, entry e of lane l in bank l, so that lookups never collide, and an entry takes 256
 * bytes, so that one permutation of bytes makes an offset of a code and a lane.  The halves of entries that this leaves free
 * hold the warps' sums. */
enum { ENTRIES = 256 };
typedef struct Entry {
    uint32_t pair[WARP];
    float sums[2][ROWS];
} Entry;
static_assert(sizeof(Entry) == 256, "a byte is an offset's");

/* In shared memory, at fixed places, so that a lookup's instruction has the table's as a constant. */
enum { ENTRIES_AT = 4608, RING_AT = ENTRIES_AT + ENTRIES * 256 };
enum { END = RING_AT + WARPS * RING_BYTES };

/* Rows of x, rounded up to N = 1, 2, 4 or 8; S stretches, PER units of them at once. */
template <int N> struct Way {
    enum { S = 8 / N, PER = S > 2 ? S / 2 : 1, SUMS = N == 8 ? 4 : 2 };
    enum { UNITS = PER > 1 ? 2 : 1 }; /* that are multiplied together, by the same x */
};
static_assert(BUFFERS * WARPS * 8 / 2 <= ENTRIES, "there is room for all sums");

/* ---- barriers ---------------------------------------------------------------------------------- */

/* Barriers that one side only arrives at. */
__device__ inline void barrier_init(uint64_t *b, int n)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(n) : "memory");
}
__device__ inline void barrier_arrive(uint64_t *b)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_at(b))
                 : "memory");
}
__device__ inline void barrier_wait(uint64_t *b, int time) /* the time-th, from 0 on */
{
    uint32_t done;
    do
#if __CUDA_ARCH__ >= 900 /* sleeps meanwhile */
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
#else
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
#endif
                     : "=r"(done)
                     : "r"(shared_at(b)), "r"(time & 1)
                     : "memory");
    while (!done);
}

/* ---- the table of pairs ------------------------------------------------------------------------- */

/* Where the entries are, of which a block is given `room` from behind its declared variables on. */
__device__ inline Entry *entries_in(char *room)
{
    const int skip = ENTRIES_AT - (int)shared_at(room);
    if (skip < 0) __trap();
    return (Entry *)(room + skip);
}

/* What a thread brings of the tables, asked for before all else: values of each part, and the two of an entry of part k. */
struct RawTables {
    float first[QUANT_MAX_PARTS], last[QUANT_MAX_PARTS];
    float pair[2];
};

__device__ inline void ask_tables(RawTables &raw, const QuantViews &q, int k)
{
#pragma unroll
    for (int i = 0; i < QUANT_MAX_PARTS; i++) {
        const int n = i >= q.n ? 0 : q.part[i].is_nested ? sizeof(QuantTables) / sizeof(float) : 16;
        raw.first[i] = (int)threadIdx.x < n ? q.part[i].tables[threadIdx.x] : 0;
        raw.last[i] = (int)threadIdx.x + THREADS < n ? q.part[i].tables[threadIdx.x + THREADS] : 0;
    }
    const float *code = q.part[k].tables; /* the first element of a pair is in the high nibble */
    raw.pair[0] = code[threadIdx.x >> 4];
    raw.pair[1] = code[threadIdx.x & 15];
}

/* A thread has the pair of the entry of its number.  All threads; ends with a barrier. */
__device__ inline void make_pairs(Entry *entries, uint32_t pair)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < WARP; i += 4) { /* four entries at a time, a quarter of one a lane */
        const uint32_t p = __shfl_sync(0xffffffff, pair, i + lane / 8);
        *(uint4 *)&entries[warp * WARP + i + lane / 8].pair[lane % 8 * 4] = make_uint4(p, p, p, p);
    }
    __syncthreads();
}
static_assert((int)ENTRIES == (int)THREADS, "a thread an entry");

__device__ inline void put_tables(QuantTables *to, Entry *entries, const RawTables &raw)
{
#pragma unroll
    for (int i = 0; i < QUANT_MAX_PARTS; i++) {
        float *f = (float *)&to[i];
        f[threadIdx.x] = raw.first[i];
        if (threadIdx.x + THREADS < sizeof(QuantTables) / sizeof(float))
            f[threadIdx.x + THREADS] = raw.last[i];
    }
    make_pairs(entries, pair_of_bf16(raw.pair[0], raw.pair[1]));
}

/* Makes the entries part k's if part `of` has other values.  All threads. */
__device__ inline void change_pairs(Entry *entries, const QuantTables *tables, int of, int k)
{
    bool other = threadIdx.x < 16 && tables[k].code[threadIdx.x] != tables[of].code[threadIdx.x];
    const float *code = tables[k].code;
    if (__syncthreads_or(other))
        make_pairs(entries, pair_of_bf16(code[threadIdx.x >> 4], code[threadIdx.x & 15]));
}

/* The pair of the byte-th byte of a word of codes; lane4 is 4 times the lane. */
__device__ inline uint32_t look_up(uint32_t word, int byte, uint32_t lane4)
{
    uint32_t offset = __byte_perm(word, lane4, 0x5504 | byte << 4), pair; /* byte * 256 + lane4 */
    asm volatile("ld.shared.b32 %0, [%1 + %2];" : "=r"(pair) : "r"(offset), "n"((int)ENTRIES_AT));
    return pair;
}

/* The codes of unit u of a pair in the lane's two rows.  N == 8: the mma's columns are rows of x, and no room is left to keep
 * the stretches apart, so that the lane has of each stretch the bytes 8 c to 8 c + 7. */
template <int N> __device__ inline void read_unit(uint4 (&code)[2], uint32_t from, int u)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t row = (from ^ u * 64) + 8 * h * LINE;
        if (N < 8) {
            code[h] = shared_load(row);
        } else {
            const uint2 first = shared_load_8(row), second = shared_load_8(row ^ 32);
            code[h] = make_uint4(first.x, first.y, second.x, second.y);
        }
    }
}

/* ---- products ----------------------------------------------------------------------------------- */

/* The second operand of PER units from `unit` on, `left` of which are there: a lane's 32 columns of one of them, or zeros. */
template <int N>
__device__ inline void load_x(uint4 (&xs)[4], const bf16 *x, int64_t ldx, int n, int unit, int left)
{
    enum { S = Way<N>::S };
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const int t = g / S, stretch = g % S; /* of this lane's column */
#pragma unroll
    for (int i = 0; i < 4; i++)
        xs[i] = make_uint4(0, 0, 0, 0);
    if (t >= n || stretch / 2 >= left || (N < 8 && stretch % 2 != c / 2)) return;
    const bf16 *from = x + t * ldx + (unit + stretch / 2) * UNIT;
#pragma unroll
    for (int i = 0; i < 4; i++) /* N == 8: columns 16 c to 16 c + 15 of both stretches */
        xs[i] = *(const uint4 *)(from + (N < 8 ? 32 * c + 8 * i : i / 2 * 64 + 16 * c + i % 2 * 8));
}

/* How x is normed first; w NULL: not at all. */
struct Norm {
    const bf16 *w;
    float eps;
};

/* The weights of what the lane sends of x. */
__device__ inline void ask_weights(Bits (&w)[X_CHUNKS], const Norm &norm, const Share &s)
{
#pragma unroll
    for (int i = 0; i < X_CHUNKS; i++)
        w[i] = norm.w && x_chunk(i) / 16 < s.units
                   ? bits_load(norm.w + s.unit0 * UNIT + x_chunk(i) * 8)
                   : bits_zero();
}

/* x, of which each lane's own copies have come, becomes x * w, rounded; squares [warp]: the sum of its share's. */
__device__ inline void weigh_x(uint32_t ring, const Bits (&w)[X_CHUNKS], const Share &s,
                               float *squares)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < X_CHUNKS; i++) {
        if (x_chunk(i) / 16 >= s.units) break;
        float x[8], weight[8];
        bits_to_f32(x, shared_load(x_at(ring, i)));
        bits_to_f32(weight, w[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum += x[j] * x[j];
            x[j] *= weight[j];
        }
        shared_store(x_at(ring, i), bits_from_f32(x));
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) squares[threadIdx.x / WARP] = sum;
}

/* 1 / rms of the row. */
__device__ inline float rstd_of(const float *squares, float eps, int cols)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++)
        sum += squares[i];
    return rsqrtf(sum / (float)cols + eps);
}

/* The same of a quad for one row of x, from where fetch_x put it. */
__device__ inline void read_x(uint4 (&xs)[4], uint32_t from, int left)
{
    const int lane = threadIdx.x % WARP, stretch = lane / 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
        xs[i] = make_uint4(0, 0, 0, 0);
    if (stretch / 2 >= left || stretch % 2 != lane % 4 / 2) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        xs[i] = shared_load(from ^ i * 16);
}

/* sum [unit] (16 x 8) += the codes of UNITS units times x; N == 8: of the first stretch, and `second` has the other's.  Sums
 * take turns, for an mma waits for the one before it that adds to the same, and a few lookups are ahead of each. */
template <int N, int UNITS>
__device__ inline void multiply(float (*sum)[4], float (&second)[4], const uint4 (*code)[2],
                                const uint4 (&xs)[4])
{
    enum { STEPS = 8 * UNITS, AHEAD = 2 * UNITS };
    const uint32_t lane4 = threadIdx.x % WARP * 4;
    uint32_t a[STEPS][4];
#pragma unroll
    for (int now = 0; now < STEPS + AHEAD; now++) {
        if (now < STEPS) {
            const int u = now % UNITS, i = N == 8 ? now % 2 * 4 + now / 2 : now / UNITS;
            const uint32_t upper[4] = {code[u][0].x, code[u][0].y, code[u][0].z, code[u][0].w};
            const uint32_t lower[4] = {code[u][1].x, code[u][1].y, code[u][1].z, code[u][1].w};
#pragma unroll
            for (int j = 0; j < 4; j++)
                a[now][j] = look_up(j % 2 ? lower[i / 2] : upper[i / 2], i % 2 * 2 + j / 2, lane4);
        }
        const int then = now - AHEAD;
        if (then < 0) continue;
        const int u = then % UNITS, i = N == 8 ? then % 2 * 4 + then / 2 : then / UNITS;
        const uint4 x = xs[i / 2];
        mma_add(N == 8 && i >= 4 ? second : sum[u], a[then], i % 2 ? x.z : x.x, i % 2 ? x.w : x.y);
    }
}

/* acc += what PER units gave, scaled.  `scale` [row][stretch] is of the c-th unit of the quad; units [u, u + PER) of it are
 * meant. */
template <int N>
__device__ inline void add_scaled(float (&acc)[Way<N>::SUMS], const float (&sum)[Way<N>::PER][4],
                                  const float (&second)[4], const float (&scale)[2][2], int u)
{
    enum { PER = Way<N>::PER };
    const int c = threadIdx.x % 4;
    float s[4]; /* of the unit that this lane's two columns are of */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        s[i] = sum[0][i];
#pragma unroll
        for (int p = 1; p < PER; p++)
            s[i] = c % PER == p ? sum[p][i] : s[i];
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float first = scale[h][0], next = scale[h][1];
        if (N > 1) {
            first = __shfl_sync(0xffffffff, first, u + c % PER, 4);
            next = __shfl_sync(0xffffffff, next, u + c % PER, 4);
        }
        if (N < 8) {
            acc[h] += first * s[2 * h] + next * s[2 * h + 1];
        } else {
#pragma unroll
            for (int t = 0; t < 2; t++)
                acc[(2 * h + t) % Way<N>::SUMS] += first * s[2 * h + t] + next * second[2 * h + t];
        }
    }
}

/* ---- sums of a group ---------------------------------------------------------------------------- */

/* 16 floats, a row each, of row t of x. */
__device__ inline float *sums_at(Entry *entries, int buffer, int warp, int t)
{
    return entries[(buffer * WARPS + warp) * 4 + t / 2].sums[t % 2];
}

template <int N>
__device__ inline void hand_in(Entry *entries, int buffer, float (&acc)[Way<N>::SUMS])
{
    enum { PER = Way<N>::PER };
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (N < 8) {
#pragma unroll
            for (int o = 1; o < PER; o *= 2)
                acc[h] += __shfl_xor_sync(0xffffffff, acc[h], o);
            if (c % PER == 0) sums_at(entries, buffer, warp, c / PER)[g + 8 * h] = acc[h];
        } else {
#pragma unroll
            for (int t = 0; t < 2; t++)
                sums_at(entries, buffer, warp, 2 * c + t)[g + 8 * h] =
                    acc[(2 * h + t) % Way<N>::SUMS];
        }
    }
}

/* Where y (n rows) and what is added to it (NULL: nothing) are. */
struct Out {
    bf16 *y;
    const bf16 *add;
    int64_t ldy, ld_add;
    int n;
};

__device__ inline float added(const Out &o, int t, int64_t row)
{
    return o.add && t < o.n ? __bfloat162float(o.add[t * o.ld_add + row]) : 0.0f;
}

/* A warp's: the sums of a group to y, when all have handed in theirs, and the squares of what is normed. */
template <int N>
__device__ inline void write_out(const Out &o, Entry *entries, int buffer, int64_t row0,
                                 uint64_t *summed, int time, const Norm &norm, const float *squares,
                                 int cols)
{
    const int lane = threadIdx.x % WARP, r = lane % ROWS, first = lane / ROWS;
    float was = added(o, first, row0 + r);
    barrier_wait(summed, time);
    const float factor = norm.w ? rstd_of(squares, norm.eps, cols) : 1.0f;
#pragma unroll
    for (int i = 0; i < N; i += WARP / ROWS) {
        const int t = first + i;
        if (t >= o.n) break;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += sums_at(entries, buffer, w, t)[r];
        sum = sum * factor + (t == first ? was : added(o, t, row0 + r));
        o.y[t * o.ldy + row0 + r] = __float2bfloat16_rn(sum);
    }
}

/* ---- the kernel --------------------------------------------------------------------------------- */

template <int N, bool NESTED>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    matvec_mma_kernel(Out o, const bf16 *x, int64_t ldx, Norm norm,
                      const __grid_constant__ QuantViews q)
{
    enum { PER = Way<N>::PER, UNITS = Way<N>::UNITS };
    extern __shared__ char room[];
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    __shared__ uint64_t summed[BUFFERS], written[BUFFERS];
    __shared__ float squares[WARPS];
    early_go();
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint32_t ring = RING_AT + warp * RING_BYTES;
    const Places places = places_of(ring, N == 8);
    const Share share = share_of(q);
    Reader reader = {};
    int k = part_of(q, blockIdx.x * ROWS), end = q.first[k + 1] / ROWS; /* of the part, in groups */
    RawTables raw_tables;
    ask_tables(raw_tables, q, k);
    Bits weights[X_CHUNKS];
    if (N == 1) ask_weights(weights, norm, share);
    seek(reader, share, q, blockIdx.x); /* there are no more blocks than groups */
    fetch_scales<NESTED>(reader, places);
    fetch_pair(reader, places, 0);
    copies_end();
    if (threadIdx.x < BUFFERS) {
        barrier_init(&summed[threadIdx.x], WARPS);
        barrier_init(&written[threadIdx.x], 1);
    }
    Entry *const entries = entries_in(room);
    put_tables(tables, entries, raw_tables);
    early_wait();
    const bool x_stays = N == 1 && share.units <= QUAD;
    bool x_comes = N == 1; /* with the next quad */
    if (x_comes) fetch_x(reader, share, x, ring);
    copies_end();
    fetch_pair(reader, places, 1);
    copies_end();
    advance(reader, share, q);
    if (N == 1 && norm.w) {
        copies_wait<1>();
        weigh_x(ring, weights, share, squares);
    }
    uint4 xs[4];
    for (int group = blockIdx.x, turn = 0; group < share.n_groups; group += gridDim.x, turn++) {
        if (group >= end) {
            const int was = k;
            k = part_of(q, group * ROWS);
            end = q.first[k + 1] / ROWS;
            change_pairs(entries, tables, was, k);
        }
        float acc[Way<N>::SUMS] = {};
        for (int left = share.units, unit = share.unit0; left > 0; left -= QUAD, unit += QUAD) {
            float scale[2][2], sum[PER][4], second[4];
#pragma unroll
            for (int i = 0; i < QUAD; i += 2) {
                uint4 code[2][2];
                copies_wait<1>();
                __syncwarp();
                if (i == 0) {
                    read_scales<NESTED>(scale, places, left, tables[k]);
                    if (x_comes) read_x(xs, places.x_from, left);
                    x_comes = N == 1 && !x_stays;
                }
#pragma unroll
                for (int u = 0; u < 2; u++)
                    read_unit<N>(code[u], places.code_from + i / 2 * PAIR_BYTES, u);
                __syncwarp(); /* the lanes have read: the slots are free */
#pragma unroll
                for (int u = i; u < i + 2; u += UNITS) {
                    if (u % PER == 0) {
                        if (N > 1) load_x<N>(xs, x, ldx, o.n, unit + u, left - u);
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            second[e] = 0;
                            for (int p = 0; p < PER; p++)
                                sum[p][e] = 0;
                        }
                    }
                    if (u == (N == 1 ? i : i + 2 - UNITS)) { /* nothing is asked for behind these */
                        if (i == 0) fetch_scales<NESTED>(reader, places);
                        if (i == 0 && x_comes) fetch_x(reader, share, x, ring);
                        fetch_pair(reader, places, i / 2);
                        copies_end();
                    }
                    if (i == 0 || i < left)
                        multiply<N, UNITS>(&sum[u % PER], second, &code[u % 2], xs);
                    if ((u + UNITS) % PER == 0)
                        add_scaled<N>(acc, sum, second, scale, u + UNITS - PER);
                }
            }
            advance(reader, share, q);
        }
        /* A buffer is written again when its last sums were read. */
        const int buffer = turn % BUFFERS, time = turn / BUFFERS;
        if (time > 0) barrier_wait(&written[buffer], time - 1);
        hand_in<N>(entries, buffer, acc);
        __syncwarp();
        if (lane == 0) barrier_arrive(&summed[buffer]);
        if (turn % WARPS == warp) {
            write_out<N>(o, entries, buffer, (int64_t)group * ROWS, &summed[buffer], time, norm,
                         squares, (int)q.part[0].cols);
            __syncwarp();
            if (lane == 0) barrier_arrive(&written[buffer]);
        }
    }
    copies_wait<0>();
}

/* ---- launching ---------------------------------------------------------------------------------- */

template <int N, bool NESTED> static void launch(Device *d, const Matvec *m)
{
    const void *kernel = (const void *)matvec_mma_kernel<N, NESTED>;
    cudaFuncAttributes own;
    CUDA_CHECK(cudaFuncGetAttributes(&own, kernel));
    const size_t shared = END - own.sharedSizeBytes;
    CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    Out o = {(bf16 *)tensor_data(&m->y), matvec_add<bf16>(m), m->y.ld, m->add.ld, matvec_n(m)};
    Norm norm = {};
    if (m->norm) norm = {(const bf16 *)tensor_data(m->norm->w), m->norm->eps};
    int64_t groups = m->q.first[m->n_parts] / ROWS, most = BLOCKS * cuda_impl(d)->n_sms;
    launch_early(d, matvec_mma_kernel<N, NESTED>, (unsigned)(groups < most ? groups : most),
                 THREADS, shared, o, (const bf16 *)tensor_data(&m->x), m->x.ld, norm, m->q);
}

bool matvec_mma_fits(const Device *d, const Matvec *m)
{
    const CudaImpl *impl = cuda_impl(d);
    bool fits = m->x.dtype == DT_BF16 && impl->cc >= 80 && impl->most_shared >= END &&
                m->x.ld % 8 == 0 && (uintptr_t)tensor_data(&m->x) % 16 == 0;
    for (int i = 0; i < m->n_parts; i++) {
        const QuantPart *q = &m->parts[i];
        fits &= quant_is_4bit(q->type) && q->block == 64 && q->rows % ROWS == 0 &&
                q->cols % (2 * UNIT) == 0 && quant_numel(q) < INT32_MAX;
    }
    return fits;
}

bool matvec_mma_norms(const Device *d, const Matvec *m, const NormBefore *norm)
{
    return matvec_n(m) == 1 && m->parts[0].cols <= WARPS * QUAD * UNIT &&
           vectors_fit<bf16>(norm->w) && matvec_mma_fits(d, m);
}

template <bool NESTED> static void by_rows(Device *d, const Matvec *m)
{
    const int n = matvec_n(m);
    if (n == 1)
        launch<1, NESTED>(d, m);
    else if (n == 2)
        launch<2, NESTED>(d, m);
    else if (n <= 4)
        launch<4, NESTED>(d, m);
    else
        launch<8, NESTED>(d, m);
}

void matvec_mma(Device *d, const Matvec *m)
{
    if (m->parts[0].nested)
        by_rows<true>(d, m);
    else
        by_rows<false>(d, m);
}
