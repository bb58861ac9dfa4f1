/* The largest of each row, and the tokens that this makes the next ones. */
#include "kernels/cpu/cpu.h"

#include <math.h>

void cpu_argmax(Device *d, Tensor *best, const Tensor *x)
{
    (void)d;
    int64_t n = tensor_rows(x), cols = tensor_cols(x);
    ASSERT(tensor_numel(best) == n && best->dtype == DT_I32, "argmax: %lld rows for %lld",
           (long long)n, (long long)tensor_numel(best));
    int32_t *to = tensor_data(best);
    for (int64_t r = 0; r < n; r++) {
        const float *row = data_f32(x) + r * x->ld;
        int64_t at = -1;
        for (int64_t i = 0; i < cols; i++) {
            if (isnan(row[i]) || row[i] == INFINITY) {
                at = -1;
                break;
            }
            if (row[i] > (at < 0 ? -INFINITY : row[at])) at = i;
        }
        to[r] = (int32_t)at;
    }
}

void cpu_next_tokens(Device *d, Tensor *past, Tensor *ids, const Tensor *best)
{
    (void)d;
    int32_t *p = tensor_data(past);
    for (int64_t i = 0; i < tensor_numel(past); i++)
        p[i]++;
    if (!best) return;
    int32_t *to = tensor_data(ids);
    const int32_t *from = tensor_data(best);
    for (int64_t i = 0; i < tensor_numel(best); i++)
        to[i] = from[i] < 0 ? 0 : from[i];
}
