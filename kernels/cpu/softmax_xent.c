/* Cross-entropy of rows of logits, which become their own gradient. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <math.h>

typedef struct Xent {
    float *loss, *logits;
    const int32_t *targets;
    int64_t vocab, ld;
    float grad_scale;
} Xent;

VECTORISED static void xent_rows(void *args, int64_t row0, int64_t row1)
{
    const Xent *a = args;
    for (int64_t r = row0; r < row1; r++) {
        float *x = a->logits + r * a->ld;
        int32_t target = a->targets[r];
        ASSERT(target >= 0 && target < a->vocab,
               "softmax_xent: target %d of row %lld, vocabulary %lld", target, (long long)r,
               (long long)a->vocab);
        float max = vec_max(x, a->vocab), at_target = x[target];
        double sum = vec_exp(a->grad_scale != 0 ? x : NULL, x, max, a->vocab);
        a->loss[r] = (float)(log(sum) + (double)max - (double)at_target);
        if (a->grad_scale == 0) continue;
        float scale = (float)((double)a->grad_scale / sum);
        for (int64_t i = 0; i < a->vocab; i++)
            x[i] *= scale;
        x[target] -= a->grad_scale;
    }
}

void cpu_softmax_xent(Device *d, Tensor *loss, Tensor *logits, const Tensor *targets,
                      float grad_scale)
{
    int64_t n = tensor_rows(logits), vocab = tensor_cols(logits);
    ASSERT(tensor_numel(loss) == n && tensor_numel(targets) == n && vocab > 0,
           "softmax_xent: %lld rows, %lld losses, %lld targets", (long long)n,
           (long long)tensor_numel(loss), (long long)tensor_numel(targets));
    Xent a = {dense_f32(loss), data_f32(logits), data_i32(targets), vocab, logits->ld, grad_scale};
    rows_run(d, n, 8 * vocab, xent_rows, &a);
}
