/* The result of a run in OUTPUT itself: written beside and moved in file by file, so that no file there is
 * ever half written. */
#pragma once

#include "trainer/session.h"

/* All ranks. */
Status final_write(Session *s, Err *err) MUST_CHECK;
