/* AdamW over flat arrays (Loshchilov & Hutter 2019; torch.optim.AdamW's arithmetic, kernels.h).  It knows
 * no model: the caller gives ranges and the scalars of the step, which live in device memory so that
 * no kernel argument changes from step to step. */
#pragma once

#include "kernels/kernels.h"

typedef struct AdamwOpts {
    double beta1, beta2, eps, weight_decay;
} AdamwOpts;

/* A flat array that is updated in one go: views of the weights, of what they lack of their master copies (storage NULL on
 * an f32 device), of gradient and states; all dense (n), the ranges end at n. */
typedef struct AdamwArray {
    Tensor weights, low, grad;
    AdamwStates states;
    AdamwArgs args;
} AdamwArray;

/* Without ranges. */
AdamwArgs adamw_args(const AdamwOpts *opts);
/* n more elements; joined with the last range when they are updated like it.  False: ADAMW_MAX_RANGES are there. */
bool adamw_add_range(AdamwArgs *a, const AdamwOpts *opts, int64_t n, float lr_scale, bool decay);

/* The scalars of update t (from 1): writes all of step (STEP_N) f32: rate, corrections, no clipping, no
 * skipping. */
void adamw_begin(Device *d, Tensor *step, const AdamwOpts *opts, double lr, int64_t t);
/* Nothing happens when step[STEP_SKIP] is not 0. */
void adamw_update(Device *d, AdamwArray *a, const Tensor *step);
