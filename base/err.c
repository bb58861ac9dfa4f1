/* Error lines, lists of problems, and the way out for what no caller can repair.  The panic hook is the
 * program's one mutable global: a process has one job, and whoever started its ranks must end them. */
#include "base/err.h"

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 100 };

/* vsnprintf into buf, with control characters but those of `keep` made harmless and a cut that is visible and
 * between UTF-8 sequences. */
static void format_text(char *buf, size_t size, const char *keep, const char *fmt, va_list args)
{
    int n = vsnprintf(buf, size, fmt, args);
    if (n < 0) snprintf(buf, size, "(a message that could not be formatted: %s)", fmt);
    if (n >= (int)size) {
        size_t cut = size - 4;
        while (cut > 0 && ((unsigned char)buf[cut] & 0xC0) == 0x80)
            cut--;
        memcpy(buf + cut, "...", 4);
    }
    str_make_printable(buf, strlen(buf), keep);
}

static void format_line(char *buf, size_t size, const char *fmt, va_list args)
{
    format_text(buf, size, "", fmt, args);
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

static void add_line(Problems *p, const char *fmt, va_list args)
{
    char line[sizeof((Err *)0)->line];
    format_line(line, sizeof line, fmt, args);
    p->lines = xrealloc(p->lines, (size_t)(p->n + 1) * sizeof *p->lines);
    p->lines[p->n++] = xstrdup(line);
}

void problems_add(Problems *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add_line(p, fmt, args);
    va_end(args);
}

void problems_add_row(Problems *p, const char *fmt, ...)
{
    if (p->n_rows == MAX_ROWS) {
        p->n_dropped++;
        return;
    }
    va_list args;
    va_start(args, fmt);
    add_line(p, fmt, args);
    va_end(args);
    p->n_rows++;
}

void problems_clear(Problems *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->lines[i]);
    free(p->lines);
    *p = (Problems){0};
}

Status err_of_problems(Err *err, Problems *p)
{
    if (p->n == 0) return OK;
    Problems *more = err ? err->more : NULL;
    for (int i = 0; more && i < p->n - 1; i++)
        problems_add(more, "%s", p->lines[i]);
    err_set(err, E_INPUT, "%s", p->lines[more ? p->n - 1 : 0]);
    problems_clear(p);
    return E_INPUT;
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

typedef enum Ending { PANIC, GIVE_UP } Ending;

/* `what`: "" or the assertion that did not hold.  Only a panic is worth a core. */
NO_RETURN static void end_with(Ending how, const char *file, int line, const char *what,
                               const char *fmt, va_list args)
{
    char message[2048];
    const char *name = how == PANIC ? "panic: " : "", *keep = how == PANIC ? "" : "\n";
    int at = snprintf(message, sizeof message, "%s%s:%d: %s", name, file, line, what);
    if (at < 0 || at > 1024) at = 0;
    format_text(message + at, sizeof message - (size_t)at, keep, fmt, args);

    /* Cleared first: the hook may panic. */
    PanicHook *hook = panic_state.hook;
    panic_state.hook = NULL;
    fflush(stdout);
    if (hook)
        hook(panic_state.ud, message);
    else
        fprintf(stderr, "lorac: %s\n", message);
    fflush(stderr);
    if (how == PANIC) abort();
    _Exit(EXIT_FAILURE);
}

void panic_at(const char *file, int line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    end_with(PANIC, file, line, "", fmt, args);
}

void give_up_at(const char *file, int line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    end_with(GIVE_UP, file, line, "", fmt, args);
}

void assert_failed_at(const char *file, int line, const char *cond, const char *fmt, ...)
{
    char what[512];
    snprintf(what, sizeof what, "assertion %s: ", cond);
    va_list args;
    va_start(args, fmt);
    end_with(PANIC, file, line, what, fmt, args);
}
