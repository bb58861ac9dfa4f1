/* Quantised matrices: their number formats, and how the bytes of one lie in memory.  Encoding and decoding tensors is
 * the kernels' (kernels.h: quantize, dequantize); the arithmetic of a single number, which both columns share, is here.
 *
 *   nf4, fp4  4 bits of a table of 16 values, times the absmax of `block` consecutive elements of the flattened matrix
 *             (Dettmers et al. 2023; bitsandbytes functional.py).  nested: the absmax less their mean (`offset`) are 8-bit
 *             codes of the dynamic map, times the absmax of 256 of them (double quantisation).
 *   int8      w in float16 times quant_int8_factor, rounded, the row's absmax kept as SCB (Dettmers et al. 2022, LLM.int8)
 *   fp8       E4M3 of w / scale, scale = absmax of the row / 448
 *   group4/8  scale (q - zero) with a scale and a zero for `block` columns of a row, or for the columns that carry one
 *             number in `groups` (act-order): GPTQ and AWQ (Frantar et al. 2022, Lin et al. 2023).  Read from files only. */
#pragma once

#include "base/rng.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QuantType {
    QUANT_NONE,
    QUANT_NF4,
    QUANT_FP4,
    QUANT_INT8,
    QUANT_FP8,
    QUANT_GROUP4,
    QUANT_GROUP8,
    QUANT_N
} QuantType;
const char *quant_type_name(QuantType t); /* "nf4", ...; "none" */

/* One of those that weights can be encoded as (nf4, fp4, int8, fp8); false: no such name. */
bool quant_type_find(QuantType *out, const char *name);

/* nf4 and fp4: elements of a scale, by default, and the least and most; powers of two, as in bitsandbytes. */
enum { QUANT_BLOCK = 64, QUANT_LEAST_BLOCK = 32, QUANT_MOST_BLOCK = 4096 };
enum { QUANT_NESTED_BLOCK = 256, QUANT_MAX_PARTS = 3 };

bool quant_block_is_known(int64_t block);

/* One checkpoint tensor (rows, cols) inside the packed bytes of its matrix.  Offsets are in bytes, multiples of 256:
 *
 *   codes   nf4, fp4: n/2, the first element in the high nibble; int8, fp8, group8: n; group4: n/2, the first element in
 *           the low nibble, each row from a byte of its own
 *   scales  nf4, fp4: f32, or u8 when nested; int8, fp8: f32 a row; groups: f16 (rows, groups)
 *   nested  nested: f32, one for 256 scales
 *   tables  nf4, fp4: f32 [16]; nested: then the map [256] and the offset [1]
 *   zeros   groups: u8 (rows, groups)
 *   groups  ordered: i32 (cols), the group of each column */
typedef struct QuantPart {
    QuantType type;
    int64_t rows, cols;
    int64_t
        block;   /* nf4, fp4: elements of a scale; groups: columns of one (cols: one group a row) */
    bool nested; /* nf4, fp4 */
    bool ordered; /* groups */
    size_t codes, scales, nested_scales, tables, zeros, groups;
    size_t
        sums; /* f32 [2]: of the squares of what was encoded, and of what that lost; 0 where nobody knows */
} QuantPart;

/* A matrix whose rows are one to three checkpoint tensors, back to back.  What Tensor.quant points at. */
typedef struct Quant {
    QuantPart parts[QUANT_MAX_PARTS];
    int n_parts;
    float
        outliers; /* int8, evaluation alone: threshold of quant_mixed (kernels.h); 0: weights alone are in 8 bits */
    int64_t room;  /* rows that a scratch for the values needs behind the matrix */
    Tensor packed; /* (bytes) u8; storage NULL: not gathered, or not allocated yet */
} Quant;

static inline bool quant_is_4bit(QuantType t)
{
    return t == QUANT_NF4 || t == QUANT_FP4;
}
static inline bool quant_is_group(QuantType t)
{
    return t == QUANT_GROUP4 || t == QUANT_GROUP8;
}

int64_t quant_numel(const QuantPart *q);
int64_t quant_n_scales(const QuantPart *q); /* of the matrix; of a row for group types */
size_t quant_codes_bytes(const QuantPart *q);
size_t quant_scales_bytes(const QuantPart *q);
size_t quant_nested_bytes(const QuantPart *q);
size_t quant_tables_bytes(const QuantPart *q);
size_t quant_zeros_bytes(const QuantPart *q);
size_t quant_groups_bytes(const QuantPart *q);
/* Sets the offsets from *used on, and moves it behind. */
void quant_place(QuantPart *q, size_t *used);
/* What is stored, per weight; tables count. */
double quant_bits(const QuantPart *q);
/* Kernel scratch for encoding: the absmax of a nested part. */
size_t quant_encode_scratch(const QuantPart *q);

