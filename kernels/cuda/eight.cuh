/* Eight elements a thread, in f32, of flat arrays of either dtype: sixteen bytes of what has two bytes an element. */
#pragma once

#include "kernels/cuda/cuda.cuh"

enum { EACH = 8 };

struct Eight {
    float v[EACH];
};

__device__ static inline Eight eight_load(const float *p)
{
    Eight x;
    for (int k = 0; k < 2; k++) {
        Vec<float> q = vec_load(p + 4 * k);
        for (int j = 0; j < 4; j++)
            x.v[4 * k + j] = q.v[j];
    }
    return x;
}

__device__ static inline Eight eight_load(const bf16 *p)
{
    Vec<bf16> q = vec_load(p);
    Eight x;
    for (int j = 0; j < EACH; j++)
        x.v[j] = to_f32(q.v[j]);
    return x;
}

__device__ static inline void eight_store(float *p, const Eight &x)
{
    for (int k = 0; k < 2; k++) {
        Vec<float> q;
        for (int j = 0; j < 4; j++)
            q.v[j] = x.v[4 * k + j];
        vec_store(p + 4 * k, q);
    }
}

__device__ static inline void eight_store(bf16 *p, const Eight &x)
{
    bits_store(p, bits_from_f32(x.v));
}
