/* The bytes of a file, plain or gzip, one after the other in memory of fixed size.  The only home of zlib.
 *
 * gzip is known by its first two bytes, not by the name; several members in one file are one text, as
 * `cat a.gz b.gz` makes them.  A file that was cut off is an error, never a shorter text. */
#pragma once

#include "base/err.h"

typedef struct ByteSource ByteSource;

Status source_open(ByteSource **out, const char *path, Err *err) MUST_CHECK;
void source_close(ByteSource *s); /* NULL is fine */

/* Reads up to `cap` bytes into buf; *n is 0 only at the end.  Errors name the path. */
Status source_read(ByteSource *s, char *buf, size_t cap, size_t *n, Err *err) MUST_CHECK;
