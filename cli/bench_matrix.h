/* lorac bench --matrix: ways to train one model, a row each. */
#pragma once

#include "trainer/bench.h"

/* The table, or JSON lines, of o's model, method, rows and ranks.  What does not fit is a row that says what it would need, as its
 * plan knows; E_* when something else is wrong. */
Status bench_matrix(StrBuf *b, const char *title, const BenchOpts *o, bool json,
                    Err *err) MUST_CHECK;
