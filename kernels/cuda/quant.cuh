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

/* The last byte of its address is 0, so that the address of a value is the table's with four times the code for that byte. */
struct alignas(256) AlignedTables : QuantTables {
};

/* All threads of the block; ends with a barrier. */
template <QuantType TYPE> __device__ inline void load_tables(AlignedTables *to, const QuantViews &q)
{
    if (TYPE == QUANT_NF4) {
        const int n = q.part[0].is_nested ? 16 + 256 + 1 : 16; /* of all parts */
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            float x[QUANT_MAX_PARTS];
#pragma unroll
            for (int k = 0; k < QUANT_MAX_PARTS; k++)
                if (k < q.n) x[k] = q.part[k].tables[i];
#pragma unroll
            for (int k = 0; k < QUANT_MAX_PARTS; k++)
                if (k < q.n) ((float *)&to[k])[i] = x[k];
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

__device__ inline RawScale scale_read(const QuantView &v, uint32_t block)
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

/* The codes of the at-th eight elements of a part. */
template <QuantType TYPE>
__device__ inline typename Codes8<TYPE>::Word codes8(const QuantView &v, uint32_t at)
{
    return ((const typename Codes8<TYPE>::Word *)v.codes)[at];
}

/* What their scale is made of: they are the `own`-th eight of their row.  Groups: the zero above the scale's bits. */
template <QuantType TYPE>
__device__ inline RawScale scale8_read(const QuantView &v, uint32_t row, uint32_t own, uint32_t at)
{
    if (TYPE == QUANT_NF4) return scale_read(v, at >> (v.shift - 3));
    RawScale s = {};
    if (TYPE == QUANT_INT8 || TYPE == QUANT_FP8) {
        s.bits = ((const uint32_t *)v.scales)[row];
    } else {
        const uint32_t group = row * v.n_groups + (own >> (v.shift - 3));
        s.bits = ((const uint16_t *)v.scales)[group] | (uint32_t)v.zeros[group] << 16;
    }
    return s;
}

/* The i-th of four values in `table`, by codes times four in the bytes of `fours`. */
__device__ inline float looked_up(const AlignedTables &table, uint32_t fours, int i)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(table.code);
    return *(const float *)__cvta_shared_to_generic(__byte_perm(fours, at, 0x7650 + i));
}

/* The i-th byte less `zero` as a number: it stands as the last bits of 2^23, whose unit is one.  Exact, and without a conversion,
 * which runs on fewer lanes than a subtraction. */
__device__ inline float byte_less(uint32_t bytes, int i, uint32_t zero)
{
    const float with = __uint_as_float(__byte_perm(bytes, 0x4b000000, 0x7440 + i));
    return with - __uint_as_float(0x4b000000 + zero);
}

/* Eight values before their scale, and the scale. */
template <QuantType TYPE>
__device__ inline float raw8(float (&x)[8], typename Codes8<TYPE>::Word w, RawScale s,
                             const AlignedTables &t, bool is_nested)
{
    if constexpr (TYPE == QUANT_NF4) {
        const uint32_t high = w >> 2 & 0x3c3c3c3c, low = w << 2 & 0x3c3c3c3c;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = looked_up(t, high, i);
            x[2 * i + 1] = looked_up(t, low, i);
        }
        return scale_value(t, is_nested, s);
    } else if constexpr (TYPE == QUANT_FP8) {
#pragma unroll
        for (int i = 0; i < 4; i++) { /* exact: half precision has all of them */
            const uint32_t two = (i < 2 ? w.x : w.y) >> i % 2 * 16;
            const float2 both = __half22float2(
                __half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3)));
            x[2 * i] = both.x;
            x[2 * i + 1] = both.y;
        }
        return __uint_as_float(s.bits);
    } else if constexpr (TYPE == QUANT_GROUP4) {
        const uint32_t low = w & 0x0f0f0f0f, high = w >> 4 & 0x0f0f0f0f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = byte_less(low, i, s.bits >> 16);
            x[2 * i + 1] = byte_less(high, i, s.bits >> 16);
        }
        return __half2float(__ushort_as_half((unsigned short)s.bits));
    } else {
        const bool is_signed = TYPE == QUANT_INT8; /* then 128 more, without a sign */
        const uint32_t flip = is_signed ? 0x80808080 : 0, zero = is_signed ? 128 : s.bits >> 16;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[i] = byte_less(w.x ^ flip, i, zero);
            x[4 + i] = byte_less(w.y ^ flip, i, zero);
        }
        return is_signed ? __uint_as_float(s.bits)
                         : __half2float(__ushort_as_half((unsigned short)s.bits));
    }
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
        return scaled<TYPE>(t.code[code],
                            scale_value(t, v.is_nested, scale_read(v, (uint32_t)(at / v.block))));
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
