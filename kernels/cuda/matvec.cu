/* Products of a few rows with a bf16 matrix, as decoding makes them: the matrix is read once at the memory's rate, and
 * nothing else counts.  matmul.c asks here before it asks the library. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

/* LANES threads take ROWS rows of the matrix, each of them every LANES-th eight of columns; LOADS of them are on their way at a
 * time. */
enum { THREADS = 256, EIGHT = Vec<bf16>::N, MOST_N = 8, NARROW = 8 /* lanes */ };

/* Over the LANES threads that have a row, in each of them.  All threads of the block. */
template <int LANES> __device__ inline float lanes_sum(float x)
{
    if constexpr (LANES == THREADS) {
        return block_sum(x);
    } else {
#pragma unroll
        for (int o = LANES / 2; o > 0; o /= 2)
            x += __shfl_xor_sync(0xffffffffu, x, o);
        return x;
    }
}

template <typename C, int N, int LANES, int ROWS, int LOADS>
__global__ void __launch_bounds__(THREADS)
    matvec_kernel(C *y, int64_t ldy, float alpha, float beta, const C *add, int64_t ld_add,
                  const bf16 *x, int64_t ldx, int n, const bf16 *w, int64_t ldw, int rows, int cols)
{
    static_assert(LANES <= WARP || LANES == THREADS, "a warp's sums, or a block's");
    early_go();
    const int lane = threadIdx.x % LANES;
    const int row0 = ((int)blockIdx.x * (THREADS / LANES) + (int)threadIdx.x / LANES) * ROWS;
    const int stride = EIGHT * LANES;
    for (int r = 0; r < ROWS && row0 + r < rows;
         r++) { /* on its way to the second cache meanwhile */
        const bf16 *from = w + (row0 + r) * ldw;
        for (int i = 0, col = EIGHT * lane; i < LOADS && col < cols; i++, col += stride)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(from + col));
    }
    early_wait();
    if (LANES >= WARP && row0 >= rows) return; /* a whole warp, or the block */
    float sum[N][ROWS] = {};
    for (int first = EIGHT * lane; first < cols; first += LOADS * stride) {
        Bits ws[LOADS][ROWS];
#pragma unroll
        for (int i = 0; i < LOADS; i++)
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int col = first + i * stride;
                bool in = col < cols && row0 + r < rows;
                ws[i][r] = in ? bits_load_last(w + (row0 + r) * ldw + col) : bits_zero();
            }
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int col = first + i * stride;
            if (col >= cols) break;
            float wv[ROWS][EIGHT];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                bits_to_f32(wv[r], ws[i][r]);
#pragma unroll
            for (int t = 0; t < N; t++) {
                if (t >= n) break;
                float xv[EIGHT];
                bits_to_f32(xv, bits_load(x + t * ldx + col));
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int j = 0; j < EIGHT; j++)
                        sum[t][r] += xv[j] * wv[r][j];
            }
        }
    }
#pragma unroll
    for (int t = 0; t < N; t++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float s = alpha * lanes_sum<LANES>(sum[t][r]);
            if (lane != 0 || t >= n || row0 + r >= rows) continue;
            if (beta != 0) s += beta * to_f32(add[t * ld_add + row0 + r]);
            y[t * ldy + row0 + r] = from_f32<C>(s);
        }
}

bool cuda_matvec_takes(const Tensor *a, const Tensor *b, MatmulArgs args)
{
    return !args.trans_a && args.trans_b && tensor_rows(a) <= MOST_N && a->dtype == DT_BF16 &&
           vectors_fit<bf16>(a) && vectors_fit<bf16>(b) && tensor_rows(b) <= INT32_MAX;
}

template <typename C, int N, int LANES, int ROWS, int LOADS>
static void launch(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    const Tensor *add = args.add ? args.add : c;
    int64_t rows = tensor_rows(b);
    launch_early(d, matvec_kernel<C, N, LANES, ROWS, LOADS>,
                 (unsigned)ceil_div(rows, THREADS / LANES * ROWS), THREADS, 0, (C *)tensor_data(c),
                 c->ld, args.alpha, args.beta, (const C *)tensor_data(add), add->ld,
                 (const bf16 *)tensor_data(a), a->ld, (int)tensor_rows(a),
                 (const bf16 *)tensor_data(b), b->ld, (int)rows, (int)tensor_cols(b));
}

/* Rows of a few columns, as of B of an adapter, leave most of a warp idle; few rows, as of A, most of the GPU. */
template <typename C, int N, int ROWS, int LOADS>
static void by_shape(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    if (tensor_cols(b) <= NARROW * EIGHT)
        launch<C, N, NARROW, 1, 1>(d, c, a, b, args);
    else if (tensor_rows(b) <= cuda_impl(d)->n_sms)
        launch<C, N, THREADS, 1, LOADS>(d, c, a, b, args);
    else
        launch<C, N, WARP, ROWS, LOADS>(d, c, a, b, args);
}

void cuda_matvec(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    DISPATCH(c, C, {
        if (tensor_rows(a) == 1)
            by_shape<C, 1, 1, 8>(d, c, a, b, args);
        else if (tensor_rows(a) <= 4)
            by_shape<C, 4, 2, 4>(d, c, a, b, args);
        else
            by_shape<C, MOST_N, 2, 4>(d, c, a, b, args);
    });
}
