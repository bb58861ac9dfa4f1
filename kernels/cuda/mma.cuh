/* Tensor-core products of a warp (PTX mma.m16n8k16 and ldmatrix, sm_80 and later) in bf16, summed in f32.
 *
 * Lane l of a 16 x 8 result holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next: c[0], c[1] of the first row,
 * c[2], c[3] of the second. */
#pragma once

#include "kernels/cuda/cuda.cuh"

/* Four 8 x 8 matrices from shared memory: lanes 8 i to 8 i + 7 give the rows of the i-th, each sixteen bytes.  Lane l gets of
 * each row l / 4, columns 2 (l % 4) and the next; `turned`: of the transposed. */
__device__ inline void matrices_load(unsigned (&r)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}
__device__ inline void matrices_load_turned(unsigned (&r)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

/* c (16,8) += a (16,16) b (16,8) */
__device__ inline void mma_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* c (16,8) += a (16,8) b (8,8) */
__device__ inline void mma_add_8(float (&c)[4], unsigned a0, unsigned a1, unsigned b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
}
