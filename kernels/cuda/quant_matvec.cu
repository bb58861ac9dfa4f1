/* Products of a few rows (decoding, batch 1 to 4) straight from 4 or 8 bits: the weights are read once, in their packed
 * form, and never written.
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
        Vec<T> v = vec_load(x + i);
#pragma unroll
        for (int j = 0; j < Vec<T>::N; j++)
            out[i + j] = to_f32(v.v[j]);
    }
}

template <typename T, QuantType TYPE, int N, bool EIGHTS>
__global__ void matvec_kernel(T *y, int64_t ldy, const T *add, int64_t ld_add, const T *x,
                              int64_t ldx, QuantView v)
{
    __shared__ float table[16];
    load_table<TYPE>(table, v);
    int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= v.rows) return;
    float sum[N] = {};
    if (EIGHTS) {
#pragma unroll 4
        for (int64_t col = 8 * lane; col < v.cols; col += 8 * WARP) {
            float w[8];
            float scale = raw8<TYPE>(w, load8<TYPE>(v, row, col), v, table, row, col);
#pragma unroll
            for (int t = 0; t < N; t++) {
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
            float w = value_at<TYPE>(v, table, row, col);
#pragma unroll
            for (int t = 0; t < N; t++)
                sum[t] += to_f32(x[t * ldx + col]) * w;
        }
    }
#pragma unroll
    for (int t = 0; t < N; t++) {
        float s = warp_sum(sum[t]);
        if (lane != 0) continue;
        if (add) s += to_f32(add[t * ld_add + row]);
        y[t * ldy + row] = from_f32<T>(s);
    }
}

template <typename T, int N>
static void matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const QuantPart *q,
                   const QuantView &v)
{
    unsigned grid = (unsigned)ceil_div(q->rows, WARPS);
    bool eights = codes_in_eights(q) && vectors_fit<T>(x);
    T *to = (T *)tensor_data(y);
    const T *from = (const T *)tensor_data(x), *plus = add ? (const T *)tensor_data(add) : NULL;
    int64_t ld_add = add ? add->ld : 0;
    DISPATCH_QUANT(q, TYPE, {
        if (eights)
            matvec_kernel<T, TYPE, N, true>
                <<<grid, THREADS, 0, cuda_stream(d)>>>(to, y->ld, plus, ld_add, from, x->ld, v);
        else
            matvec_kernel<T, TYPE, N, false>
                <<<grid, THREADS, 0, cuda_stream(d)>>>(to, y->ld, plus, ld_add, from, x->ld, v);
    });
    LAUNCHED();
}

/* ---- nf4 and fp4 on tensor cores ---------------------------------------------------------------- */

/* A block of threads takes 16 rows, its warps every eighth stretch of 64 columns.  In a warp g = lane / 4 names two rows (g
 * and g + 8) and a row of x, c = lane % 4 sixteen of the 64 columns.  Which k of the mma is which column does not matter as
 * long as both operands agree: step s of four has the bytes 2 s and 2 s + 1 of c's eight, and the x that belong to them.
 * The table lies once for each lane, entry e of lane l in bank l, so that lookups never collide. */
enum { MMA_ROWS = 16, MMA_COLS = 64, PAIRS = 256 };

__device__ inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline uint32_t bits_of(bf16 x)
{
    return __bfloat16_as_ushort(x);
}

