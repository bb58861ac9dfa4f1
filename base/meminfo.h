/* How much memory this process could still take. */
#pragma once

#include <stddef.h>

/* Bytes: what the system has available (/proc/meminfo), or what the process's control groups leave of their limits
 * (what is cached of files counts as free), whichever is less.  root: "" but for tests.  0: not known. */
size_t meminfo_available(const char *root);
