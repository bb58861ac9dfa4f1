/* Decoding of quantised matrices into the scratch that a product reads.  A job of bandwidth: half a byte in and two out
 * a weight.  At a copy's rate there is time for some fifteen instructions a weight: no division among them. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, BLOCKS = 4, MOST_THREADS = 1024, EIGHTS = 4 };

/* A thread takes four eights (16 bytes of nf4) in strides of the block, so that loads and stores of a warp lie side by
 * side; blocks stride over all rows of all parts. */
template <typename T, QuantType TYPE>
__global__ void __launch_bounds__(MOST_THREADS)
    dequantize_kernel(T *y, int64_t ld, const __grid_constant__ QuantViews q)
{
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    load_tables<TYPE>(tables, q);
    const unsigned per_row = (unsigned)(q.part[0].cols / 8), total = q.first[q.n] * per_row;
    const unsigned stride = gridDim.x * blockDim.x * EIGHTS;
    for (unsigned base = blockIdx.x * blockDim.x * EIGHTS; base < total; base += stride) {
        typename Codes8<TYPE>::Word w[EIGHTS];
        int row[EIGHTS], col[EIGHTS], part[EIGHTS];
#pragma unroll
        for (int k = 0; k < EIGHTS; k++) {
            unsigned i = base + k * blockDim.x + threadIdx.x;
            row[k] = i < total ? (int)(i / per_row) : -1;
            col[k] = 8 * (int)(i - (i / per_row) * per_row);
            part[k] = part_of(q, row[k]);
            row[k] -= q.first[part[k]];
            if (i < total) w[k] = load8<TYPE>(q.part[part[k]], row[k], col[k]);
        }
#pragma unroll
        for (int k = 0; k < EIGHTS; k++) {
            if (base + k * blockDim.x + threadIdx.x >= total) break;
            float x[8];
            float scale = raw8<TYPE>(x, w[k], q.part[part[k]], tables[part[k]], row[k], col[k]);
            T *to = y + (row[k] + q.first[part[k]]) * ld + col[k];
#pragma unroll
            for (int i = 0; i < 8; i += Vec<T>::N) {
                float out[Vec<T>::N];
#pragma unroll
                for (int j = 0; j < Vec<T>::N; j++)
                    out[j] = scaled<TYPE>(x[i + j], scale);
                bits_store(to + i, bits_from_f32(out));
            }
        }
    }
}

template <typename T, QuantType TYPE>
__global__ void dequantize_plain_kernel(T *y, int64_t ld, const __grid_constant__ QuantViews q)
{
    __shared__ QuantTables tables[QUANT_MAX_PARTS];
    load_tables<TYPE>(tables, q);
    int64_t cols = q.part[0].cols, total = q.first[q.n] * cols;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < total;
         i += (int64_t)gridDim.x * THREADS) {
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
    /* beside a product a few whole multiprocessors, which keep the memory busy enough */
    unsigned threads = ahead ? (unsigned)MOST_THREADS : (unsigned)THREADS;
    int64_t most = ahead ? (int64_t)CUDA_AHEAD_BLOCKS : BLOCKS * (int64_t)impl->n_sms;
    DISPATCH(y, T, {
        T *to = (T *)tensor_data(y);
        bool fits = eights && vectors_fit<T>(y);
        int64_t need = ceil_div(rows * cols / 8, threads * EIGHTS);
        if (!fits) need = ceil_div(rows * cols, THREADS);
        unsigned grid = (unsigned)(need < most ? need : most);
        DISPATCH_QUANT(parts, TYPE, {
            if (fits)
                dequantize_kernel<T, TYPE><<<grid, threads, 0, cuda_stream(d)>>>(to, y->ld, q);
            else
                dequantize_plain_kernel<T, TYPE>
                    <<<grid, THREADS, 0, cuda_stream(d)>>>(to, y->ld, q);
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
