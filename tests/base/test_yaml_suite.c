/* yaml-test-suite: nothing crashes; what must be refused is, and trees equal the suite's in.json, but for
 * the cases listed here. */
#include "base/fs.h"
#include "base/json.h"
#include "base/yaml.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The deviations of libyaml 0.2.5, all known to its authors; none concerns what configurations look
 * like.  Errors that it lets pass: comments without a space before, commas and brackets in odd places,
 * tabs after dashes, indentation of flow lists and of blank lines before block text. */
static const char *const lenient[] = {"9C9N", "9JBA", "CVW2", "DK95/01",  "G5U8", "MUS6/00",
                                      "QB6E", "S98Z", "X4QW", "Y79Y/003", "YJV2", NULL};

/* Valid YAML that it refuses: tabs as separation, odd plain words in flow lists ([-], {a:b}), empty keys
 * in flow lists, a colon next to a quoted key on the following line, %YAML 1.2+ and unknown directives,
 * anchors and aliases with punctuation. */
static const char *const strict[] = {
    "2JQS",    "2SXE",    "4ABK",    "58MP",     "5MUD",     "6BCT",    "6LVF",    "7Z25",
    "96NN/00", "96NN/01", "A2M4",    "BEC7",     "CFD4",     "DBG4",    "DK3J",    "DK95/00",
    "DK95/03", "DK95/04", "FP8R",    "FRK4",     "HM87/00",  "HWV9",    "K3WX",    "M2N8/00",
    "M7A3",    "MUS6/05", "MUS6/06", "R4YG",     "S3PD",     "SM9W/01", "UKK6/00", "UT92",
    "VJP3/01", "W4TN",    "W5VH",    "Y79Y/001", "Y79Y/010", NULL};

/* It reads another tree: '?' at the start of a plain word in a flow list, block text that ends without a
 * line break, a colon in an anchor's name. */
static const char *const trees[] = {"652Z", "HM87/01", "JEF9/02", "L24T/01", "Y2GN", NULL};

static bool listed(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (str_eq(*list, name)) return true;
    return false;
}

/* What this reader leaves out of YAML on purpose, by its message. */
static bool refused_by_design(const char *line)
{
    static const char *const reasons[] = {"is not supported here; leave it out",
                                          "a second document begins", "a key must be a word",
                                          "a NUL byte inside a value", NULL};
    for (int i = 0; reasons[i]; i++)
        if (strstr(line, reasons[i])) return true;
    return false;
}

static bool same(const YamlNode *y, const Json *j)
{
    const char *text;
    size_t len;
    double a, b;
    bool yes, want;
    switch (json_kind(j)) {
    case JK_NULL:
        return yaml_is_null(y);
    case JK_BOOL:
        return json_bool(j, &want) && yaml_bool(y, &yes) && yes == want;
    case JK_INT:
    case JK_REAL:
        return json_number(j, &b) && yaml_number(y, &a) && a == b;
    case JK_STRING:
        return json_str(j, &text, &len) && y->kind == YAML_SCALAR && strlen(y->text) == len &&
               memcmp(y->text, text, len) == 0;
    case JK_ARRAY:
        if (y->kind != YAML_LIST || (size_t)y->n != json_size(j)) return false;
        for (int i = 0; i < y->n; i++)
            if (!same(y->items[i], json_at(j, (size_t)i))) return false;
        return true;
    case JK_OBJECT:
        if (y->kind != YAML_MAP || (size_t)y->n != json_size(j)) return false;
        for (int i = 0; i < y->n; i++)
            if (!json_get(j, y->keys[i]) || !same(y->items[i], json_get(j, y->keys[i])))
                return false;
        return true;
    }
    return false;
}

typedef struct Counts {
    int cases, refused, compared;
} Counts;

static void run_case(const char *dir, const char *name, Counts *c)
{
    Err err = {0};
    char *in = path_join(dir, "in.yaml"), *must_fail = path_join(dir, "error");
    char *json = path_join(dir, "in.json");
    YamlNode *y = NULL;
    Json *j = NULL;
    Status s = yaml_parse_file(&y, in, &err);
    c->cases++;
    if (path_exists(must_fail)) {
        cr_expect(s == E_INPUT || listed(lenient, name), "%s must be refused", name);
        cr_expect(!(s == E_INPUT && listed(lenient, name)), "%s is refused: take it off the list",
                  name);
        c->refused += s != OK;
    } else if (s != OK) {
        cr_expect_neq(refused_by_design(err.line), listed(strict, name), "%s", err.line);
    } else if (path_exists(json) && json_parse_file(&j, json, &err) == OK) {
        cr_expect_neq(same(y, j), listed(trees, name), "%s: the tree of in.json?", name);
        c->compared++;
    }
    yaml_node_free(y);
    json_free(j);
    free(in), free(must_fail), free(json);
}

/* A case is a folder with in.yaml, or a folder of such. */
static void run_folder(const char *dir, const char *prefix, Counts *c)
{
    char **names;
    int n;
    Err err = {0};
    cr_assert_eq(dir_list(&names, &n, dir, &err), OK, "%s", err.line);
    for (int i = 0; i < n; i++) {
        char *sub = path_join(dir, names[i]), *in = path_join(sub, "in.yaml");
        char *name = str_format("%s%s", prefix, names[i]), *deeper = str_format("%s/", name);
        if (path_exists(in))
            run_case(sub, name, c);
        else if (path_is_dir(sub))
            run_folder(sub, deeper, c);
        free(sub), free(in), free(name), free(deeper);
    }
    dir_list_free(names, n);
}

Test(yaml_suite, verdicts_and_trees)
{
    char *archive = shared_or_skip("data/bad-input/yaml-test-suite.tar.gz"), *dir = tmp_dir();
    char *unpack = str_format("tar -xzf '%s' -C '%s'", archive, dir);
    if (system(unpack) != 0) {
        tmp_dir_remove(dir);
        fprintf(stderr, "skipped: tar cannot unpack %s\n", archive);
        cr_skip_test("no tar");
    }
    Counts c = {0};
    char *top = path_join(dir, "yaml-test-suite");
    run_folder(top, "", &c);
    tmp_dir_remove(dir);
    cr_expect(c.cases == 286, "%d cases", c.cases);
    cr_expect(c.refused > 50, "%d refused", c.refused);
    cr_expect(c.compared > 100, "%d compared", c.compared);
    free(unpack), free(archive), free(top);
}
