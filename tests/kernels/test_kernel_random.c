/* Random tensors: each element is the draw of its index, whatever the shape and the column. */
#include "base/str.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

Test(kernel_random, fill_normal_draws_by_index)
{
    static const int64_t sizes[] = {1, 3, 255, 4096, 100001};
    Bed b;
    bed_open(&b, 3);
    for (int i = 0; i < 5; i++) {
        int64_t n = sizes[i];
        Tensor *t = bed_vector(&b, n);
        b.dev.k->fill_normal(&b.dev, t, NULL, 99, 0.5, 0.25);
        float *got = bed_read(&b, t);
        double *want = xcalloc((size_t)n, sizeof *want), sum = 0;
        for (int64_t k = 0; k < n; k++) {
            want[k] = 0.5 + 0.25 * rng_normal(99, (uint64_t)k);
            sum += (double)got[k];
        }
        cr_expect(close_enough("fill_normal", got, want, n, close_tolerance(DT_F32, 1)));
        cr_expect_lt(fabs(sum / (double)n - 0.5), 5 * 0.25 / sqrt((double)n));
        free(got), free(want);
    }
    Tensor *m = bed_matrix(&b, 7, 5, 24);
    b.dev.k->fill_normal(&b.dev, m, NULL, 3, 0, 1);
    float *rows = bed_read(&b, m);
    for (uint64_t k = 0; k < 35; k++)
        cr_expect_float_eq((double)rows[k], rng_normal(3, k), 1e-6);
    cr_expect(bed_pad_intact(&b, m));
    free(rows);
    bed_close(&b);
}
