/* AdamW over flat arrays (Loshchilov & Hutter 2019; torch.optim.AdamW's arithmetic, kernels.h).  It knows
 * no model: the caller gives ranges and the scalars of the step, which live in device memory so that
 * no kernel argument changes from step to step. */
#pragma once

#include "kernels/kernels.h"

typedef struct AdamwOpts {
    double beta1, beta2, eps, weight_decay;
} AdamwOpts;

/* n elements with one learning-rate scale and one decision about decay; dense f32 views of one shape. */
typedef struct AdamwRange {
    Tensor master, grad, m, v;
    Tensor working; /* storage NULL: the master copy is what the model computes with */
    float lr_scale;
    bool decay;
} AdamwRange;

/* The scalars of update t (from 1): writes STEP_LR, STEP_BIAS1 and STEP_BIAS2 of step (STEP_N) f32. */
void adamw_begin(Device *d, Tensor *step, const AdamwOpts *opts, double lr, int64_t t);
/* Nothing happens when step[STEP_SKIP] is not 0. */
void adamw_update(Device *d, AdamwRange *ranges, int n, const Tensor *step, const AdamwOpts *opts);
