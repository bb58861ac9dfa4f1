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

/* A lane's eights of a row that are on their way at a time, a warp's width apart. */
template <QuantType TYPE, int LOADS> struct Eights {
    typename Codes8<TYPE>::Word w[LOADS];
    RawScale s[LOADS];
};

/* Those from the row's `first` on; for what lies beyond its end, its first one. */
template <QuantType TYPE, int LOADS>
__device__ static inline void eights_ask(Eights<TYPE, LOADS> *x, const QuantView &v, uint32_t row,
                                         uint32_t first, uint32_t per_row)
{
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        const uint32_t own = first + i * WARP < per_row ? first + i * WARP : 0;
        x->w[i] = codes8<TYPE>(v, row * per_row + own);
        x->s[i] = scale8_read<TYPE>(v, row, own, row * per_row + own);
    }
}

/* A row times n <= N rows of x.  Its first eights are on their way while the kernel before this one ends. */
template <typename T, QuantType TYPE, int N>
__device__ static inline void row_by_eights(float (&sum)[N], const T *x, int64_t ldx, int n,
                                            const QuantViews &q, int part, uint32_t row,
                                            AlignedTables *tables)
{
    enum { LOADS = N == 1 ? 8 : 4 };
    const uint32_t per_row = (uint32_t)q.part[part].cols / 8, lane = threadIdx.x % WARP;
    Eights<TYPE, LOADS> e;
    eights_ask(&e, q.part[part], row, lane, per_row);
    load_tables<TYPE>(tables, q);
    early_wait();
    for (uint32_t first = lane; first < per_row; first += LOADS * WARP) {
        if (first > lane) eights_ask(&e, q.part[part], row, first, per_row);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (first + i * WARP >= per_row) break;
            float w[8];
            const float scale = raw8<TYPE>(w, e.w[i], e.s[i], tables[part], q.part[part].is_nested);
#pragma unroll
            for (int t = 0; t < N; t++) {
                if (t >= n) break;
                float xs[8], dot = 0;
                read8<T>(xs, x + t * ldx + (first + i * WARP) * 8);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    dot += xs[j] * w[j];
                sum[t] += scaled<TYPE>(dot, scale);
            }
        }
    }
}

/* The same for widths and addresses that eights do not fit. */
template <typename T, QuantType TYPE, int N>
__device__ static inline void row_by_elements(float (&sum)[N], const T *x, int64_t ldx, int n,
                                              const QuantViews &q, int part, int64_t row,
                                              AlignedTables *tables)
{
    load_tables<TYPE>(tables, q);
    early_wait();
    for (int64_t col = threadIdx.x % WARP; col < q.part[part].cols; col += WARP) {
        float w = value_at<TYPE>(q.part[part], tables[part], row, col);
#pragma unroll
        for (int t = 0; t < N; t++)
            if (t < n) sum[t] += to_f32(x[t * ldx + col]) * w;
    }
}

/* n <= N rows of x.  Warps beyond the last row stay for the tables, and take it once more. */
template <typename T, QuantType TYPE, int N, bool EIGHTS>
__global__ void __launch_bounds__(THREADS)
    matvec_kernel(T *y, int64_t ldy, const T *add, int64_t ld_add, const T *x, int64_t ldx, int n,
                  const __grid_constant__ QuantViews q)
{
    __shared__ AlignedTables tables[QUANT_MAX_PARTS];
    early_go();
    const int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP, last = q.first[q.n] - 1;
    const int64_t taken = row < last ? row : last;
    const int part = part_of(q, taken);
    const int64_t own = taken - q.first[part];
    float sum[N] = {};
    if (EIGHTS)
        row_by_eights<T, TYPE>(sum, x, ldx, n, q, part, (uint32_t)own, tables);
    else
        row_by_elements<T, TYPE>(sum, x, ldx, n, q, part, own, tables);
#pragma unroll
    for (int t = 0; t < N; t++) {
        float s = warp_sum(sum[t]);
        if (threadIdx.x % WARP != 0 || t >= n || row > last) continue;
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
    if (matvec_tiles_fit(&m)) {
        matvec_tiles(d, &m);
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

/* Parts [0, n), alike, with columns [row0, row0 + their rows) of y and add. */
static Matvec matvec_of(Tensor *y, const Tensor *add, const Tensor *x, const Tensor *packed,
                        const QuantPart *parts, int n, int64_t row0)
{
    Matvec m = {};
    ASSERT(tensor_cols(x) == parts[0].cols, "quant_matvec: shapes differ");
    m.parts = parts;
    m.n_parts = n;
    m.q = quant_views(packed, parts, n);
    m.x = *x;
    m.y = tensor_slice_cols(y, row0, m.q.first[n]);
    if (add) m.add = tensor_slice_cols(add, row0, m.q.first[n]);
    return m;
}

void cuda_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                       const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                       int n_parts)
{
    int64_t n = tensor_rows(x), row0 = 0;
    ASSERT(n <= QUANT_MATVEC_ROWS && tensor_rows(y) == n, "quant_matvec: %lld rows", (long long)n);
    for (int i = 0, k; i < n_parts; i += k) {
        k = quant_alike(parts + i, n_parts - i);
        Matvec m = matvec_of(y, add, x, packed, parts + i, k, row0);
        if (norm && matvec_mma_norms(d, &m, norm)) {
            m.norm = norm;
        } else if (norm) {
            cuda_rmsnorm_fwd(d, norm->y, norm->rstd, x, norm->w, norm->eps);
            m.x = *(x = norm->y);
            norm = NULL;
        }
        matvec_alike(d, m);
        row0 += m.q.first[k];
    }
    ASSERT(row0 == tensor_cols(y), "quant_matvec: shapes differ");
}
