/* How near two results must be, decided in one place: by dtype and by how many terms were summed. */
#pragma once

#include "tensor/tensor.h"

/* Relative to the largest value of the result: rounding of sums of `length` terms in f32, and of the result to
 * `dtype`. */
double close_tolerance(DType dtype, int64_t length);

/* Compares n values with what they should be; false, and the worst on stderr, when one is off by more than
 * `tolerance` times the largest, or is not finite. */
bool close_enough(const char *what, const float *got, const double *want, int64_t n,
                  double tolerance);
/* The same for a result in which terms of about `size` may cancel: relative to size where that is larger. */
bool close_enough_of(const char *what, const float *got, const double *want, int64_t n,
                     double tolerance, double size);