__global__ void __launch_bounds__(THREADS)
    matvec_mma_kernel(bf16 *y, int64_t ldy, const bf16 *add, int64_t ld_add, const bf16 *x,
                      int64_t ldx, int n, QuantView v)
{
    extern __shared__ uint32_t pairs[]; /* [PAIRS][WARP], then sums: f32 [WARPS][MMA_ROWS][8] */
    float *sums = (float *)(pairs + PAIRS * WARP);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    for (int e = warp; e < PAIRS; e += WARPS) { /* the first element is in the high nibble */
        uint32_t low = bits_of(__float2bfloat16_rn(v.tables[e >> 4]));
        uint32_t high = bits_of(__float2bfloat16_rn(v.tables[e & 15]));
        pairs[e * WARP + lane] = high << 16 | low;
    }
    __syncthreads();
    int64_t n_groups = v.rows / MMA_ROWS, n_stretches = v.cols / MMA_COLS;
    for (int64_t group = blockIdx.x; group < n_groups; group += gridDim.x) {
        int64_t row[2] = {group * MMA_ROWS + g, group * MMA_ROWS + g + 8};
        float acc[4] = {};
#pragma unroll 4
        for (int64_t k = warp; k < n_stretches; k += WARPS) {
            int64_t col = k * MMA_COLS + 16 * c;
            uint2 code[2];
            float scale[2];
            for (int i = 0; i < 2; i++) {
                int64_t at = row[i] * v.cols + col;
                code[i] = *(const uint2 *)(v.codes + at / 2);
                scale[i] = block_scale(v, at / v.block);
            }
            uint4 xs[2] = {};
            if (g < n) {
                xs[0] = *(const uint4 *)(x + g * ldx + col);
                xs[1] = *(const uint4 *)(x + g * ldx + col + 8);
            }
            const uint32_t *xw = (const uint32_t *)xs;
            float part[4] = {};
#pragma unroll
            for (int s = 0; s < 4; s++) {
                uint32_t upper = s < 2 ? code[0].x : code[0].y,
                         lower = s < 2 ? code[1].x : code[1].y;
                int shift = s % 2 * 16;
                uint32_t a[4] = {
                    pairs[(upper >> shift & 255) * WARP + lane],
                    pairs[(lower >> shift & 255) * WARP + lane],
                    pairs[(upper >> (shift + 8) & 255) * WARP + lane],
                    pairs[(lower >> (shift + 8) & 255) * WARP + lane],
                };
                uint32_t b[2] = {xw[2 * s], xw[2 * s + 1]};
                mma_bf16(part, a, b);
            }
            acc[0] += scale[0] * part[0], acc[1] += scale[0] * part[1];
            acc[2] += scale[1] * part[2], acc[3] += scale[1] * part[3];
        }
        float *mine = sums + warp * MMA_ROWS * 8;
        mine[g * 8 + 2 * c] = acc[0], mine[g * 8 + 2 * c + 1] = acc[1];
        mine[(g + 8) * 8 + 2 * c] = acc[2], mine[(g + 8) * 8 + 2 * c + 1] = acc[3];
        __syncthreads();
        int r = threadIdx.x % MMA_ROWS, t = threadIdx.x / MMA_ROWS;
        if (t < n) {
            float sum = 0;
            for (int w = 0; w < WARPS; w++)
                sum += sums[w * MMA_ROWS * 8 + r * 8 + t];
            int64_t out = group * MMA_ROWS + r;
            if (add) sum += __bfloat162float(add[t * ld_add + out]);
            y[t * ldy + out] = __float2bfloat16_rn(sum);
        }
        __syncthreads(); /* before the next group's sums */
    }
}

/* True when it ran. */
static bool matvec_mma(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const QuantPart *q,
                       const QuantView &v)
{
    bool fits = quant_is_4bit(q->type) && x->dtype == DT_BF16 && cuda_impl(d)->cc >= 80 &&
                q->rows % MMA_ROWS == 0 && q->cols % MMA_COLS == 0 && q->block % MMA_COLS == 0 &&
                x->ld % 8 == 0 && (uintptr_t)tensor_data(x) % 16 == 0;
    if (!fits) return false;
    size_t shared = (PAIRS * WARP + WARPS * MMA_ROWS * 8) * 4; /* 36 KiB: below what needs leave */
    int64_t groups = q->rows / MMA_ROWS, most = 6 * (int64_t)cuda_impl(d)->n_sms;
    const bf16 *plus = add ? (const bf16 *)tensor_data(add) : NULL;
    matvec_mma_kernel<<<(unsigned)(groups < most ? groups : most), THREADS, shared,
                        cuda_stream(d)>>>((bf16 *)tensor_data(y), y->ld, plus, add ? add->ld : 0,
                                          (const bf16 *)tensor_data(x), x->ld, (int)tensor_rows(x),
                                          v);
    LAUNCHED();
    return true;
}

void cuda_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                       const Tensor *packed, const QuantPart *q)
{
    int64_t n = tensor_rows(x);
    ASSERT(n <= QUANT_MATVEC_ROWS && tensor_rows(y) == n && tensor_cols(y) == q->rows &&
               tensor_cols(x) == q->cols,
           "quant_matvec: shapes differ, or %lld rows", (long long)n);
    if (n == 0 || q->rows == 0) return;
    QuantView v = quant_view(packed, q);
    if (matvec_mma(d, y, add, x, q, v)) return;
    DISPATCH(x, T, {
        if (n == 1)
            matvec<T, 1>(d, y, add, x, q, v);
        else if (n == 2)
            matvec<T, 2>(d, y, add, x, q, v);
        else if (n == 3)
            matvec<T, 3>(d, y, add, x, q, v);
        else
            matvec<T, 4>(d, y, add, x, q, v);
    });
}
