/* Decoding of quantised matrices into the scratch that a product reads.  A job of bandwidth: half a byte in and two out
 * a weight. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 128, EIGHTS = 4, MOST_ROWS = 65535 };

/* A block takes THREADS * EIGHTS * 8 neighbours of a row; a thread four eights (16 bytes of nf4) in strides of the block,
 * so that loads and stores of a warp lie side by side. */
template <typename T, QuantType TYPE>
__global__ void __launch_bounds__(THREADS) dequantize_kernel(T *y, int64_t ld, QuantView v)
{
    __shared__ float table[16];
    load_table<TYPE>(table, v);
    int first = blockIdx.x * THREADS * EIGHTS + threadIdx.x, n = (int)(v.cols / 8);
    for (int64_t row = blockIdx.y; row < v.rows; row += gridDim.y) {
        typename Codes8<TYPE>::Word w[EIGHTS];
#pragma unroll
        for (int k = 0; k < EIGHTS; k++)
            if (first + k * THREADS < n)
                w[k] = load8<TYPE>(v, row, 8 * (int64_t)(first + k * THREADS));
#pragma unroll
        for (int k = 0; k < EIGHTS; k++) {
            int64_t col = 8 * (int64_t)(first + k * THREADS);
            if (col >= v.cols) break;
            float x[8];
            float scale = raw8<TYPE>(x, w[k], v, table, row, col);
            T *to = y + row * ld + col;
#pragma unroll
            for (int i = 0; i < 8; i += Vec<T>::N) {
                Vec<T> out;
#pragma unroll
                for (int j = 0; j < Vec<T>::N; j++)
                    out.v[j] = from_f32<T>(scaled<TYPE>(x[i + j], scale));
                vec_store(to + i, out);
            }
        }
    }
}

template <typename T, QuantType TYPE>
__global__ void dequantize_plain_kernel(T *y, int64_t ld, QuantView v)
{
    __shared__ float table[16];
    load_table<TYPE>(table, v);
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < v.rows * v.cols;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / v.cols, col = i % v.cols;
        y[row * ld + col] = from_f32<T>(value_at<TYPE>(v, table, row, col));
    }
}

void cuda_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *q)
{
    ASSERT(tensor_rows(y) == q->rows && tensor_cols(y) == q->cols, "dequantize: shapes differ");
    QuantView v = quant_view(packed, q);
    if (q->rows * q->cols == 0) return;
    DISPATCH(y, T, {
        T *to = (T *)tensor_data(y);
        bool eights = codes_in_eights(q) && vectors_fit<T>(y);
        dim3 grid((unsigned)ceil_div(q->cols / 8, THREADS * EIGHTS),
                  (unsigned)(q->rows < MOST_ROWS ? q->rows : (int64_t)MOST_ROWS));
        int64_t most = 16 * (int64_t)cuda_impl(d)->n_sms,
                need = ceil_div(q->rows * q->cols, THREADS);
        unsigned plain = (unsigned)(need < most ? need : most);
        DISPATCH_QUANT(q, TYPE, {
            if (eights)
                dequantize_kernel<T, TYPE><<<grid, THREADS, 0, cuda_stream(d)>>>(to, y->ld, v);
            else
                dequantize_plain_kernel<T, TYPE>
                    <<<plain, THREADS, 0, cuda_stream(d)>>>(to, y->ld, v);
        });
    });
    LAUNCHED();
}
