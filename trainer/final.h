/* The result of a run in OUTPUT itself: written beside and moved in file by file, so that no file there is
 * ever half written. */
#pragma once

#include "trainer/saver.h"

/* All ranks. */
Status final_write(Session *s, Saver *saver, Err *err) MUST_CHECK;
