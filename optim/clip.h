/* The global gradient norm, and what follows from it: the clipping factor and the flag that turns the
 * update into a no-op when something is not finite. */
#pragma once

#include "kernels/kernels.h"

/* sum_squares (1) f32 of all n gradients (dense f32); then step[STEP_GRAD_SCALE] and step[STEP_SKIP] from
 * it and loss (1) f32.  clip 0: no clipping, the norm is still computed. */
void clip_by_global_norm(Device *d, Tensor *step, Tensor *sum_squares, Tensor *const *grads, int n,
                         const Tensor *loss, double clip);
