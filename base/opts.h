/* Command lines: a table of flags for one command, parsed into the caller's variables, and the same
 * table printed as --help. */
#pragma once

#include "base/err.h"

#include <math.h>
#include <stdio.h>

/* What no command line can say: values of flags before they are given, where every other value means something. */
#define OPT_UNSET_INT    INT64_MIN
#define OPT_UNSET_NUMBER (-INFINITY)

typedef enum OptKind { OPT_FLAG, OPT_STRING, OPT_INT, OPT_NUMBER, OPT_STRINGS } OptKind;

/* name without dashes.  `out` by kind: bool *, const char **, int64_t *, double *, OptStrings *
 * (may be given several times).  value: what --help calls the argument.  The last entry has no name. */
typedef struct Opt {
    const char *name;
    OptKind kind;
    void *out;
    const char *value;
    const char *help;
} Opt;

typedef struct OptStrings {
    const char *items[64];
    int n;
} OptStrings;

/* Parses argv[1..argc): "--name value", "--name=value", "--flag"; "--" ends flags.  What is no flag goes to
 * args[] (borrowed), at most max_args; unknown flags are refused with a suggestion.  --help sets
 * *help and stops. */
Status opts_parse(const Opt *opts, int argc, char **argv, const char **args, int *n_args,
                  int max_args, bool *help, Err *err) MUST_CHECK;
void opts_help(FILE *to, const char *usage, const char *about, const Opt *opts);