/* The 16 values of nf4 or fp4 by code, and the 256 of the dynamic 8-bit map (Dettmers 2016; ascending): as
 * bitsandbytes' float32 has them, bit for bit. */
const float *quant_table(QuantType t);
void quant_dynamic_map(float map[256], bool is_signed);
/* What a part's `tables` hold; n >= quant_tables_bytes / 4.  The offset is left 0. */
void quant_fill_tables(float *out, const QuantPart *q);

/* ---- one number --------------------------------------------------------------------------------- */

/* How many midpoints of neighbours in map[0..n) (ascending) lie below x: the index of the nearest entry, the lower one
 * of two at the same distance. */
RNG_FN int quant_nearest(const float *map, int n, float x)
{
    int low = 0, high = n - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (x > (map[mid] + map[mid + 1]) * 0.5f)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The code of x in [-1, 1].  nf4's table ascends.  fp4's does not: its code is a sign and a place among the magnitudes; of
 * its two zeros the one with the sign bit takes what lies above 0, as in bitsandbytes' CPU column. */
RNG_FN int quant_encode4(QuantType type, const float *table, float x)
{
    if (type == QUANT_NF4) return quant_nearest(table, 16, x);
    /* codes by value: -1, -2/3, ... -0.0052, 0, 0, 0.0052, ... 1 */
    const uint64_t by_value = 0x3254761809EFCDABull;
    int at = 0;
    for (int low = 0, high = 15; low <= high; at = low) {
        if (low == high) break;
        int mid = (low + high) / 2;
        float a = table[by_value >> (4 * mid) & 15], b = table[by_value >> (4 * mid + 4) & 15];
        if (x > (a + b) * 0.5f)
            low = mid + 1;
        else
            high = mid;
    }
    return (int)(by_value >> (4 * at) & 15);
}

/* E4M3 (bias 7, no infinity, NaN 0x7f; OCP 8-bit floating point 1.0): round to nearest, ties to even; beyond +-448
 * saturated. */
RNG_FN uint8_t fp8_from_f32(float f)
{
    union {
        float f;
        uint32_t u;
    } b;
    b.f = f;
    uint8_t sign = (uint8_t)(b.u >> 24 & 0x80u);
    uint32_t mag = b.u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    if (mag >= 0x43e80000u) return (uint8_t)(sign | 0x7eu); /* from 464, half-way to 480, on */
    int exponent = (int)(mag >> 23) - 120;                  /* biased by 7 */
    if (exponent < -3) return sign;                         /* below half of the least: 2^-10 */
    uint32_t mantissa = (mag & 0x7fffffu) | 0x800000u;
    int shift = exponent >= 1 ? 20 : 21 - exponent;
    uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1),
             half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1u));
    uint32_t code = exponent >= 1 ? ((uint32_t)(exponent - 1) << 3) + kept : kept;
    return (uint8_t)(sign | (code > 0x7eu ? 0x7eu : code));
}

RNG_FN float fp8_to_f32(uint8_t code)
{
    union {
        uint32_t u;
        float f;
    } b;
    uint32_t sign = (uint32_t)(code & 0x80u) << 24, exponent = code >> 3 & 15u,
             mantissa = code & 7u;
    if ((code & 0x7fu) == 0x7fu)
        b.u = sign | 0x7fc00000u;
    else if (exponent)
        b.u = sign | (exponent + 120) << 23 | mantissa << 20;
    else {
        b.f = (float)mantissa * 0.001953125f;
        b.u |= sign;
    }
    return b.f;
}

/* What a row whose absmax is `most` is multiplied by for its int8 codes: in bitsandbytes 127.0 / absmax, of a tensor, which torch
 * works out as the reciprocal times 127; its GPU kernel divides, and has another code in one of 3,000 near a tie. */
RNG_FN float quant_int8_factor(float most)
{
    return most > 0 ? (1.0f / most) * 127.0f : 0.0f;
}

/* The most rows of x that quant_matvec takes (kernels.h). */
enum { QUANT_MATVEC_ROWS = 8 };

#define QUANT_FP8_MAX 448.0f
/* 1/127 as bitsandbytes multiplies by it. */
#define QUANT_INV127         7.874015718698502e-3f
#define QUANT_INV127_SQUARED 6.2000124e-5f
/* int32 holds the sum of fewer products of two codes. */
enum { QUANT_MIXED_COLS = 1 << 17 };

#ifdef __cplusplus
}
#endif
