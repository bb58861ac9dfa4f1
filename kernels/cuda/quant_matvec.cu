/* Products of a few rows (decoding) straight from 4 or 8 bits: the weights are read once, in their packed form, and never
 * written.  A warp takes a row; nf4 and fp4 in bf16 go through the tensor cores where they fit (quant_matvec_mma.cu). */
#include "kernels/cuda/quant_matvec.cuh"
#include "kernels/cuda/table.h"

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
    __shared__ AlignedTables tables[QUANT_MAX_PARTS];
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
        const uint32_t per_row = (uint32_t)v.cols / 8;
#pragma unroll 4
        for (int64_t col = 8 * lane; col < v.cols; col += 8 * WARP) {
            float w[8];
            const uint32_t eight = (uint32_t)col / 8, at = (uint32_t)own * per_row + eight;
            float scale =
                raw8<TYPE>(w, codes8<TYPE>(v, at), scale8_read<TYPE>(v, (uint32_t)own, eight, at),
                           tables[k], v.is_nested);
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

template <typename T, int N> static void matvec(Device *d, const Matvec &m)
{
    unsigned grid = (unsigned)ceil_div(m.q.first[m.n_parts], WARPS);
    bool eights = vectors_fit<T>(&m.x);
    for (int i = 0; i < m.n_parts; i++)
        eights &= codes_in_eights(&m.parts[i]);
    T *to = (T *)tensor_data(&m.y);
    const T *from = (const T *)tensor_data(&m.x), *add = matvec_add<T>(&m);
    DISPATCH_QUANT(m.parts, TYPE, {
        if (eights)
            launch_early(d, matvec_kernel<T, TYPE, N, true>, grid, THREADS, 0, to, m.y.ld, add,
                         m.add.ld, from, m.x.ld, matvec_n(&m), m.q);
        else
            launch_early(d, matvec_kernel<T, TYPE, N, false>, grid, THREADS, 0, to, m.y.ld, add,
                         m.add.ld, from, m.x.ld, matvec_n(&m), m.q);
    });
}

/* ---- parts that are encoded alike --------------------------------------------------------------- */

static void matvec_alike(Device *d, const Matvec &m)
{
    if (matvec_n(&m) == 0 || m.q.first[m.n_parts] == 0) return;
    if (matvec_mma_fits(d, &m)) {
        matvec_mma(d, &m);
        return;
    }
    DISPATCH(&m.x, T, {
        if (matvec_n(&m) == 1)
            matvec<T, 1>(d, m);
        else if (matvec_n(&m) <= 4)
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
