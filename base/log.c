/* Notes and warnings on one stream. */
#include "base/log.h"

#include "base/str.h"

#include <string.h>

static void log_write(Log *l, LogLevel level, const char *prefix, const char *fmt, va_list args)
{
    if (!l || !l->to || l->level < level) return;
    char text[4096];
    int n = vsnprintf(text, sizeof text, fmt, args);
    if (n < 0) return;
    if (n >= (int)sizeof text) memcpy(text + sizeof text - 4, "...", 4);
    str_make_printable(text, strlen(text), "\n\t");
    if (l->line_open) fputs("\r\033[K", l->to);
    l->line_open = false;
    fprintf(l->to, "%s%s\n", prefix, text);
    fflush(l->to);
}

void log_warn(Log *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    log_write(l, LOG_WARN, "warning: ", fmt, args);
    va_end(args);
}

void log_info(Log *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    log_write(l, LOG_INFO, "", fmt, args);
    va_end(args);
}

void log_verbose(Log *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    log_write(l, LOG_VERBOSE, "", fmt, args);
    va_end(args);
}
