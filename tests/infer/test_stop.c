#include "infer/stop.h"

#include <criterion/criterion.h>
#include <string.h>

Test(stop, finds_the_earliest)
{
    static const char *const items[] = {"\n\n", "END", "###", "\n\nQ:"};
    StopStrings s = {items, 4};
    static const struct {
        const char *text;
        size_t scanned;
        int64_t at;
        size_t held;
    } cases
        [] =
            {
                {"", 0, -1, 0},        {"abc", 0, -1, 0},
                {"abcE", 0, -1, 1},    {"abcEN", 0, -1, 2},
                {"abcEND", 0, 3, 0},   {"abcEND", 5, 3, 0}, /* the last letter is new */
                {"abcENDx", 6, -1, 0},                      /* was told before */
                {"a###END", 0, 1, 0},  {"aEND###", 0, 1, 2},
                {"x\n\nQ:", 0, 1, 0}, /* the shorter one begins as early */
                {"x\n", 0, -1, 1},     {"EENEN", 0, -1, 2},
                {"##", 0, -1, 2},
            };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].text);
        cr_expect_eq(stop_find(&s, cases[i].text, n, cases[i].scanned), cases[i].at, "case %zu", i);
        cr_expect_eq(stop_held(&s, cases[i].text, n), cases[i].held, "case %zu", i);
    }
    StopStrings none = {0};
    cr_expect_eq(stop_find(&none, "abc", 3, 0), -1);
    cr_expect_eq(stop_held(&none, "abc", 3), 0);
}
