/* Products of a few rows straight from codes of any type, on tensor cores: what dequantize would write is made in registers, in
 * the layout of an mma's operand (16 rows of the matrix by 16 columns; the other operand is x, a column for each of its rows).
 *
 * Which k of the mma is which column does not matter as long as both operands agree: lane c = lane % 4 of row g = lane / 4 (and
 * of row g + 8) has eight neighbours, four of them a step, and of x's row g the same eight.
 *
 * A block has 16 rows, each of its warps every eighth stretch of their columns; the warps' sums are added in their order.  One row of
 * x is left to quant_matvec.cu, which is faster where a code is used once. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quant_matvec.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, WARPS = THREADS / WARP, ROWS = 16, COLUMNS = 8 /* of an mma: rows of x */ };
enum {
    EIGHTS = 4 /* of a lane, on their way at a time */,
    CHUNK = 32 /* columns: an eight of four lanes */
};
enum { STRETCH = EIGHTS * CHUNK };

/* A lane's codes of a stretch, in its two rows. */
template <QuantType TYPE> struct Codes {
    typename Codes8<TYPE>::Word w[2][EIGHTS];
    RawScale s[2][EIGHTS];
};

/* row: the block's first in the part; column: the stretch's first; where it is short, its first eight stands for the rest. */
template <QuantType TYPE>
__device__ static inline void codes_ask(Codes<TYPE> *x, const QuantView &v, uint32_t row,
                                        uint32_t column)
{
    const uint32_t per_row = (uint32_t)v.cols / 8, g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            const uint32_t at = column + e * CHUNK < v.cols ? column + e * CHUNK : column;
            const uint32_t mine = row + g + 8 * h, own = at / 8 + c;
            x->w[h][e] = codes8<TYPE>(v, mine * per_row + own);
            x->s[h][e] = scale8_read<TYPE>(v, mine, own, mine * per_row + own);
        }
}

/* The e-th eight's values of a row, two in a register, rounded as dequantize rounds them. */
template <QuantType TYPE>
__device__ static inline Bits values(const Codes<TYPE> &x, int h, int e, const AlignedTables &t,
                                     bool is_nested)
{
    float w[8];
    const float scale = raw8<TYPE>(w, x.w[h][e], x.s[h][e], t, is_nested);
#pragma unroll
    for (int j = 0; j < 8; j++)
        w[j] = scaled<TYPE>(w[j], scale);
    return bits_from_f32(w);
}

template <QuantType TYPE>
__device__ static inline void stretch_add(float (&acc)[4], const Codes<TYPE> &codes, const bf16 *x,
                                          int64_t ldx, int n, uint32_t column, uint32_t cols,
                                          const AlignedTables &t, bool is_nested)
{
    const int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    const bf16 *from = x + g * ldx + column + c * 8;
    Bits b[EIGHTS];
#pragma unroll
    for (int e = 0; e < EIGHTS; e++)
        b[e] = g < n && column + e * CHUNK < cols ? bits_load(from + e * CHUNK) : bits_zero();
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) { /* what is not there is multiplied by zeros */
        const Bits low = values(codes, 0, e, t, is_nested),
                   high = values(codes, 1, e, t, is_nested);
        mma_add(acc, {low.x, high.x, low.y, high.y}, b[e].x, b[e].y);
        mma_add(acc, {low.z, high.z, low.w, high.w}, b[e].z, b[e].w);
    }
}

/* n <= COLUMNS rows of x. */
template <QuantType TYPE>
__global__ void __launch_bounds__(THREADS)
    matvec_tiles_kernel(bf16 *y, int64_t ldy, const bf16 *add, int64_t ld_add, const bf16 *x,
                        int64_t ldx, int n, const __grid_constant__ QuantViews q)
{
    __shared__ AlignedTables tables[QUANT_MAX_PARTS];
    __shared__ float sums[WARPS][ROWS][COLUMNS];
    early_go();
    const int row0 = (int)blockIdx.x * ROWS, part = part_of(q, row0), warp = threadIdx.x / WARP;
    const QuantView &v = q.part[part];
    const uint32_t row = (uint32_t)(row0 - q.first[part]), cols = (uint32_t)v.cols;
    uint32_t column = warp * STRETCH;
    Codes<TYPE> codes;
    if (column < cols) codes_ask(&codes, v, row, column);
    load_tables<TYPE>(tables, q);
    early_wait();
    float acc[4] = {};
    while (column < cols) {
        stretch_add(acc, codes, x, ldx, n, column, cols, tables[part], v.is_nested);
        column += WARPS * STRETCH;
        if (column < cols) codes_ask(&codes, v, row, column);
    }
    const int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
        sums[warp][g + i / 2 * 8][2 * c + i % 2] = acc[i];
    __syncthreads();
    const int r = threadIdx.x % ROWS, t = threadIdx.x / ROWS;
    if (t >= n) return;
    float s = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        s += sums[w][r][t];
    if (add) s += to_f32(add[t * ld_add + row0 + r]);
    y[t * ldy + row0 + r] = from_f32<bf16>(s);
}
static_assert((int)QUANT_MATVEC_ROWS <= (int)COLUMNS && COLUMNS * ROWS <= THREADS,
              "a thread a result");

bool matvec_tiles_fit(const Matvec *m)
{
    bool fit = matvec_n(m) > 1 && m->x.dtype == DT_BF16 && vectors_fit<bf16>(&m->x);
    for (int i = 0; i < m->n_parts; i++)
        fit &= codes_in_eights(&m->parts[i]) && m->parts[i].rows % ROWS == 0 &&
               m->parts[i].cols % CHUNK == 0;
    return fit;
}

void matvec_tiles(Device *d, const Matvec *m)
{
    DISPATCH_QUANT(m->parts, TYPE, {
        launch_early(d, matvec_tiles_kernel<TYPE>, (unsigned)(m->q.first[m->n_parts] / ROWS),
                     THREADS, 0, (bf16 *)tensor_data(&m->y), m->y.ld, matvec_add<bf16>(m),
                     m->add.ld, (const bf16 *)tensor_data(&m->x), m->x.ld, matvec_n(m), m->q);
    });
}
