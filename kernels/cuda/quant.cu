/* Decoding of quantised matrices into the scratch that a product reads.  A job of bandwidth: half a byte in and two out
 * a weight.  At a copy's rate there is time for some fifteen instructions a weight, so that what a stretch of a row has in
 * common is worked out once for all of it. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, MOST_THREADS = 1024, EIGHTS = 4, STRETCH = EIGHTS * WARP /* eights */ };
enum { PLAIN_BLOCKS = 4 /* a multiprocessor */ };

/* A stretch of a row, which a warp takes: a lane has four eights of it, a warp's width apart, so that what a warp loads and
 * stores lies side by side. */
template <QuantType TYPE> struct Stretch {
    unsigned row,
        first; /* the lane's first eight of the row; others lie beyond its end where it is short */
    int part;
    typename Codes8<TYPE>::Word w[EIGHTS];
    RawScale s[EIGHTS];
};

/* Asks for all that the i-th stretch is made of; n_each: of a row. */
template <QuantType TYPE>
__device__ static inline void stretch_ask(Stretch<TYPE> *x, const QuantViews &q, unsigned i,
                                          unsigned n_each, unsigned per_row)
{
    x->row = i / n_each;
    x->first = (i - x->row * n_each) * STRETCH + threadIdx.x % WARP;
    x->part = part_of(q, x->row);
    const QuantView &v = q.part[x->part];
    const unsigned own = x->row - q.first[x->part], at = own * per_row + x->first;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        const bool in = x->first + e * WARP < per_row;
        x->w[e] = codes8<TYPE>(v, in ? at + e * WARP : 0);
        x->s[e] = scale8_read<TYPE>(v, own, in ? x->first + e * WARP : 0, in ? at + e * WARP : 0);
    }
}

template <typename T, QuantType TYPE>
__device__ static inline void stretch_store(T *y, int64_t ld, const Stretch<TYPE> &x,
                                            const AlignedTables &tables, bool is_nested,
                                            unsigned per_row)
{
    T *to = y + x.row * ld + x.first * 8;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        float raw[8];
        const float scale = raw8<TYPE>(raw, x.w[e], x.s[e], tables, is_nested);
        if (x.first + e * WARP >= per_row) continue;
#pragma unroll
        for (int j = 0; j < 8; j += Vec<T>::N) {
            float out[Vec<T>::N];
#pragma unroll
            for (int l = 0; l < Vec<T>::N; l++)
                out[l] = scaled<TYPE>(raw[j + l], scale);
            bits_store(to + e * WARP * 8 + j, bits_from_f32(out));
        }
    }
}

template <typename T, QuantType TYPE>
__global__ void __launch_bounds__(MOST_THREADS)
    dequantize_kernel(T *y, int64_t ld, const __grid_constant__ QuantViews q, unsigned n_each)
{
    __shared__ AlignedTables tables[QUANT_MAX_PARTS];
    const unsigned per_row = (unsigned)(q.part[0].cols / 8), n = q.first[q.n] * n_each;
    const unsigned step = gridDim.x * blockDim.x / WARP;
    unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    Stretch<TYPE> x;
    if (i < n) stretch_ask(&x, q, i, n_each, per_row); /* comes while the tables do */
    load_tables<TYPE>(tables, q);
    while (i < n) {
        stretch_store(y, ld, x, tables[x.part], q.part[0].is_nested, per_row);
        i += step;
        if (i < n) stretch_ask(&x, q, i, n_each, per_row);
    }
}

template <typename T, QuantType TYPE>
__global__ void dequantize_plain_kernel(T *y, int64_t ld, const __grid_constant__ QuantViews q)
{
    __shared__ AlignedTables tables[QUANT_MAX_PARTS];
    load_tables<TYPE>(tables, q);
    int64_t cols = q.part[0].cols, total = q.first[q.n] * cols;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < total;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t row = i / cols, col = i % cols;
        int k = part_of(q, row);
        y[row * ld + col] =
            from_f32<T>(value_at<TYPE>(q.part[k], tables[k], row - q.first[k], col));
    }
}

/* Parts that are encoded alike. */
static void dequantize_alike(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts,
                             int n)
{
    const QuantViews q = quant_views(packed, parts, n);
    int64_t rows = q.first[n], cols = parts[0].cols;
    if (rows * cols == 0) return;
    const CudaImpl *impl = cuda_impl(d);
    bool ahead = impl->stream == impl->streams[STREAM_AHEAD], eights = true;
    for (int i = 0; i < n; i++)
        eights &= codes_in_eights(&parts[i]);
    eights &= rows * cols / 8 < INT32_MAX;
    const int64_t n_each = ceil_div(cols, 8 * STRETCH); /* stretches of a row */
    /* beside a product a few whole multiprocessors, which keep the memory busy enough; else as many blocks as there is work
     * for: those that stay and take the next stretch write memory in a worse order */
    const unsigned threads = ahead ? (unsigned)MOST_THREADS : (unsigned)THREADS;
    DISPATCH(y, T, {
        T *to = (T *)tensor_data(y);
        const bool fits = eights && vectors_fit<T>(y);
        int64_t need =
            fits ? ceil_div(rows * n_each * WARP, threads) : ceil_div(rows * cols, threads);
        int64_t most = ahead  ? (int64_t)CUDA_AHEAD_BLOCKS
                       : fits ? (int64_t)INT32_MAX
                              : PLAIN_BLOCKS * (int64_t)impl->n_sms;
        const unsigned grid = (unsigned)(need < most ? need : most);
        DISPATCH_QUANT(parts, TYPE, {
            if (fits)
                dequantize_kernel<T, TYPE>
                    <<<grid, threads, 0, cuda_stream(d)>>>(to, y->ld, q, (unsigned)n_each);
            else
                dequantize_plain_kernel<T, TYPE>
                    <<<grid, threads, 0, cuda_stream(d)>>>(to, y->ld, q);
        });
    });
    LAUNCHED();
}

void cuda_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n)
{
    int64_t row0 = 0;
    for (int i = 0, k; i < n; i += k) {
        k = quant_alike(parts + i, n - i);
        int64_t rows = 0;
        for (int j = i; j < i + k; j++)
            rows += parts[j].rows;
        ASSERT(row0 + rows <= tensor_rows(y) && tensor_cols(y) == parts[i].cols,
               "dequantize: shapes differ");
        Tensor part = tensor_slice_rows(y, row0, rows);
        dequantize_alike(d, &part, packed, parts + i, k);
        row0 += rows;
    }
    ASSERT(row0 == tensor_rows(y), "dequantize: shapes differ");
}
