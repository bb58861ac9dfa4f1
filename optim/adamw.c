/* AdamW: the scalars of a step, tables of ranges. */
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

AdamwArgs adamw_args(const AdamwOpts *opts)
{
    return (AdamwArgs){.beta1 = opts->beta1, .beta2 = opts->beta2, .eps = (float)opts->eps};
}

bool adamw_add_range(AdamwArgs *a, const AdamwOpts *opts, int64_t n, float lr_scale, bool decay)
{
    float weight_decay = decay ? (float)opts->weight_decay : 0.0f;
    AdamwRange *last = a->n_ranges > 0 ? &a->ranges[a->n_ranges - 1] : NULL;
    if (last && last->lr_scale == lr_scale && last->weight_decay == weight_decay) {
        last->end += n;
        return true;
    }
    if (a->n_ranges == ADAMW_MAX_RANGES) return false;
    a->ranges[a->n_ranges++] = (AdamwRange){(last ? last->end : 0) + n, lr_scale, weight_decay};
    return true;
}

void adamw_update(Device *d, AdamwArray *a, const Tensor *step)
{
    d->k->adamw(d, &a->weights, a->low.storage ? &a->low : NULL, &a->states, &a->grad, step,
                &a->args);
}
