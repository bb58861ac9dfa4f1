/* state.safetensors of a checkpoint: fp32 master copy, m and v of every trained checkpoint tensor; where these are in 8 bits,
 * their codes (U8) and the absmax of each STATES_BLOCK elements.  Its layout follows from the tensors and optim.states alone;
 * each rank writes and reads the bytes that it keeps. */
#pragma once

#include "trainer/session.h"

typedef enum StateParts { STATE_WEIGHTS, STATE_ALL } StateParts; /* masters; and AdamW's states */

/* All ranks. */
Status state_file_write(Session *s, const char *dir, Err *err) MUST_CHECK;
/* Every trained tensor must be there with its shape, and no other.  Working copies follow.  All ranks. */
Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err) MUST_CHECK;
