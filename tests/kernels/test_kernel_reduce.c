/* Sums over all elements, and counting what is not finite. */
#include "base/str.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const int64_t lengths[] = {0, 1, 15, 16, 17, 1000, 32768, 32769, 100003};

Test(kernel_reduce, sums)
{
    Bed b;
    bed_open(&b, 2);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        int64_t n = lengths[i];
        Tensor *x = bed_fill(&b, bed_vector(&b, n), 1, 1, 0.5);
        float *hx = bed_read(&b, x);
        double want[3] = {0.5, 5, 0};
        for (int64_t j = 0; j < n; j++) {
            want[0] += (double)hx[j];
            want[1] += (double)hx[j] * (double)hx[j];
        }
        want[2] = want[1] - 5;
        float start[2] = {0.5f, 5};
        Tensor *out[3] = {bed_vector(&b, 1), bed_vector(&b, 1), bed_vector(&b, 1)};
        tensor_write(&b.dev, out[0], &start[0]);
        tensor_write(&b.dev, out[1], &start[1]);
        b.dev.k->sum(&b.dev, out[0], 1, x);
        b.dev.k->sum_squares(&b.dev, out[1], 1, x);
        b.dev.k->sum_squares(&b.dev, out[2], 0, x); /* holds NaN before */
        for (int k = 0; k < 3; k++) {
            float *got = bed_read(&b, out[k]);
            cr_expect(close_enough("sum", got, &want[k], 1, 1e-7), "%d of %lld", k, (long long)n);
            free(got);
        }
        free(hx);
    }
    bed_close(&b);
}

Test(kernel_reduce, sums_do_not_lose_small_terms)
{
    enum { N = 1 << 17 };
    Bed b;
    bed_open(&b, 2);
    float *x = xmalloc(N * sizeof *x);
    for (int i = 0; i < N; i++)
        x[i] = i ? 1e-4f : 1e6f; /* a float sum would stay at 1e6 */
    Tensor *t = bed_vector(&b, N), *out = bed_vector(&b, 1);
    tensor_write(&b.dev, t, x);
    b.dev.k->sum(&b.dev, out, 0, t);
    float *got = bed_read(&b, out);
    cr_expect_float_eq((double)got[0], 1e6 + 1e-4 * (N - 1), 0.1);
    free(x), free(got);
    bed_close(&b);
}

Test(kernel_reduce, count_nonfinite)
{
    enum { N = 100000 };
    Bed b;
    bed_open(&b, 2);
    float *x = xcalloc(N, sizeof *x);
    x[0] = NAN, x[1] = -INFINITY, x[40000] = INFINITY, x[N - 1] = -NAN;
    x[7] = 3.4e38f, x[8] = -1e-45f; /* finite */
    Tensor *t = bed_vector(&b, N), *out = bed_vector(&b, 1);
    tensor_write(&b.dev, t, x);
    b.dev.k->count_nonfinite(&b.dev, out, 0, t);
    b.dev.k->count_nonfinite(&b.dev, out, 1, t);
    float *got = bed_read(&b, out);
    cr_expect_eq(got[0], 8.0f);
    free(x), free(got);
    bed_close(&b);
}
