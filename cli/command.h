/* What the commands share.  Each cmd_NAME.c parses its flags, builds option structs and calls one room;
 * only this room prints to stdout and chooses exit codes. */
#pragma once

#include "base/log.h"
#include "base/opts.h"
#include "base/str.h"

/* EXIT_AGAIN (EX_TEMPFAIL of sysexits.h): stopped on request with everything saved; the same command goes on. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_AGAIN = 75 };

/* argv[0] is the command's name.  Returns the exit code. */
typedef int CommandFn(int argc, char **argv);

/* One line in the table of main.c. */
typedef struct Command {
    const char *name;
    CommandFn *run;
    const char *help;
} Command;

/* How a command is called. */
typedef struct CommandLine {
    const char *usage, *about; /* what --help begins with */
    const Opt *opts;
    const char **
        args; /* takes at most max_args, *n_args says how many; all 0 where the command takes none */
    int max_args;
    int *n_args;
} CommandLine;

/* Reads argv.  False: the command is over, with *code: --help is printed, or what is wrong. */
bool command_read(const CommandLine *line, int argc, char **argv, int *code) MUST_CHECK;

/* --quiet and --verbose. */
typedef struct LogFlags {
    bool quiet, verbose;
} LogFlags;
/* To stderr: warnings alone when quiet. */
Log command_log(const LogFlags *f);

/* Prints the line of *err to stderr, behind those of err->more, which are freed, and returns the exit code of s (OK: 0). */
int command_end(Status s, const Err *err);
/* The same with all lines of *p before it (err may be NULL), which are freed. */
int command_end_problems(Status s, Problems *p, const Err *err);

/* Writes the text to standard output and clears *b; E_FAILED when nobody takes it. */
Status command_print(StrBuf *b, Err *err) MUST_CHECK;

/* Whether two paths lead to one file that exists: a result must not replace what it is made from. */
bool command_same_file(const char *a, const char *b);

double seconds_now(void); /* of a clock that only goes forward */
/* Whether progress may be drawn over itself: the log's notes are on and go to a terminal. */
bool log_on_terminal(const Log *log);
