/* Products of a few rows with a quantised matrix: what every way of making them is given. */
#pragma once

#include "kernels/cuda/quant.cuh"

typedef struct Matvec {
    Tensor y, add, x;       /* add without storage: nothing is added */
    const QuantPart *parts; /* alike */
    int n_parts;
    QuantViews q;
    const NormBefore *norm; /* of x, by who does so (matvec_mma_norms); else NULL */
} Matvec;

static inline int matvec_n(const Matvec *m)
{
    return (int)tensor_rows(&m->x);
}

template <typename T> static inline const T *matvec_add(const Matvec *m)
{
    return m->add.storage ? (const T *)tensor_data(&m->add) : NULL;
}

/* nf4 and fp4 in bf16 on tensor cores (quant_matvec_mma.cu). */
bool matvec_mma_fits(const Device *d, const Matvec *m);
void matvec_mma(Device *d, const Matvec *m);
/* Whether it norms x on its way: one row, of a width that stays in shared memory. */
bool matvec_mma_norms(const Device *d, const Matvec *m, const NormBefore *norm);

/* Two rows or more of x and all types, in bf16 on tensor cores, where the matrix's rows are in sixteens (quant_matvec_tiles.cu). */
bool matvec_tiles_fit(const Matvec *m);
void matvec_tiles(Device *d, const Matvec *m);
