/* YAML: the tree, conversions, error lines, limits. */
#include "base/str.h"
#include "base/yaml.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static YamlNode *parse(const char *text)
{
    YamlNode *n = NULL;
    Err err = {0};
    cr_assert_eq(yaml_parse(&n, text, strlen(text), "f", &err), OK, "%s", err.line);
    return n;
}

Test(yaml, tree_with_lines)
{
    YamlNode *root =
        parse("# recipe\nmethod: lora\n\nlora:\n  rank: 16\n  targets: [q_proj, \"v\\n\"]\n"
              "data:\n- path: a.jsonl\n  weight: 0.5\n- path: |\n    two\n    lines\n");
    cr_assert(root->kind == YAML_MAP && root->n == 3);
    cr_assert_str_eq(root->keys[1], "lora");
    cr_assert_eq(root->key_lines[1], 4);
    const YamlNode *lora = yaml_get(root, "lora"), *targets = yaml_get(lora, "targets");
    cr_assert_eq(yaml_get(lora, "rank")->line, 5);
    cr_assert(targets->kind == YAML_LIST && targets->n == 2 && targets->line == 6);
    cr_assert(!targets->items[0]->quoted && targets->items[1]->quoted);
    cr_assert_str_eq(targets->items[1]->text, "v\n");
    const YamlNode *data = yaml_get(root, "data");
    cr_assert_str_eq(yaml_get(data->items[1], "path")->text, "two\nlines\n");
    cr_assert_eq(data->items[1]->key_lines[0], 10);
    cr_assert_null(yaml_get(root, "absent"));
    cr_assert_null(yaml_get(data, "path"));
    cr_assert_null(yaml_get(NULL, "path"));
    yaml_node_free(root);
    yaml_node_free(NULL);
}

Test(yaml, empty_texts_are_empty_maps)
{
    static const char *const texts[] = {"", "\n\n", "# only a comment\n"};
    for (int i = 0; i < 3; i++) {
        YamlNode *n = parse(texts[i]);
        cr_expect(n->kind == YAML_MAP && n->n == 0 && n->line == 1);
        yaml_node_free(n);
    }
}

