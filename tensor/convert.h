/* Rows of numbers between float and the storage dtypes: round to nearest, ties to even; NaN stays NaN. */
#pragma once

#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* DT_F32, DT_BF16 or DT_F16; others die.  dst and src need not be aligned, and may not overlap. */
void convert_from_f32(void *dst, DType to, const float *src, int64_t n);
void convert_to_f32(float *dst, const void *src, DType from, int64_t n);

/* A float as its nearest bf16 (halves away from zero) and the 16 bits that this leaves: bits = (hi << 16) + low, so that
 * the two together are the float exactly.  Any NaN becomes the quiet one. */
void convert_split(uint16_t *hi, int16_t *low, const float *src, int64_t n);
void convert_join(float *dst, const uint16_t *hi, const int16_t *low, int64_t n);

uint16_t bf16_from_f32(float f);
float bf16_to_f32(uint16_t h);
uint16_t f16_from_f32(float f);
float f16_to_f32(uint16_t h);

#ifdef __cplusplus
}
#endif
