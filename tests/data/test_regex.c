/* Oniguruma's patterns through PCRE2: where matches lie, and what is refused.  tools/check_tokenizer.py
 * holds the same code against Oniguruma itself. */
#include "base/str.h"
#include "data/onig_syntax.h"
#include "data/pretok_regex.h"

#include <criterion/criterion.h>
#include <string.h>

Test(regex, matches)
{
    static const struct {
        const char *pattern, *text, *matches; /* each between bars */
    } cases[] = {
        {"a+", "baaab a", "|aaa|a|"},
        {"\\s+(?!\\S)|\\s+", "a   b  ", "|  | |  |"},
        {"\\s", "a\u180Eb\u3000c\xC2\x85", "|\u3000|\xC2\x85|"},
        {"[^\\s]+", "a\u180Eb\u3000c", "|a\u180Eb|c|"},
        {"[\\S]+", "a\u180Eb\u3000c", "|a\u180Eb|c|"},
        {"\\w+", "naïve ² _x-1 e\u0301", "|naïve|²|_x|1|e\u0301|"},
        {"\\W", "a-b ", "|-| |"},
        {"[^\\w\\s]", "x² é-½", "|²|-|½|"},     /* no word characters inside [ ] */
        {"[\\p{Han}]+", "世界。」é", "|世界|"}, /* by Script, not Script_Extensions */
        {"\\P{Greek}", "α\u0342", "|\u0342|"},
        {"\\p{^Lu}\\p{White_Space}", "A b ", "|b |"},
        {"\\h+", "xaFg 1", "|aF|1|"},
        {"\\H", "aFg ", "|g| |"},
        {"\\d", "1a٣", "|1|٣|"},
        {"(?i:'s|'ll)", "'S 'ſ 'lL 'x", "|'S|'ſ|'lL|"},
        {"(?i)k", "K\u212Ax", "|K|\u212A|"},
        {"^.", "ab\ncd", "|a|c|"},
        {".$", "ab\ncd", "|b|d|"},
        {"\\bx", "x ax x", "|x|x|"},
        {"(?=[A-Z])", "aBC", "|||"}, /* two empty matches */
        {"x*", "axb", "||x||"},
        {"\\u0061\\x62\\x{63}", "abc", "|abc|"},
        {"\\v", "\x0B\n", "|\x0B|"},
        {"(a)(b)?", "ab a", "|ab|a|"},
        {"\\.\\-\\/", "a.-/", "|.-/|"},
    };
    RegexScratch *scratch = regex_scratch_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Regex *re = NULL;
        Err err = {0};
        Status s = regex_new(&re, cases[i].pattern, strlen(cases[i].pattern), &err);
        cr_assert(s == OK, "%s: %s", cases[i].pattern, err.line);
        StrBuf got = {0};
        strbuf_putc(&got, '|');
        RegexIter it = {0};
        size_t a, b;
        while (regex_next(&it, re, scratch, cases[i].text, strlen(cases[i].text), &a, &b)) {
            strbuf_append(&got, cases[i].text + a, b - a);
            strbuf_putc(&got, '|');
        }
        cr_expect_str_eq(got.data, cases[i].matches, "%s in '%s': %s, not %s", cases[i].pattern,
                         cases[i].text, got.data, cases[i].matches);
        strbuf_clear(&got);
        regex_free(re);
    }
    regex_scratch_free(scratch);
}

/* A brace that is escaped counts nothing. */
Test(regex, escaped_braces)
{
    Regex *re = NULL;
    Err err = {0};
    cr_expect_eq(regex_new(&re, "a\\{2}?b", 7, &err), OK, "%s", err.line);
    regex_free(re);
    cr_expect_eq(regex_new(&re, "a\\\\{2}?b", 8, &err), E_INPUT);
}

Test(regex, refused)
{
    static const char *const patterns[] = {
        "(",       "[a",       "[a[b]]",  "[a&&b]",      "[]",
        "a{1,2}+", "a{,2}",    "a{2}?",   "(?<n>a)",     "(?m:a)",
        "a(?i)b",  "(*FAIL)",  "\\",      "\\1",         "\\R",
        "\\K",     "\\pL",     "\\p{",    "\\p{NoSuch}", "\\p{Script=Han}",
        "\\p{L&}", "\\p{Xan}", "(?i:ss)", "(?i:é)",      "(?i:a(?:Fi))",
        "[\\W]",   "[\\b]",    "\\Q",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        Regex *re = NULL;
        Err err = {0};
        Status s = regex_new(&re, patterns[i], strlen(patterns[i]), &err);
        cr_expect(s == E_INPUT && str_starts(err.line, "the pattern"), "%s: %d '%s'", patterns[i],
                  (int)s, err.line);
        if (s == OK) regex_free(re);
    }
    /* The option is over with its group. */
    Regex *re = NULL;
    Err err = {0};
    cr_assert(regex_new(&re, "(?i:a)ss(?-i:st)", 16, &err) == OK, "%s", err.line);
    regex_free(re);
}

/* A pattern that would try for ever gives up, and says that nothing matches. */
Test(regex, gives_up)
{
    Regex *re = NULL;
    Err err = {0};
    char text[64];
    memset(text, 'a', sizeof text);
    cr_assert(regex_new(&re, "(?:a+)+b", 8, &err) == OK, "%s", err.line);
    RegexScratch *scratch = regex_scratch_new();
    size_t a, b;
    cr_expect(!regex_next(&(RegexIter){0}, re, scratch, text, sizeof text, &a, &b));
    regex_scratch_free(scratch);
    regex_free(re);
}
