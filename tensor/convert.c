/* bfloat16 and half precision in software, for hosts that have neither. */
#include "tensor/convert.h"

#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t bf16_from_f32(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u); /* a quiet NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t f16_from_f32(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu));
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* from 65520 on */
    if (mag < 0x33000001u) return (uint16_t)sign; /* up to half of the smallest subnormal */
    int exponent = (int)(mag >> 23) - 112;        /* of the half, biased */
    uint32_t mantissa = (mag & 0x7fffffu) | 0x800000u;
    int shift = exponent >= 1 ? 13 : 14 - exponent;
    uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1),
             half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1u));
    /* the hidden bit of a normal number adds one to the exponent field, as does a carry */
    uint32_t field = exponent >= 1 ? (uint32_t)(exponent - 1) << 10 : 0;
    return (uint16_t)(sign | (field + kept));
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu,
             mantissa = h & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    float value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
}

void convert_split(uint16_t *hi, int16_t *low, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = bits_of(src[i]);
        u = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u;
        hi[i] = (uint16_t)((u + 0x8000u) >> 16);
        low[i] = (int16_t)(uint16_t)u;
    }
}

void convert_join(float *dst, const uint16_t *hi, const int16_t *low, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = float_of(((uint32_t)hi[i] << 16) + (uint32_t)(int32_t)low[i]);
}

/* Byte by byte as far as C knows: tensors in a mapped file begin anywhere. */
static uint16_t load16(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static void store16(unsigned char *p, uint16_t h)
{
    memcpy(p, &h, sizeof h);
}

void convert_from_f32(void *dst, DType to, const float *src, int64_t n)
{
    unsigned char *d = dst;
    switch (to) {
    case DT_F32:
        memcpy(dst, src, (size_t)n * sizeof *src);
        return;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++)
            store16(d + 2 * i, bf16_from_f32(src[i]));
        return;
    case DT_F16:
        for (int64_t i = 0; i < n; i++)
            store16(d + 2 * i, f16_from_f32(src[i]));
        return;
    default:
        panic("no conversion from f32 to %s", dtype_name(to));
    }
}

void convert_to_f32(float *dst, const void *src, DType from, int64_t n)
{
    const unsigned char *s = src;
    switch (from) {
    case DT_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(load16(s + 2 * i));
        return;
    case DT_F16:
        for (int64_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(load16(s + 2 * i));
        return;
    default:
        panic("no conversion from %s to f32", dtype_name(from));
    }
}
