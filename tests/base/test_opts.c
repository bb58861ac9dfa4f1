/* Command lines. */
#include "base/opts.h"
#include "base/str.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct Values {
    bool verbose;
    const char *out;
    int64_t top_k;
    double temperature;
    OptStrings stop;
} Values;

typedef struct Run {
    Values v;
    const char *args[3];
    int n_args;
    bool help;
    Status status;
    Err err;
    char *line; /* the values point into it */
} Run;

static void table(Opt opts[6], Values *v)
{
    Opt rows[6] = {
        {"verbose", OPT_FLAG, &v->verbose, NULL, "say more"},
        {"out", OPT_STRING, &v->out, "DIR", "where to write"},
        {"top-k", OPT_INT, &v->top_k, "N", "keep the N likeliest\n0: all"},
        {"temperature", OPT_NUMBER, &v->temperature, "T", "divides the logits"},
        {"stop", OPT_STRINGS, &v->stop, "TEXT", "ends the answer"},
        {0},
    };
    memcpy(opts, rows, sizeof rows);
}

static Run parse(const char *line)
{
    Run r = {0};
    Opt opts[6];
    table(opts, &r.v);
    char *argv[20] = {"lorac"};
    int argc = 1;
    r.line = xstrdup(line);
    for (char *w = strtok(r.line, " "); w; w = strtok(NULL, " "))
        argv[argc++] = w;
    r.status = opts_parse(opts, argc, argv, r.args, &r.n_args, 3, &r.help, &r.err);
    return r;
}

Test(opts, values)
{
    Run r = parse("a --verbose --out d --top-k=-5 b --temperature 1e-1 --stop x --stop=y -- --out");
    cr_assert_eq(r.status, OK, "%s", r.err.line);
    cr_assert(r.v.verbose);
    cr_assert_str_eq(r.v.out, "d");
    cr_assert_eq(r.v.top_k, -5);
    cr_assert_eq(r.v.temperature, 0.1);
    cr_assert_eq(r.v.stop.n, 2);
    cr_assert_str_eq(r.v.stop.items[1], "y");
    cr_assert_eq(r.n_args, 3);
    cr_assert_str_eq(r.args[2], "--out");
    cr_assert(!r.help);
    free(r.line);

    r = parse("--top-k -3 --out= -");
    cr_assert_eq(r.status, OK, "%s", r.err.line);
    cr_assert_eq(r.v.top_k, -3);
    cr_assert_str_eq(r.v.out, "");
    cr_assert_str_eq(r.args[0], "-");
    free(r.line);

    static const char *const helps[] = {"a b --help --nonsense", "-h"};
    for (int i = 0; i < 2; i++) {
        r = parse(helps[i]);
        cr_expect(r.status == OK && r.help, "%s", helps[i]);
        free(r.line);
    }
}

Test(opts, wrong_usage)
{
    static const struct {
        const char *line, *want;
    } cases[] = {
        {"--tmperature 1", "--tmperature: no such option; did you mean '--temperature'?"},
        {"--topk=5", "--topk: no such option; did you mean '--top-k'?"},
        {"--xyzzy", "--xyzzy: no such option; --help lists them"},
        {"-v", "-v: no such option; options begin with two dashes"},
        {"--top-k 5x", "--top-k: needs an integer, got '5x'"},
        {"--top-k 99999999999999999999", "--top-k: needs an integer, got '99999999999999999999'"},
        {"--top-k=", "--top-k: needs an integer, got ''"},
        {"--temperature nan", "--temperature: needs a number, got 'nan'"},
        {"--temperature 0x10", "--temperature: needs a number, got '0x10'"},
        {"--temperature 1e999", "--temperature: needs a number, got '1e999'"},
        {"--verbose=1", "--verbose: takes no value, got '1'"},
        {"--out", "--out: needs a value (DIR)"},
        {"a b c d", "'d': one argument too many; --help shows the usage"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Run r = parse(cases[i].line);
        cr_expect_eq(r.status, E_INPUT, "%s", cases[i].line);
        cr_expect_str_eq(r.err.line, cases[i].want);
        free(r.line);
    }
}

Test(opts, help)
{
    Opt opts[6];
    Values v;
    table(opts, &v);
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    opts_help(f, "lorac generate MODEL", "Writes text.", opts);
    fclose(f);
    cr_assert_str_eq(text, "usage: lorac generate MODEL\n\nWrites text.\n\noptions:\n"
                           "  --verbose        say more\n"
                           "  --out DIR        where to write\n"
                           "  --top-k N        keep the N likeliest\n"
                           "                   0: all\n"
                           "  --temperature T  divides the logits\n"
                           "  --stop TEXT      ends the answer\n"
                           "  --help           show this text\n");
    free(text);
}
