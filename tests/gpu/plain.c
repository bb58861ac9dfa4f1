/* The list of tests and what became of the running one. */
#include "tests/gpu/plain.h"

#include <criterion/criterion.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
    PlainTest *first, **end;
    jmp_buf leave;
    bool running, failed, skipped;
} plain;

void plain_register(PlainTest *t)
{
    if (!plain.end) plain.end = &plain.first;
    *plain.end = t;
    plain.end = &t->next;
}

static void leave(void)
{
    if (plain.running) longjmp(plain.leave, 1);
    exit(1); /* in a program that uses what tests use */
}

void plain_check(bool ok, bool fatal, const char *file, int line, const char *what,
                 const char *message, ...)
{
    if (ok) return;
    va_list args;
    va_start(args, message);
    fprintf(stderr, "%s:%d: not so: %s;", file, line, what);
    vfprintf(stderr, message, args);
    fputc('\n', stderr);
    va_end(args);
    plain.failed = true;
    if (fatal) leave();
}

void plain_skip(const char *message, ...)
{
    va_list args;
    va_start(args, message);
    fputs("skipped:", stderr);
    vfprintf(stderr, message, args);
    fputc('\n', stderr);
    va_end(args);
    plain.skipped = true;
    leave();
}

static void run(const PlainTest *t, PlainCounts *n)
{
    fprintf(stderr, "-- %s.%s\n", t->suite, t->name);
    plain.failed = plain.skipped = false;
    plain.running = true;
    if (setjmp(plain.leave) == 0) t->run();
    plain.running = false;
    n->failed += plain.failed;
    n->skipped += plain.skipped && !plain.failed;
    n->passed += !plain.failed && !plain.skipped;
    if (plain.failed) fprintf(stderr, "FAILED %s.%s\n", t->suite, t->name);
}

PlainCounts plain_run(const char *suite)
{
    PlainCounts n = {0};
    size_t len = strcspn(suite, ".");
    for (const PlainTest *t = plain.first; t; t = t->next) {
        bool mine = strlen(t->suite) == len && strncmp(t->suite, suite, len) == 0;
        if (mine && (!suite[len] || strcmp(t->name, suite + len + 1) == 0)) run(t, &n);
    }
    return n;
}

void plain_list(void)
{
    for (const PlainTest *t = plain.first; t; t = t->next) {
        bool seen = false;
        for (const PlainTest *u = plain.first; u != t && !seen; u = u->next)
            seen = strcmp(u->suite, t->suite) == 0;
        if (!seen) puts(t->suite);
    }
}
