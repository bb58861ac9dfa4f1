/* Tolerances. */
#include "tests/support/close.h"

#include <math.h>
#include <stdio.h>

/* Rounding errors of a sum add up like a random walk; 8 leaves room for exp, division and the order of the
 * sum. */
double close_tolerance(DType dtype, int64_t length)
{
    double f32 = 0x1p-24 * (8 + 2 * sqrt((double)length));
    return dtype == DT_BF16 ? 0x1p-8 + f32 : dtype == DT_F16 ? 0x1p-11 + f32 : f32;
}

bool close_enough_of(const char *what, const float *got, const double *want, int64_t n,
                     double tolerance, double size)
{
    double largest = size, worst = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(want[i]));
    for (int64_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - want[i]);
        if (isnan(off)) off = INFINITY;
        if (off > worst) worst = off, at = i;
    }
    if (worst <= tolerance * largest) return true;
    fprintf(stderr,
            "%s: element %lld of %lld is %.9g, should be %.9g; off by %.2g of %.3g, allowed %.2g\n",
            what, (long long)at, (long long)n, (double)got[at], want[at],
            worst / fmax(largest, 1e-300), largest, tolerance);
    return false;
}

bool close_enough(const char *what, const float *got, const double *want, int64_t n,
                  double tolerance)
{
    return close_enough_of(what, got, want, n, tolerance, 0);
}