/* "x": not of that kind */
Test(yaml, conversions)
{
    static const struct {
        const char *text, *as_bool, *as_int, *as_number;
        bool null;
    } cases[] = {
        {"true", "1", "x", "x", false},
        {"FALSE", "0", "x", "x", false},
        {"yes", "x", "x", "x", false},
        {"\"true\"", "x", "x", "x", false},
        {"12", "x", "12", "12", false},
        {"-1_000_000", "x", "-1000000", "-1000000", false},
        {"+7", "x", "7", "7", false},
        {"007", "x", "7", "7", false},
        {"1__0", "x", "x", "x", false},
        {"_1", "x", "x", "x", false},
        {"1_", "x", "x", "x", false},
        {"'12'", "x", "x", "x", false},
        {"!!str 12", "x", "x", "x", false},
        {"!!int 12", "x", "12", "12", false},
        {"!!int \"12\"", "x", "12", "12", false},
        {"9223372036854775807", "x", "9223372036854775807", "9.223372036854776e+18", false},
        {"-9223372036854775808", "x", "-9223372036854775808", "-9.223372036854776e+18", false},
        {"9223372036854775808", "x", "x", "9.223372036854776e+18", false},
        {"0x10", "x", "x", "x", false},
        {"1e-4", "x", "x", "0.0001", false},
        {"2E5", "x", "x", "200000", false},
        {".5", "x", "x", "0.5", false},
        {"-.5", "x", "x", "-0.5", false},
        {"5.", "x", "x", "5", false},
        {"1.5e", "x", "x", "x", false},
        {"1.2.3", "x", "x", "x", false},
        {"1e999", "x", "x", "x", false},
        {"-1e400", "x", "x", "x", false},
        {"1e-400", "x", "x", "x", false},
        {"-1e-310", "x", "x", "x", false},
        {"2.3e-308", "x", "x", "2.3e-308", false},
        {"0e-400", "x", "x", "0", false},
        {".inf", "x", "x", "x", false},
        {"nan", "x", "x", "x", false},
        {"~", "x", "x", "x", true},
        {"null", "x", "x", "x", true},
        {"", "x", "x", "x", true},
        {"\"\"", "x", "x", "x", false},
        {"\"null\"", "x", "x", "x", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = str_format("k: %s\n", cases[i].text);
        YamlNode *root = parse(text);
        const YamlNode *n = yaml_get(root, "k");
        bool b = false;
        int64_t v = 0;
        double d = 0;
        char got[40];
        bool is = yaml_bool(n, &b);
        snprintf(got, sizeof got, is ? "%d" : "x", b);
        cr_expect_str_eq(got, cases[i].as_bool, "'%s' as bool: %s", cases[i].text, got);
        is = yaml_int(n, &v);
        snprintf(got, sizeof got, is ? "%lld" : "x", (long long)v);
        cr_expect_str_eq(got, cases[i].as_int, "'%s' as int: %s", cases[i].text, got);
        is = yaml_number(n, &d);
        snprintf(got, sizeof got, is ? "%.16g" : "x", d);
        cr_expect_str_eq(got, cases[i].as_number, "'%s' as number: %s", cases[i].text, got);
        cr_expect_eq(yaml_is_null(n), cases[i].null, "'%s'", cases[i].text);
        yaml_node_free(root);
        free(text);
    }
    cr_assert(yaml_is_null(NULL));
}

Test(yaml, tiny_numbers)
{
    static const struct {
        const char *text;
        bool tiny;
    } cases[] = {{"1e-400", true}, {"-1e-400", true},     {"1e-310", true},
                 {"1e400", false}, {"0e-400", false},     {"1e-300", false},
                 {"0", false},     {"\"1e-400\"", false}, {"1e-400x", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = str_format("k: %s\n", cases[i].text);
        YamlNode *root = parse(text);
        cr_expect_eq(yaml_is_tiny(yaml_get(root, "k")), cases[i].tiny, "%s", cases[i].text);
        yaml_node_free(root);
        free(text);
    }
    cr_assert(!yaml_is_tiny(NULL));
}

Test(yaml, error_lines)
{
    static const struct {
        const char *text, *starts;
    } cases[] = {
        {"a: 1\nb: 2\na: 3\n", "f:3: a: the key stands here a second time, first in line 1"},
        {"{a: 1, b: 1, b: 1, a: 1}", "f:1: b: the key stands here a second time"},
        {"a: 1\n b: 2\n", "f:2: invalid YAML: "},
        {"a: [1, 2\nb: 3\n", "f:2: invalid YAML: "},
        {"a: \"open\n\n", "f:3: invalid YAML: "},
        {"\ta: 1\n", "f:1: invalid YAML: "},
        {"a: !secret x\n", "f:1: tag '!secret' is not supported here"},
        {"a: !!binary aGk=\n", "f:1: tag 'tag:yaml.org,2002:binary' is not supported here"},
        {"a: !!map [1]\n", "f:1: tag 'tag:yaml.org,2002:map'"},
        {"a: 1\n---\nb: 2\n", "f:2: a second document begins"},
        {"a: *x\n", "f:1: *x: no anchor of that name comes before"},
        {"a: &x [1, *x]\n", "f:1: *x: the alias stands inside its own anchor"},
        {"[1, 2]: a\n", "f:1: a key must be a word"},
        {"a: \"x\\0y\"\n", "f:1: a NUL byte inside a value"},
        {"a: 1\nb: \xff\n", "f:2: invalid YAML: "},
        {"a: 1\nb: \x01\n", "f:2: invalid YAML: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        YamlNode *n = NULL;
        Err err = {0};
        cr_expect_eq(yaml_parse(&n, cases[i].text, strlen(cases[i].text), "f", &err), E_INPUT,
                     "case %zu", i);
        cr_expect(strncmp(err.line, cases[i].starts, strlen(cases[i].starts)) == 0, "case %zu: %s",
                  i, err.line);
        yaml_node_free(n);
    }
}

Test(yaml, aliases)
{
    YamlNode *root =
        parse("base: &b {rank: 8, on: [&t q, v]}\nuse: *b\nkey: *t\n&k name: 1\nlast: *k\n"
              "&t again: 2\nnow: *t\n");
    const YamlNode *use = yaml_get(root, "use");
    cr_assert_str_eq(yaml_get(use, "rank")->text, "8");
    cr_assert_str_eq(yaml_get(use, "on")->items[1]->text, "v");
    cr_assert_str_eq(yaml_get(root, "key")->text, "q");
    cr_assert_str_eq(yaml_get(root, "last")->text, "name", "an anchor on a key");
    cr_assert_str_eq(yaml_get(root, "now")->text, "again",
                     "the later anchor of a name hides the earlier");
    yaml_node_free(root);
}

/* The billion laughs: each line ten of the line before. */
Test(yaml, alias_bombs_are_refused)
{
    StrBuf b = {0};
    strbuf_puts(&b, "a0: &a0 lol\n");
    for (int i = 1; i < 10; i++) {
        strbuf_printf(&b, "a%d: &a%d [", i, i);
        for (int k = 0; k < 10; k++)
            strbuf_printf(&b, "%s*a%d", k ? "," : "", i - 1);
        strbuf_puts(&b, "]\n");
    }
    YamlNode *n = NULL;
    Err err = {0};
    cr_assert_eq(yaml_parse(&n, b.data, b.len, "f", &err), E_INPUT);
    cr_assert(strstr(err.line, "more than 200000 values"), "%s", err.line);
    strbuf_reset(&b);

    /* deep by aliases: each level wraps the one before */
    strbuf_puts(&b, "a0: &a0 x\n");
    for (int i = 1; i < 100; i++)
        strbuf_printf(&b, "a%d: &a%d [*a%d]\n", i, i, i - 1);
    cr_assert_eq(yaml_parse(&n, b.data, b.len, "f", &err), E_INPUT);
    cr_assert(strstr(err.line, "nested deeper than 64 levels"), "%s", err.line);
    strbuf_reset(&b);

    for (int i = 0; i < 100000; i++)
        strbuf_putc(&b, '[');
    cr_assert_eq(yaml_parse(&n, b.data, b.len, "f", &err), E_INPUT);
    cr_assert(strstr(err.line, "nested deeper than 64 levels"), "%s", err.line);
    strbuf_clear(&b);
}

Test(yaml, many_keys_are_fast)
{
    StrBuf b = {0};
    for (int i = 0; i < 60000; i++)
        strbuf_printf(&b, "k%d: 1\n", i);
    yaml_node_free(parse(b.data));
    strbuf_clear(&b);
}
