/* The global gradient norm, and what follows from it: the clipping factor and the flag that turns the
 * update into a no-op when something is not finite. */
#pragma once

#include "kernels/kernels.h"

/* sum_squares (1) f32 of all n gradients (dense f32). */
void clip_sum_squares(Device *d, Tensor *sum_squares, Tensor *const *grads, int n);
/* step[STEP_GRAD_SCALE] and step[STEP_SKIP] from the sum (over all ranks) and loss (1) f32.  clip 0: no clipping. */
void clip_by_global_norm(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                         double clip);
