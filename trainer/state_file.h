/* state.safetensors of a checkpoint: fp32 master copy, m and v of every trained checkpoint tensor.  Its layout follows from
 * the tensors alone; each rank writes and reads the bytes that it keeps. */
#pragma once

#include "trainer/session.h"

typedef enum StateParts {
    STATE_WEIGHTS = 1,
    STATE_ALL = 3
} StateParts; /* arrays: master; and m, v */

/* All ranks. */
Status state_file_write(Session *s, const char *dir, Err *err) MUST_CHECK;
/* Every trained tensor must be there with its shape, and no other.  Working copies follow.  All ranks. */
Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err) MUST_CHECK;
