/* What AdamW's kernels share: the master copy, the scalars of a range. */
#pragma once

#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/split.cuh"
#include "kernels/cuda/table.h"

/* The master copy: an f32 array, or a bf16 one with what it lacks. */
__device__ static inline Eight master_load(const float *w, const int16_t *)
{
    return eight_load(w);
}

__device__ static inline Eight master_load(const bf16 *w, const int16_t *low)
{
    Vec<bf16> hi = vec_load(w);
    Vec<int16_t> lo = vec_load(low);
    Eight x;
    for (int j = 0; j < EACH; j++)
        x.v[j] = split_join(hi.v[j], lo.v[j]);
    return x;
}

__device__ static inline void master_store(float *w, int16_t *, const Eight &x)
{
    eight_store(w, x);
}

__device__ static inline void master_store(bf16 *w, int16_t *low, const Eight &x)
{
    Vec<bf16> hi;
    Vec<int16_t> lo;
    for (int j = 0; j < EACH; j++)
        hi.v[j] = split_of(x.v[j], &lo.v[j]);
    vec_store(w, hi);
    vec_store(low, lo);
}

__device__ static inline float master_load_one(const float *w, const int16_t *)
{
    return *w;
}
__device__ static inline float master_load_one(const bf16 *w, const int16_t *low)
{
    return split_join(*w, *low);
}
__device__ static inline void master_store_one(float *w, int16_t *, float x)
{
    *w = x;
}
__device__ static inline void master_store_one(bf16 *w, int16_t *low, float x)
{
    *w = split_of(x, low);
}

/* What a range and the step make of the constants. */
struct Factors {
    float beta1, beta2, rest1, rest2, eps, keep, step_size, rsqrt_bias2,
        grad_scale; /* rest: 1 - beta */
};

__device__ static inline Factors factors_of(const AdamwArgs &a, int range, const float *step)
{
    float lr = step[STEP_LR] * a.ranges[range].lr_scale;
    Factors f = {(float)a.beta1,
                 (float)a.beta2,
                 (float)(1.0 - a.beta1),
                 (float)(1.0 - a.beta2),
                 a.eps,
                 1.0f - lr * a.ranges[range].weight_decay,
                 lr / step[STEP_BIAS1],
                 rsqrtf(step[STEP_BIAS2]),
                 step[STEP_GRAD_SCALE]};
    return f;
}

/* adamw with states in 8 bits (adamw8.cu); the shapes were looked at. */
void cuda_adamw8(Device *d, Tensor *w, Tensor *low, AdamwStates *states, const Tensor *grad,
                 const Tensor *step, const AdamwArgs *args);
