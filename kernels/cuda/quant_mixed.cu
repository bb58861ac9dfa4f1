/* LLM.int8's product: kernels.h, quant_mixed.  For evaluation: four codes an instruction, no tensor cores. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, TILE = 64, WORDS = 8, SIDE = 16, EACH = TILE / SIDE };

__device__ inline float in_f16(float x)
{
    return __half2float(__float2half_rn(x));
}

/* A thread a column. */
template <typename T>
__global__ void mark_kernel(uint8_t *flags, const T *x, int64_t ld, int64_t n, int64_t cols,
                            float threshold)
{
    int64_t col = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (col >= cols) return;
    bool any = false;
    for (int64_t t = 0; t < n; t++)
        any |= fabsf(in_f16(to_f32(x[t * ld + col]))) >= threshold;
    flags[col] = any;
}

/* One warp; ascending. */
__global__ void list_kernel(int32_t *list, const uint8_t *flags, int64_t cols)
{
    int lane = threadIdx.x, n = 0;
    for (int64_t first = 0; first < cols; first += WARP) {
        bool flag = first + lane < cols && flags[first + lane];
        unsigned mask = __ballot_sync(0xffffffffu, flag);
        if (flag) list[1 + n + __popc(mask & ((1u << lane) - 1))] = (int32_t)(first + lane);
        n += __popc(mask);
    }
    if (lane == 0) list[0] = n;
}

/* A block of threads a row. */
template <typename T>
__global__ void encode_kernel(int8_t *codes, int64_t pitch, float *absmax, const T *x, int64_t ld,
                              int64_t cols, const uint8_t *flags, float threshold)
{
    const T *row = x + blockIdx.x * ld;
    float most = 0;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS) {
        float v = fabsf(in_f16(to_f32(row[i])));
        if (v < threshold) most = fmaxf(most, v);
    }
    most = block_max(most);
    float factor = quant_int8_factor(most);
    for (int64_t i = threadIdx.x; i < pitch; i += THREADS)
        codes[blockIdx.x * pitch + i] =
            i < cols && !flags[i] ? (int8_t)rintf(__fmul_rn(in_f16(to_f32(row[i])), factor)) : 0;
    if (threadIdx.x == 0) absmax[blockIdx.x] = most;
}

/* Four codes of a row of w from column `at` on, 0 behind the last. */
__device__ inline int four_codes(const uint8_t *row, int64_t at, int64_t cols, bool words)
{
    if (at >= cols) return 0;
    if (words) return *(const int *)(row + at);
    unsigned v = 0;
    for (int i = 0; i < 4 && at + i < cols; i++)
        v |= (unsigned)row[at + i] << (8 * i);
    return (int)v;
}

template <typename T> struct MixedArgs {
    T *y;
    const T *add, *x;
    int64_t ldy, ld_add, ldx, n;
    const int8_t *codes;
    int64_t pitch;
    const float *absmax;
    const int32_t *list;
    const uint8_t *w;
    const float *scb;
    int64_t rows, cols;
    bool words; /* w's rows begin at words */
};

