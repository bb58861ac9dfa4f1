/* state.safetensors of a checkpoint: fp32 master copy, m and v of every trained checkpoint tensor. */
#pragma once

#include "trainer/session.h"

typedef enum StateParts {
    STATE_WEIGHTS = 1,
    STATE_ALL = 3
} StateParts; /* arrays: master; and m, v */

Status state_file_write(const Session *s, const char *dir, Err *err) MUST_CHECK;
/* Every trained tensor must be there with its shape, and no other.  Working copies follow. */
Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err) MUST_CHECK;
