/* What the kernels of quantised matrices share: the parts of one as pointers, and decoding of eight neighbours. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

typedef struct QuantView {
    const uint8_t *codes;
    const void *scales;
    const float *nested, *tables;
    const uint8_t *zeros;
    const int32_t *groups;
    int64_t rows, cols, block;
    int n_groups; /* of a row */
    bool is_nested, ordered;
} QuantView;

static inline QuantView quant_view(const Tensor *packed, const QuantPart *q)
{
    const uint8_t *p = (const uint8_t *)tensor_data(packed);
    QuantView v = {};
    v.codes = p + q->codes;
    v.scales = p + q->scales;
    v.nested = (const float *)(p + q->nested_scales);
    v.tables = (const float *)(p + q->tables);
    v.zeros = p + q->zeros;
    v.groups = (const int32_t *)(p + q->groups);
    v.rows = q->rows;
    v.cols = q->cols;
    v.block = q->block;
    v.n_groups = quant_is_group(q->type) ? (int)quant_n_scales(q) : 0;
    v.is_nested = q->nested;
    v.ordered = q->ordered;
    return v;
}

/* The absmax of a block of nf4 or fp4.  Two roundings, as bitsandbytes: no fused multiply-add. */
__device__ inline float block_scale(const QuantView &v, int64_t block)
{
    if (!v.is_nested) return ((const float *)v.scales)[block];
    float scale = __fmul_rn(v.tables[16 + ((const uint8_t *)v.scales)[block]],
                            v.nested[block / QUANT_NESTED_BLOCK]);
    return __fadd_rn(scale, v.tables[16 + 256]);
}

/* Bytes of eight codes. */
template <QuantType TYPE> struct Codes8 {
    typedef uint2 Word;
};
template <> struct Codes8<QUANT_NF4> { /* fp4 as well: the table is the part's own */
    typedef uint32_t Word;
};
template <> struct Codes8<QUANT_GROUP4> {
    typedef uint32_t Word;
};

/* Whether eight neighbours from a multiple of eight on share a row, a scale and an aligned word of codes. */
static inline bool codes_in_eights(const QuantPart *q)
{
    bool plain = q->cols % 8 == 0;
    if (quant_is_4bit(q->type)) return plain && q->block % 8 == 0;
    if (quant_is_group(q->type)) return plain && !q->ordered && q->block % 8 == 0;
    return plain;
}

/* The codes of elements [col, col + 8) of a row. */
template <QuantType TYPE>
__device__ inline typename Codes8<TYPE>::Word load8(const QuantView &v, int64_t row, int64_t col)
{
    int64_t at = row * v.cols + col;
    const bool half = sizeof(typename Codes8<TYPE>::Word) == 4;
    return *(const typename Codes8<TYPE>::Word *)(v.codes + (half ? at / 2 : at));
}

/* Their values before the scale, and the scale. */
template <QuantType TYPE>
__device__ inline float raw8(float out[8], typename Codes8<TYPE>::Word w, const QuantView &v,
                             const float *table, int64_t row, int64_t col)
{
    const uint8_t *bytes = (const uint8_t *)&w;
    if (TYPE == QUANT_NF4) {
        for (int i = 0; i < 4; i++) {
            out[2 * i] = table[bytes[i] >> 4];
            out[2 * i + 1] = table[bytes[i] & 15];
        }
        return block_scale(v, (row * v.cols + col) / v.block);
    }
    if (TYPE == QUANT_INT8 || TYPE == QUANT_FP8) {
        for (int i = 0; i < 8; i++)
            out[i] = TYPE == QUANT_INT8 ? (float)(int8_t)bytes[i] : fp8_to_f32(bytes[i]);
        return ((const float *)v.scales)[row];
    }
    int64_t group = row * v.n_groups + col / v.block;
    int zero = v.zeros[group];
    for (int i = 0; i < 8; i++) {
        int code = TYPE == QUANT_GROUP8 ? bytes[i] : bytes[i / 2] >> (i % 2 * 4) & 15;
        out[i] = (float)(code - zero);
    }
    return __half2float(((const __half *)v.scales)[group]);
}

template <QuantType TYPE> __device__ inline float scaled(float raw, float scale)
{
    if (TYPE == QUANT_INT8) return __fmul_rn(__fmul_rn(raw, scale), QUANT_INV127);
    return __fmul_rn(raw, scale);
}

/* One element, of any layout. */
template <QuantType TYPE>
__device__ inline float value_at(const QuantView &v, const float *table, int64_t row, int64_t col)
{
    int64_t at = row * v.cols + col;
    if (TYPE == QUANT_NF4) {
        int code = v.codes[at / 2] >> (at % 2 ? 0 : 4) & 15;
        return scaled<TYPE>(table[code], block_scale(v, at / v.block));
    }
    if (TYPE == QUANT_INT8)
        return scaled<TYPE>((float)(int8_t)v.codes[at], ((const float *)v.scales)[row]);
    if (TYPE == QUANT_FP8)
        return scaled<TYPE>(fp8_to_f32(v.codes[at]), ((const float *)v.scales)[row]);
    int64_t group = row * v.n_groups + (v.ordered ? v.groups[col] : col / v.block);
    int code = TYPE == QUANT_GROUP8
                   ? v.codes[at]
                   : v.codes[row * ((v.cols + 1) / 2) + col / 2] >> (col % 2 * 4) & 15;
    return scaled<TYPE>((float)(code - v.zeros[group]),
                        __half2float(((const __half *)v.scales)[group]));
}

/* The table of a block of threads in shared memory: sixteen values in sixteen banks, so that no two codes collide. */
template <QuantType TYPE> __device__ inline void load_table(float *shared, const QuantView &v)
{
    if (TYPE != QUANT_NF4) return;
    if (threadIdx.x < 16) shared[threadIdx.x] = v.tables[threadIdx.x];
    __syncthreads();
}

/* Calls fn with TYPE a compile-time constant; fp4 goes by nf4's way, with a table of its own. */
#define DISPATCH_QUANT(q, TYPE, ...)                                                               \
    do {                                                                                           \
        switch ((q)->type) {                                                                       \
        case QUANT_NF4:                                                                            \
        case QUANT_FP4: {                                                                          \
            const QuantType TYPE = QUANT_NF4;                                                      \
            __VA_ARGS__;                                                                           \
            break;                                                                                 \
        }                                                                                          \
        case QUANT_INT8: {                                                                         \
            const QuantType TYPE = QUANT_INT8;                                                     \
            __VA_ARGS__;                                                                           \
            break;                                                                                 \
        }                                                                                          \
        case QUANT_FP8: {                                                                          \
            const QuantType TYPE = QUANT_FP8;                                                      \
            __VA_ARGS__;                                                                           \
            break;                                                                                 \
        }                                                                                          \
        case QUANT_GROUP4: {                                                                       \
            const QuantType TYPE = QUANT_GROUP4;                                                   \
            __VA_ARGS__;                                                                           \
            break;                                                                                 \
        }                                                                                          \
        case QUANT_GROUP8: {                                                                       \
            const QuantType TYPE = QUANT_GROUP8;                                                   \
            __VA_ARGS__;                                                                           \
            break;                                                                                 \
        }                                                                                          \
        default:                                                                                   \
            panic("%s: %s", __func__, quant_type_name((q)->type));                                 \
        }                                                                                          \
    } while (0)
