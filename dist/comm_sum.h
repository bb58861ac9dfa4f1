/* Pieces of sums, for the kinds of Comm that add up themselves. */
#pragma once

#include "tensor/device.h"

/* Elements of t that rank r of n adds up in an all-reduce, as a vector without a reference of its own: *first is
 * their number in t.  May be none. */
Tensor comm_sum_piece(const Tensor *t, int r, int n, int64_t *first);
/* sum += as many elements of its dtype at `from`, memory of the same kind of device. */
void comm_sum_add(Device *d, Tensor *sum, const void *from);
