/* The device that tests run on: $LORAC_TEST_BACKEND (cpu by default) in $LORAC_TEST_PRECISION (fp32 by default, or
 * bf16), so that every test of kernels, ops and models is a test of another column, too. */
#pragma once

#include "kernels/kernels.h"

/* $LORAC_TEST_TRACKED set: a memory checker is told of every tensor, and products are not timed. */
DeviceOpts test_device_opts(size_t region_bytes, int threads);
/* Dies with the reason when it cannot be opened.  region_bytes must be given: a GPU's default is all of it. */
void test_device_open(Device *d, size_t region_bytes, int threads);
const char *test_backend(void);
DType test_precision(void);
/* Dies unless all attention on d, of which there was some, went to the library's engine. */
void test_device_expect_flash(const Device *d);
