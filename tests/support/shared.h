/* Where tests find files: fixtures in the tree, and the reference data that lie beside the project on
 * some machines.  Tests of the latter must pass without them, and say that they were skipped. */
#pragma once

/* SOURCE/rel in fresh memory. */
char *source_path(const char *rel);

/* $LORAC_SHARED/rel, else SOURCE/../shared/rel, in fresh memory; NULL when that is not there. */
char *shared_path(const char *rel);

/* char *dir = shared_or_skip("data/samsum"): ends the test, aloud, when the data are absent. */
char *shared_or_skip(const char *rel);
