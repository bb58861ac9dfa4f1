/* Encoding of matrices while they are loaded or drawn. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, WARPS = THREADS / WARP };

__device__ inline float reciprocal(float absmax)
{
    return __fdiv_rn(1.0f, absmax > 1e-38f ? absmax : 1e-38f);
}

/* Full blocks are multiplied by the reciprocal, short ones divided: kernels/cpu/quant.c. */
__device__ inline float normed(float x, float absmax, float inverse, bool is_short)
{
    float y = is_short ? __fdiv_rn(x, absmax > 1e-38f ? absmax : 1e-38f) : __fmul_rn(x, inverse);
    return fminf(fmaxf(y, -1.0f), 1.0f);
}

/* A warp a block of elements, a lane two neighbours at a time: one byte. */
template <typename T>
__global__ void encode4_kernel(uint8_t *codes, float *absmax, const T *x, int64_t ld, int64_t cols,
                               int64_t numel, int64_t block, const float *tables, QuantType type)
{
    int64_t b = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP, first = b * block;
    int lane = threadIdx.x % WARP;
    if (first >= numel) return;
    int64_t n = numel - first < block ? numel - first : block;
    float most = 0;
    for (int64_t i = lane; i < n; i += WARP) {
        int64_t at = first + i;
        most = fmaxf(most, fabsf(to_f32(x[at / cols * ld + at % cols])));
    }
    most = warp_max(most);
    if (lane == 0) absmax[b] = most;
    float inverse = reciprocal(most);
    for (int64_t i = 2 * lane; i < n; i += 2 * WARP) {
        int64_t at = first + i, next = at + 1;
        float low = 0,
              high = normed(to_f32(x[at / cols * ld + at % cols]), most, inverse, n < block);
        if (i + 1 < n)
            low = normed(to_f32(x[next / cols * ld + next % cols]), most, inverse, n < block);
        codes[at / 2] =
            (uint8_t)(quant_encode4(type, tables, high) << 4 | quant_encode4(type, tables, low));
    }
}

/* tables[16 + 256] = the mean of absmax; one block. */
__global__ void mean_kernel(float *offset, const float *absmax, int64_t n)
{
    __shared__ double part[THREADS];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        sum += (double)absmax[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *offset = __fdiv_rn((float)part[0], (float)n);
}

/* A warp 256 absmax. */
__global__ void encode_nested_kernel(uint8_t *codes, float *nested, const float *absmax, int64_t n,
                                     const float *tables)
{
    int64_t b = blockIdx.x * (int64_t)WARPS + threadIdx.x / WARP, first = b * QUANT_NESTED_BLOCK;
    int lane = threadIdx.x % WARP;
    if (first >= n) return;
    int64_t end = n - first < QUANT_NESTED_BLOCK ? n : first + QUANT_NESTED_BLOCK;
    float offset = tables[16 + 256], most = 0;
    for (int64_t i = first + lane; i < end; i += WARP)
        most = fmaxf(most, fabsf(absmax[i] - offset));
    most = warp_max(most);
    if (lane == 0) nested[b] = most;
    float inverse = reciprocal(most);
    for (int64_t i = first + lane; i < end; i += WARP)
        codes[i] = (uint8_t)quant_nearest(
            tables + 16, 256,
            normed(absmax[i] - offset, most, inverse, end - first < QUANT_NESTED_BLOCK));
}

/* A block of threads a row. */
template <typename T>
__global__ void encode_int8_kernel(uint8_t *codes, float *scb, const T *x, int64_t ld, int64_t cols)
{
    const T *row = x + blockIdx.x * ld;
    float most = 0;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        most = fmaxf(most, fabsf(__half2float(__float2half_rn(to_f32(row[i])))));
    most = block_max(most);
    float factor = quant_int8_factor(most);
    for (int64_t i = threadIdx.x; i < cols; i += THREADS) {
        float h = __half2float(__float2half_rn(to_f32(row[i])));
        codes[blockIdx.x * cols + i] = (uint8_t)(int8_t)rintf(__fmul_rn(h, factor));
    }
    if (threadIdx.x == 0) scb[blockIdx.x] = most;
}

template <typename T>
__global__ void encode_fp8_kernel(uint8_t *codes, float *scales, const T *x, int64_t ld,
                                  int64_t cols)
{
    const T *row = x + blockIdx.x * ld;
    float most = 0;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        most = fmaxf(most, fabsf(to_f32(row[i])));
    most = block_max(most);
    float scale = __fdiv_rn(most, QUANT_FP8_MAX);
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        codes[blockIdx.x * cols + i] =
            most > 0 ? fp8_from_f32(__fdiv_rn(to_f32(row[i]), scale)) : 0;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

template <typename T>
static void encode8(Device *d, uint8_t *at, const QuantPart *q, const T *x, int64_t ld)
{
    unsigned grid = (unsigned)q->rows;
    float *scales = (float *)(at + q->scales);
    if (q->type == QUANT_INT8)
        encode_int8_kernel<T>
            <<<grid, THREADS, 0, cuda_stream(d)>>>(at + q->codes, scales, x, ld, q->cols);
    else
        encode_fp8_kernel<T>
            <<<grid, THREADS, 0, cuda_stream(d)>>>(at + q->codes, scales, x, ld, q->cols);
    LAUNCHED();
}

void cuda_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src)
{
    ASSERT(tensor_rows(src) == q->rows && tensor_cols(src) == q->cols, "quantize: shapes differ");
    ASSERT(!quant_is_group(q->type), "%s is read from files only", quant_type_name(q->type));
    uint8_t *at = (uint8_t *)tensor_data(packed);
    int64_t numel = quant_numel(q), n = quant_n_scales(q);
    if (numel == 0) return;
    if (!quant_is_4bit(q->type)) {
        DISPATCH(src, T, encode8<T>(d, at, q, (const T *)tensor_data(src), src->ld));
        return;
    }
    float host[16 + 256 + 1];
    quant_fill_tables(host, q);
    float *tables = (float *)(at + q->tables);
    CUDA_CHECK(cudaMemcpyAsync(tables, host, quant_tables_bytes(q), cudaMemcpyHostToDevice,
                               cuda_stream(d)));
    float *absmax =
        q->nested ? (float *)workspace_take(d, quant_encode_scratch(q)) : (float *)(at + q->scales);
    DISPATCH(src, T, {
        encode4_kernel<T><<<(unsigned)ceil_div(n, WARPS), THREADS, 0, cuda_stream(d)>>>(
            at + q->codes, absmax, (const T *)tensor_data(src), src->ld, q->cols, numel, q->block,
            tables, q->type);
    });
    LAUNCHED();
    if (!q->nested) return;
    mean_kernel<<<1, THREADS, 0, cuda_stream(d)>>>(tables + 16 + 256, absmax, n);
    LAUNCHED();
    unsigned grid = (unsigned)ceil_div(ceil_div(n, QUANT_NESTED_BLOCK), WARPS);
    encode_nested_kernel<<<grid, THREADS, 0, cuda_stream(d)>>>(
        at + q->scales, (float *)(at + q->nested_scales), absmax, n, tables);
    LAUNCHED();
    workspace_give(d);
}
