/* JSONTestSuite (nst): y_ must be accepted, n_ refused, i_ may be either. */
#include "base/fs.h"
#include "base/json.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* What jansson's documentation excludes: keys that hold a NUL character. */
static const char *const refused_though_valid[] = {"y_object_escaped_null_in_key.json"};

static bool is_limit(const char *name)
{
    for (size_t i = 0; i < sizeof refused_though_valid / sizeof *refused_though_valid; i++)
        if (str_eq(refused_though_valid[i], name)) return true;
    return false;
}

Test(json_suite, verdicts)
{
    char *dir = shared_or_skip("data/bad-input/json-test-suite");
    char **names;
    int n, n_yes = 0, n_no = 0;
    Err err = {0};
    cr_assert_eq(dir_list(&names, &n, dir, &err), OK, "%s", err.line);
    for (int i = 0; i < n; i++) {
        if (!str_ends(names[i], ".json")) continue;
        char *path = path_join(dir, names[i]);
        Json *j = NULL;
        Status s = json_parse_file(&j, path, &err);
        if (names[i][0] == 'y') {
            cr_expect_eq(s, is_limit(names[i]) ? E_INPUT : OK, "%s: %s", names[i], err.line);
            n_yes++;
        } else if (names[i][0] == 'n') {
            cr_expect_eq(s, E_INPUT, "%s was accepted", names[i]);
            n_no++;
        }
        if (s == OK) {
            StrBuf b = {0};
            Json *again = NULL;
            json_write(&b, j, 1);
            cr_expect_eq(json_parse(&again, b.data, b.len, names[i], 1, 0, &err), OK, "%s: %s",
                         err.line, b.data);
            json_free(again);
            strbuf_clear(&b);
        } else {
            cr_expect(str_starts(err.line, path), "no file name: %s", err.line);
        }
        json_free(j);
        free(path);
    }
    cr_assert(n_yes > 60 && n_no > 120, "%d and %d files found", n_yes, n_no);
    dir_list_free(names, n);
    free(dir);
}
