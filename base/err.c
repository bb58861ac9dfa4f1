/* Error lines, lists of problems, and the way out for what no caller can repair.  The panic hook is the
 * program's one mutable global: a process has one job, and whoever started its ranks must end them. */
#include "base/err.h"

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROBLEMS = 100 };

/* vsnprintf into buf, with control characters made harmless and a cut that is visible and between
 * UTF-8 sequences. */
static void format_line(char *buf, size_t size, const char *fmt, va_list args)
{
    int n = vsnprintf(buf, size, fmt, args);
    if (n < 0) snprintf(buf, size, "(a message that could not be formatted: %s)", fmt);
    if (n >= (int)size) {
        size_t cut = size - 4;
        while (cut > 0 && ((unsigned char)buf[cut] & 0xC0) == 0x80)
            cut--;
        memcpy(buf + cut, "...", 4);
    }
    str_make_printable(buf, strlen(buf), "");
}

Status err_set(Err *err, Status s, const char *fmt, ...)
{
    if (!err) return s;
    char line[sizeof err->line]; /* an argument may point into err->line */
    va_list args;
    va_start(args, fmt);
    format_line(line, sizeof line, fmt, args);
    va_end(args);
    memcpy(err->line, line, sizeof line);
    err->key = NULL;
    return s;
}

Status err_about(Err *err, Status s, const char *key)
{
    if (err && s != OK) err->key = key;
    return s;
}

Status err_wrap(Err *err, Status s, const char *fmt, ...)
{
    if (!err) return s;
    char prefix[sizeof err->line];
    va_list args;
    va_start(args, fmt);
    format_line(prefix, sizeof prefix, fmt, args);
    va_end(args);
    char old[sizeof err->line];
    memcpy(old, err->line, sizeof old);
    return err_set(err, s, "%s: %s", prefix, old);
}

void problems_add(Problems *p, const char *fmt, ...)
{
    if (p->n >= MAX_PROBLEMS) {
        p->n_dropped++;
        return;
    }
    char line[sizeof((Err *)0)->line];
    va_list args;
    va_start(args, fmt);
    format_line(line, sizeof line, fmt, args);
    va_end(args);
    if (!p->lines) p->lines = xcalloc(MAX_PROBLEMS, sizeof *p->lines);
    p->lines[p->n++] = xstrdup(line);
}

void problems_clear(Problems *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->lines[i]);
    free(p->lines);
    *p = (Problems){0};
}

static struct {
    PanicHook *hook;
    void *ud;
} panic_state;

void panic_set_hook(PanicHook *hook, void *ud)
{
    panic_state.hook = hook;
    panic_state.ud = ud;
}

/* `what`: "" or the assertion that did not hold. */
NO_RETURN static void panic_with(const char *file, int line, const char *what, const char *fmt,
                                 va_list args)
{
    char message[2048];
    int at = snprintf(message, sizeof message, "%s:%d: %s", file, line, what);
    if (at < 0 || at > 1024) at = 0;
    format_line(message + at, sizeof message - (size_t)at, fmt, args);

    /* Cleared first: the hook may panic. */
    PanicHook *hook = panic_state.hook;
    panic_state.hook = NULL;
    fflush(stdout);
    if (hook)
        hook(panic_state.ud, message);
    else
        fprintf(stderr, "lorac: panic: %s\n", message);
    fflush(stderr);
    abort();
}

void panic_at(const char *file, int line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    panic_with(file, line, "", fmt, args);
}

void assert_failed_at(const char *file, int line, const char *cond, const char *fmt, ...)
{
    char what[512];
    snprintf(what, sizeof what, "assertion %s: ", cond);
    va_list args;
    va_start(args, fmt);
    panic_with(file, line, what, fmt, args);
}