/* A block of threads takes 64 tokens by 64 rows of w, a thread four by four, 32 columns at a time. */
template <typename T> __global__ void __launch_bounds__(THREADS) product_kernel(MixedArgs<T> a)
{
    __shared__ int xs[TILE][WORDS + 1], ws[TILE][WORDS + 1];
    int64_t t0 = blockIdx.y * (int64_t)TILE, r0 = blockIdx.x * (int64_t)TILE;
    int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE, sum[EACH][EACH] = {};
    for (int64_t col = 0; col < a.pitch; col += 4 * WORDS) {
        for (int i = threadIdx.x; i < TILE * WORDS; i += THREADS) {
            int row = i / WORDS, word = i % WORDS;
            int64_t at = col + 4 * word, t = t0 + row, r = r0 + row;
            xs[row][word] = t < a.n ? *(const int *)(a.codes + t * a.pitch + at) : 0;
            ws[row][word] = r < a.rows ? four_codes(a.w + r * a.cols, at, a.cols, a.words) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < WORDS; k++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum[i][j] = __dp4a(xs[ty + SIDE * i][k], ws[tx + SIDE * j][k], sum[i][j]);
        __syncthreads();
    }
    int n_outliers = a.list[0];
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            int64_t t = t0 + ty + SIDE * i, r = r0 + tx + SIDE * j;
            if (t >= a.n || r >= a.rows) continue;
            float scale = __fmul_rn(a.absmax[t], a.scb[r]);
            float y = __fmul_rn(__fmul_rn((float)sum[i][j], scale), QUANT_INV127_SQUARED);
            for (int k = 1; k <= n_outliers; k++) {
                int64_t at = a.list[k];
                float value = scaled<QUANT_INT8>((float)(int8_t)a.w[r * a.cols + at], a.scb[r]);
                y += to_f32(a.x[t * a.ldx + at]) * to_f32(from_f32<T>(value));
            }
            if (a.add) y += to_f32(a.add[t * a.ld_add + r]);
            a.y[t * a.ldy + r] = from_f32<T>(y);
        }
}

template <typename T>
static void mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const uint8_t *packed,
                  const QuantPart *q, float threshold)
{
    int64_t n = tensor_rows(x);
    MixedScratch at = quant_mixed_scratch(n, q->cols);
    char *scratch = (char *)workspace_take(d, at.bytes);
    int8_t *codes = (int8_t *)(scratch + at.codes);
    float *absmax = (float *)(scratch + at.absmax);
    uint8_t *flags = (uint8_t *)(scratch + at.flags);
    int32_t *list = (int32_t *)(scratch + at.list);
    const T *from = (const T *)tensor_data(x);
    cudaStream_t stream = cuda_stream(d);
    mark_kernel<T><<<(unsigned)ceil_div(q->cols, THREADS), THREADS, 0, stream>>>(
        flags, from, x->ld, n, q->cols, threshold);
    LAUNCHED();
    list_kernel<<<1, WARP, 0, stream>>>(list, flags, q->cols);
    LAUNCHED();
    encode_kernel<T><<<(unsigned)n, THREADS, 0, stream>>>(codes, at.pitch, absmax, from, x->ld,
                                                          q->cols, flags, threshold);
    LAUNCHED();
    MixedArgs<T> a = {};
    a.y = (T *)tensor_data(y);
    a.add = add ? (const T *)tensor_data(add) : NULL;
    a.x = from;
    a.ldy = y->ld, a.ld_add = add ? add->ld : 0, a.ldx = x->ld, a.n = n;
    a.codes = codes, a.pitch = at.pitch, a.absmax = absmax, a.list = list;
    a.w = packed + q->codes;
    a.scb = (const float *)(packed + q->scales);
    a.rows = q->rows, a.cols = q->cols, a.words = q->cols % 4 == 0;
    dim3 grid((unsigned)ceil_div(q->rows, TILE), (unsigned)ceil_div(n, TILE));
    product_kernel<T><<<grid, THREADS, 0, stream>>>(a);
    LAUNCHED();
    workspace_give(d);
}

void cuda_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                      const Tensor *packed, const QuantPart *q, float threshold)
{
    int64_t n = tensor_rows(x);
    ASSERT(q->type == QUANT_INT8 && q->cols < QUANT_MIXED_COLS, "quant_mixed of %s, %lld columns",
           quant_type_name(q->type), (long long)q->cols);
    ASSERT(tensor_rows(y) == n && tensor_cols(y) == q->rows && tensor_cols(x) == q->cols,
           "quant_mixed: shapes differ");
    if (n == 0 || q->rows == 0) return;
    const uint8_t *bytes = (const uint8_t *)tensor_data(packed);
    DISPATCH(x, T, mixed<T>(d, y, add, x, bytes, q, threshold));
}
