/* Messages to the user beside the results: warnings and notes on stderr.  One target and level per
 * Log; no global. */
#pragma once

#include "base/err.h"

#include <stdio.h>

typedef enum LogLevel { LOG_QUIET, LOG_WARN, LOG_INFO, LOG_VERBOSE } LogLevel;

typedef struct Log {
    FILE *to; /* NULL: nowhere */
    LogLevel level;
    bool line_open; /* a progress bar stands on the current line: a message clears it first */
} Log;

void log_warn(Log *l, const char *fmt, ...) PRINTF_LIKE(2, 3); /* "warning: ..." */
void log_info(Log *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
void log_verbose(Log *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
