/* Error lines, problem lists, panics, log messages. */
#include "base/err.h"
#include "base/log.h"
#include "base/str.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Test(err, set_writes_one_harmless_line)
{
    Err err = {0};
    cr_assert_eq(
        err_set(&err, E_INPUT, "%s:%d: %s", "a.yaml", 7, "key\nwith \x1b[31mred\x7f and \t"),
        E_INPUT);
    cr_assert_str_eq(err.line, "a.yaml:7: key?with ?[31mred? and ?");
    err_set(&err, E_INPUT, "C1 \xC2\x9B[2J, not \xC3\xA9");
    cr_assert_str_eq(err.line, "C1 ??[2J, not \xC3\xA9");
    cr_assert_eq(err_set(NULL, E_FAILED, "nowhere"), E_FAILED);
}

Test(err, arguments_may_point_into_the_line)
{
    Err err = {0};
    err_set(&err, E_INPUT, "inner");
    err_set(&err, E_INPUT, "outer (%s)", err.line);
    cr_assert_str_eq(err.line, "outer (inner)");
    cr_assert_eq(err_wrap(&err, E_FAILED, "file %d", 3), E_FAILED);
    cr_assert_str_eq(err.line, "file 3: outer (inner)");
}

Test(err, a_long_line_is_cut_between_characters)
{
    char text[3001];
    Err err = {0};
    for (int shift = 0; shift < 4; shift++) {
        memset(text, 'x', (size_t)shift);
        for (int i = shift; i + 2 < 3000; i += 3)
            memcpy(text + i, "\xE2\x82\xAC", 4);
        err_set(&err, E_INPUT, "%s", text);
        size_t n = strlen(err.line);
        cr_assert(n < sizeof err.line && n > sizeof err.line - 8, "%zu", n);
        cr_assert(str_ends(err.line, "..."));
        cr_assert(utf8_valid(err.line, n), "shift %d", shift);
    }
    err_wrap(&err, E_INPUT, "%s", text);
    cr_assert(str_ends(err.line, "..."));
}

Test(err, a_line_says_which_setting_it_is_about)
{
    Err err = {0};
    cr_assert_eq(err_about(&err, OK, "rank"), OK);
    cr_assert_null(err.key);
    cr_assert_eq(err_about(&err, err_set(&err, E_INPUT, "must be above 0"), "rank"), E_INPUT);
    cr_assert_str_eq(err.key, "rank");
    err_set(&err, E_INPUT, "another");
    cr_assert_null(err.key);
    cr_assert_eq(err_about(NULL, E_FAILED, "rank"), E_FAILED);
}

static Status fails_late(int *steps)
{
    TRY(OK);
    ++*steps;
    TRY(E_FAILED);
    ++*steps;
    return OK;
}

Test(err, try_returns_the_first_failure)
{
    int steps = 0;
    cr_assert_eq(fails_late(&steps), E_FAILED);
    cr_assert_eq(steps, 1);
}

Test(err, a_hundred_rows_are_kept_and_every_other_problem)
{
    Problems p = {0};
    problems_add(&p, "key %d", -1);
    for (int i = 0; i < 120; i++)
        problems_add_row(&p, "row %d", i);
    for (int i = 0; i < 150; i++)
        problems_add(&p, "key %d", i);
    cr_assert_eq(p.n, 251);
    cr_assert_eq(p.n_dropped, 20);
    cr_assert_str_eq(p.lines[0], "key -1");
    cr_assert_str_eq(p.lines[100], "row 99");
    cr_assert_str_eq(p.lines[250], "key 149");
    problems_clear(&p);
    cr_assert_eq(p.n, 0);
    cr_assert_null(p.lines);
}

Test(err, of_problems_the_last_is_told_and_the_rest_is_kept)
{
    Problems none = {0}, p = {0}, more = {0};
    Err err = {.more = &more};
    cr_assert_eq(err_of_problems(&err, &none), OK);
    cr_assert_str_eq(err.line, "");
    for (int i = 0; i < 3; i++)
        problems_add(&p, "line %d", i);
    cr_assert_eq(err_of_problems(&err, &p), E_INPUT);
    cr_assert_eq(p.n, 0);
    cr_assert_eq(more.n, 2);
    cr_assert_str_eq(more.lines[0], "line 0");
    cr_assert_str_eq(more.lines[1], "line 1");
    cr_assert_str_eq(err.line, "line 2");
    problems_clear(&more);

    err = (Err){0}; /* no place for more: the first is the one to mend */
    problems_add(&p, "first");
    problems_add(&p, "second");
    cr_assert_eq(err_of_problems(&err, &p), E_INPUT);
    cr_assert_str_eq(err.line, "first");
    problems_add(&p, "nobody asks");
    cr_assert_eq(err_of_problems(NULL, &p), E_INPUT);
}

static void hook(void *ud, const char *message)
{
    /* Proof that the hook ran with the message: an exit code that abort() does not give. */
    if (strstr(message, "assertion five % 2 == 0: value 42") && *(int *)ud == 5) _Exit(77);
}

Test(err, panic_runs_the_hook, .exit_code = 77)
{
    static int five = 5;
    panic_set_hook(hook, &five);
    ASSERT(five % 2 == 0, "value %d", 42);
}

Test(err, panic_aborts, .signal = SIGABRT)
{
    panic("nothing can be done about %s", "this");
}

static void expect_lines(void *ud, const char *message)
{
    (void)ud;
    const char *at = strstr(message, "test_err.c:");
    bool plain =
        at && !strstr(message, "panic") && str_ends(message, ": too little:\n  of ?\n  of b");
    if (!plain) {
        fprintf(stderr, "%s\n", message);
        _Exit(2);
    }
}

Test(err, giving_up_keeps_its_lines_and_is_exit_code_1, .exit_code = 1)
{
    panic_set_hook(expect_lines, NULL);
    give_up("too little:\n  of %s\n  of b", "\x1b");
}

static void hook_that_panics(void *ud, const char *message)
{
    panic("again");
}

Test(err, a_panic_in_the_hook_ends_too, .signal = SIGABRT)
{
    panic_set_hook(hook_that_panics, NULL);
    panic("once");
}

Test(log, level_and_line)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    Log l = {.to = f, .level = LOG_INFO};
    log_verbose(&l, "not shown");
    log_warn(&l, "a %s", "b\x1b");
    l.line_open = true;
    log_info(&l, "two\nlines");
    cr_assert(!l.line_open);
    l.level = LOG_QUIET;
    log_warn(&l, "not shown");
    log_warn(NULL, "not shown");
    fclose(f);
    cr_assert_str_eq(text, "warning: a b?\n\r\x1b[Ktwo\nlines\n");
    free(text);
}
