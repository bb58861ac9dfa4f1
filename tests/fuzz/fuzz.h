/* What every fuzz target defines: libFuzzer's entry (docs/fuzzing.md).  It must free all it takes, and
 * may abort only where the program is wrong.  Always returns 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
