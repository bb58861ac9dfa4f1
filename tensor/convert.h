/* Rows of numbers between float and the storage dtypes: round to nearest, ties to even; NaN stays NaN. */
#pragma once

#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* DT_F32, DT_BF16 or DT_F16; others die.  dst and src need not be aligned, and may not overlap. */
void convert_from_f32(void *dst, DType to, const float *src, int64_t n);
void convert_to_f32(float *dst, const void *src, DType from, int64_t n);

uint16_t bf16_from_f32(float f);
float bf16_to_f32(uint16_t h);
uint16_t f16_from_f32(float f);
float f16_to_f32(uint16_t h);

#ifdef __cplusplus
}
#endif
