/* Clipping by global norm. */
#include "optim/clip.h"

void clip_sum_squares(Device *d, Tensor *sum_squares, Tensor *const *grads, int n)
{
    tensor_zero(d, sum_squares);
    for (int i = 0; i < n; i++)
        d->k->sum_squares(d, sum_squares, 1.0f, grads[i]);
}

void clip_by_global_norm(Device *d, Tensor *step, const Tensor *sum_squares, const Tensor *loss,
                         double clip)
{
    d->k->step_scalars(d, step, sum_squares, loss, (float)clip);
}
