/* How every command begins and ends: its arguments are read; lines to stderr, an exit code. */
#include "cli/command.h"

#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool command_read(const CommandLine *line, int argc, char **argv, int *code)
{
    int none;
    bool help;
    Err err = {0};
    Status s = opts_parse(line->opts, argc, argv, line->args, line->n_args ? line->n_args : &none,
                          line->max_args, &help, &err);
    if (help) opts_help(stdout, line->usage, line->about, line->opts);
    *code = command_end(s, &err);
    return s == OK && !help;
}

Log command_log(const LogFlags *f)
{
    return (Log){.to = stderr, .level = f->quiet ? LOG_WARN : f->verbose ? LOG_VERBOSE : LOG_INFO};
}

int command_end(Status s, const Err *err)
{
    if (s == OK) return EXIT_DONE;
    for (int i = 0; err && err->more && i < err->more->n; i++)
        fprintf(stderr, "%s\n", err->more->lines[i]);
    if (err && err->more) problems_clear(err->more);
    if (err && err->line[0]) fprintf(stderr, "%s\n", err->line);
    return s == E_INPUT ? EXIT_USAGE : EXIT_FAILED;
}

int command_end_problems(Status s, Problems *p, const Err *err)
{
    for (int i = 0; i < p->n; i++)
        fprintf(stderr, "%s\n", p->lines[i]);
    if (p->n_dropped > 0) fprintf(stderr, "... and %d more rows\n", p->n_dropped);
    problems_clear(p);
    return command_end(s, err);
}

Status command_print(StrBuf *b, Err *err)
{
    bool broken = b->len > 0 && fwrite(b->data, 1, b->len, stdout) != b->len;
    broken |= fflush(stdout) != 0;
    strbuf_clear(b);
    return broken ? err_set(err, E_FAILED, "cannot write to standard output") : OK;
}

bool command_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool log_on_terminal(const Log *log)
{
    return log->to && log->level >= LOG_INFO && isatty(fileno(log->to));
}
