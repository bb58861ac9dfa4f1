/* The small files that make a tokenizer, from one folder into another. */
#pragma once

#include "base/err.h"

/* from: a folder, whose tokenizer files are copied, or one such file.  `to` must exist. */
Status tokenizer_files_copy(const char *from, const char *to, Err *err) MUST_CHECK;
