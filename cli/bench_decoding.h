/* `lorac bench --decode`. */
#pragma once

#include "trainer/bench_decode.h"

/* Runs it and writes what it found, for a reader or as a line of JSON; shape and method are of the title. */
Status bench_decoding(StrBuf *b, const DecodeBenchOpts *o, const char *shape, bool json,
                      Err *err) MUST_CHECK;
