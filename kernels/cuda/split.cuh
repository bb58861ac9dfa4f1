/* An f32 as its nearest bf16 and the 16 bits that this leaves; tensor/convert.h's convert_split and convert_join. */
#pragma once

#include "kernels/cuda/cuda.cuh"

__device__ static inline bf16 split_of(float x, int16_t *low)
{
    unsigned u = x == x ? __float_as_uint(x) : 0x7fc00000u;
    *low = (int16_t)(unsigned short)u;
    return __ushort_as_bfloat16((unsigned short)((u + 0x8000u) >> 16));
}

__device__ static inline float split_join(bf16 hi, int16_t low)
{
    return __uint_as_float(((unsigned)__bfloat16_as_ushort(hi) << 16) + (unsigned)(int)low);
}
