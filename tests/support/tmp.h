/* A folder of its own for a test. */
#pragma once

/* A new empty folder below $TMPDIR or /tmp, in fresh memory. */
char *tmp_dir(void);
/* Removes it with all that is in it, and frees the name. */
void tmp_dir_remove(char *dir);
