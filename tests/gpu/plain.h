/* Running the tests that the stand-in for Criterion (criterion/criterion.h beside this) has collected. */
#pragma once

typedef struct PlainCounts {
    int passed, failed, skipped;
} PlainCounts;

/* All tests of a suite ("linear"), one after the other in this process; or one of them ("linear.gradients"). */
PlainCounts plain_run(const char *suite);
/* The names of the suites, one a line, to standard output. */
void plain_list(void);
