/* What the kernels of quantised matrices share: the parts of one as pointers, and decoding of eight neighbours. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

typedef struct QuantView {
    const uint8_t *codes;
    const void *scales;
    const float *nested, *tables;
    const uint8_t *zeros;
    const int32_t *groups;
    int64_t rows, cols, block;
    int shift;    /* of an element (groups: a column) to its block; -1: block is no power of two */
    int n_groups; /* of a row */
    bool is_nested, ordered;
} QuantView;

/* The parts of a matrix, all of one type and one width: rows [first[i], first[i + 1]). */
typedef struct QuantViews {
    QuantView part[QUANT_MAX_PARTS];
    int32_t first[QUANT_MAX_PARTS + 1];
    int n;
} QuantViews;

static inline int shift_of(const QuantPart *q)
{
    if (quant_is_group(q->type) && q->block >= q->cols) return 31; /* one group a row */
    int shift = 0;
    while (((int64_t)1 << shift) < q->block)
        shift++;
    return ((int64_t)1 << shift) == q->block ? shift : -1;
}

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
    v.shift = shift_of(q);
    v.n_groups = quant_is_group(q->type) ? (int)quant_n_scales(q) : 0;
    v.is_nested = q->nested;
    v.ordered = q->ordered;
    return v;
}

static inline QuantViews quant_views(const Tensor *packed, const QuantPart *parts, int n)
{
    QuantViews q = {};
    q.n = n;
    for (int i = 0; i < n; i++) {
        q.part[i] = quant_view(packed, &parts[i]);
        q.first[i + 1] = q.first[i] + (int32_t)parts[i].rows;
    }
    for (int i = n; i < QUANT_MAX_PARTS; i++)
        q.first[i + 1] = INT32_MAX;
    return q;
}

/* How many of the parts, from the first on, one launch can take: they are encoded alike. */
static inline int quant_alike(const QuantPart *parts, int n)
{
    int k = 1;
    while (k < n && parts[k].type == parts[0].type && parts[k].block == parts[0].block &&
           parts[k].cols == parts[0].cols && parts[k].ordered == parts[0].ordered &&
           parts[k].nested == parts[0].nested)
        k++;
    return k;
}

/* Which part a row is in. */
__device__ inline int part_of(const QuantViews &q, int64_t row)
{
    return (row >= q.first[1]) + (row >= q.first[2]);
}

/* What nf4 and fp4 look up, in shared memory, one for each part.  The sixteen values of codes lie in sixteen banks, so
 * that no two collide. */
typedef struct QuantTables {
    float code[16], map[256], offset;
} QuantTables;

/* All threads of the block; ends with a barrier. */
template <QuantType TYPE> __device__ inline void load_tables(QuantTables *to, const QuantViews &q)
{
    if (TYPE == QUANT_NF4) {
        for (int k = 0; k < q.n; k++) {
            const int n = q.part[k].is_nested ? 16 + 256 + 1 : 16;
            for (int i = threadIdx.x; i < n; i += blockDim.x)
                ((float *)&to[k])[i] = q.part[k].tables[i];
        }
        __syncthreads();
    }
}

/* The absmax of a block of nf4 or fp4, and its two halves apart: what is read, and what is made of it.  Two roundings, as
 * bitsandbytes: no fused multiply-add. */
typedef struct RawScale {
    uint32_t bits; /* of the absmax, or its code */
    float nested;
} RawScale;

__device__ inline RawScale scale_read(const QuantView &v, int64_t block)
{
    RawScale s = {};
    if (v.is_nested) {
        s.bits = ((const uint8_t *)v.scales)[block];
        s.nested = v.nested[block / QUANT_NESTED_BLOCK];
    } else {
        s.bits = ((const uint32_t *)v.scales)[block];
    }
    return s;
}

__device__ inline float scale_value(const QuantTables &t, bool is_nested, RawScale s)
{
    if (!is_nested) return __uint_as_float(s.bits);
    return __fadd_rn(__fmul_rn(t.map[s.bits], s.nested), t.offset);
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
    bool plain = q->cols % 8 == 0 && quant_numel(q) / 8 < INT32_MAX;
    if (quant_is_4bit(q->type)) return plain && shift_of(q) >= 3;
    if (quant_is_group(q->type)) return plain && !q->ordered && shift_of(q) >= 3;
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
                             const QuantTables &t, int64_t row, int64_t col)
{
    const uint8_t *bytes = (const uint8_t *)&w;
    if (TYPE == QUANT_NF4) {
        for (int i = 0; i < 4; i++) {
            out[2 * i] = t.code[bytes[i] >> 4];
            out[2 * i + 1] = t.code[bytes[i] & 15];
        }
        return scale_value(t, v.is_nested, scale_read(v, (row * v.cols + col) >> v.shift));
    }
    if (TYPE == QUANT_INT8 || TYPE == QUANT_FP8) {
        for (int i = 0; i < 8; i++)
            out[i] = TYPE == QUANT_INT8 ? (float)(int8_t)bytes[i] : fp8_to_f32(bytes[i]);
        return ((const float *)v.scales)[row];
    }
    int64_t group = row * v.n_groups + ((int)col >> v.shift);
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
__device__ inline float value_at(const QuantView &v, const QuantTables &t, int64_t row, int64_t col)
{
    int64_t at = row * v.cols + col;
    if (TYPE == QUANT_NF4) {
        int code = v.codes[at / 2] >> (at % 2 ? 0 : 4) & 15;
        return scaled<TYPE>(t.code[code], scale_value(t, v.is_nested, scale_read(v, at / v.block)));
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
