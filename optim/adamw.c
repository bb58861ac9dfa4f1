/* AdamW: the scalars of a step and a walk over ranges. */
#include "optim/adamw.h"

#include <math.h>

void adamw_begin(Device *d, Tensor *step, const AdamwOpts *opts, double lr, int64_t t)
{
    ASSERT(tensor_numel(step) == STEP_N && t >= 1, "step %lld", (long long)t);
    /* 1 - beta^t is taken in double: in float it would lose all digits for beta2 near 1 */
    float host[STEP_N] = {[STEP_LR] = (float)lr,
                          [STEP_BIAS1] = (float)(1.0 - pow(opts->beta1, (double)t)),
                          [STEP_BIAS2] = (float)(1.0 - pow(opts->beta2, (double)t)),
                          [STEP_GRAD_SCALE] = 1.0f};
    tensor_write(d, step, host);
}

void adamw_update(Device *d, AdamwRange *ranges, int n, const Tensor *step, const AdamwOpts *opts)
{
    for (int i = 0; i < n; i++) {
        AdamwRange *r = &ranges[i];
        AdamwArgs args = {.beta1 = (float)opts->beta1,
                          .beta2 = (float)opts->beta2,
                          .eps = (float)opts->eps,
                          .weight_decay = r->decay ? (float)opts->weight_decay : 0.0f,
                          .lr_scale = r->lr_scale};
        d->k->adamw(d, &r->master, r->working.storage ? &r->working : NULL, &r->m, &r->v, &r->grad,
                    step, args);
    }
}
