/* One run a folder: a second one that is started by mistake must not write between the lines of the first. */
#pragma once

#include "base/err.h"

/* *lock: a descriptor that holds DIR/.lock until it is closed or the process ends, however it ends.  E_FAILED when
 * another process (or an earlier call) holds it. */
Status run_lock_take(int *lock, const char *dir, Err *err) MUST_CHECK;
void run_lock_give(int lock); /* -1 is fine */
