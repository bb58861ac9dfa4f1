/* JSON: the tree, the writer, error lines. */
#include "base/json.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Json *parse(const char *text)
{
    Json *j = NULL;
    Err err = {0};
    cr_assert_eq(json_parse(&j, text, strlen(text), "t", 1, 0, &err), OK, "%s", err.line);
    return j;
}

Test(json, kinds_and_values)
{
    Json *j =
        parse("{\"s\":\"a\\u0000b\",\"i\":-9223372036854775808,\"r\":1.0,\"t\":true,\"n\":null,"
              "\"a\":[1,2.5,[]],\"o\":{}}");
    const char *s;
    size_t n;
    int64_t i = 7;
    double d;
    bool b;
    cr_assert(json_str(json_get(j, "s"), &s, &n) && n == 3 && memcmp(s, "a\0b", 4) == 0);
    cr_assert(json_int(json_get(j, "i"), &i) && i == INT64_MIN);
    cr_assert(json_number(json_get(j, "r"), &d) && d == 1.0);
    cr_assert(json_bool(json_get(j, "t"), &b) && b);
    i = 7;
    cr_assert(!json_int(json_get(j, "r"), &i) && i == 7, "1.0 is no integer");
    cr_assert(!json_int(NULL, &i) && !json_str(NULL, &s, &n) && !json_bool(json_get(j, "i"), &b));
    cr_assert(json_number(json_at(json_get(j, "a"), 1), &d) && d == 2.5);
    cr_assert_null(json_at(json_get(j, "a"), 3));
    cr_assert_null(json_at(j, 0));
    cr_assert_null(json_get(json_get(j, "a"), "x"));
    cr_assert_null(json_get(NULL, "x"));
    cr_assert_eq(json_size(j), 7);
    cr_assert_eq(json_size(json_get(j, "a")), 3);
    cr_assert_eq(json_size(json_get(j, "s")), 0);
    static const struct {
        const char *key;
        JsonKind kind;
        const char *name;
    } kinds[] = {
        {"s", JK_STRING, "string"}, {"i", JK_INT, "integer"}, {"r", JK_REAL, "number"},
        {"t", JK_BOOL, "bool"},     {"n", JK_NULL, "null"},   {"a", JK_ARRAY, "array"},
        {"o", JK_OBJECT, "object"},
    };
    for (int k = 0; k < 7; k++) {
        cr_expect_eq(json_kind(json_get(j, kinds[k].key)), kinds[k].kind, "%s", kinds[k].key);
        cr_expect_str_eq(json_kind_name(json_get(j, kinds[k].key)), kinds[k].name);
    }
    cr_assert_eq(json_kind(NULL), JK_NULL);
    cr_assert_str_eq(json_kind_name(NULL), "nothing");
    json_free(j);
    json_free(NULL);
}

Test(json, objects_keep_the_files_order)
{
    StrBuf text = {0};
    strbuf_putc(&text, '{');
    for (int i = 0; i < 500; i++)
        strbuf_printf(&text, "%s\"k%d\":%d", i ? "," : "", i * 7919 % 500, i);
    strbuf_putc(&text, '}');
    Json *j = parse(text.data);
    int i = 0;
    for (void *it = json_first(j); it; it = json_next(j, it), i++) {
        char key[16];
        int64_t v;
        snprintf(key, sizeof key, "k%d", i * 7919 % 500);
        cr_assert_str_eq(json_iter_key(it), key);
        cr_assert_eq(json_iter_key_len(it), strlen(key));
        cr_assert(json_int(json_iter_value(it), &v) && v == i);
    }
    cr_assert_eq(i, 500);
    json_free(j);
    strbuf_clear(&text);
}

/* Beyond 64 bits: Hugging Face writes model_max_length as 1000000000000000019884624838656. */
Test(json, big_integers_become_reals)
{
    static const struct {
        const char *text;
        JsonKind kind;
        double want;
    } cases[] = {
        {"1000000000000000019884624838656", JK_REAL, 1e30},
        {"[-1000000000000000019884624838656]", JK_REAL, -1e30},
        {"9223372036854775807", JK_INT, 9223372036854775807.0},
        {"9223372036854775808", JK_REAL, 9223372036854775808.0},
        {"-9223372036854775808", JK_INT, -9223372036854775808.0},
        {"-9223372036854775809", JK_REAL, -9223372036854775808.0},
        {"{\"a\": 99999999999999999999 }", JK_REAL, 1e20},
        {"0.12345678901234567890123", JK_REAL, 0.12345678901234567890123},
        {"12345678901234567890123e-3", JK_REAL, 12345678901234567890.123},
        {"1.5e+10", JK_REAL, 1.5e10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Json *root = parse(cases[i].text);
        const Json *j = json_kind(root) == JK_ARRAY ? json_at(root, 0) : root;
        if (json_kind(j) == JK_OBJECT) j = json_get(j, "a");
        double d;
        cr_expect_eq(json_kind(j), cases[i].kind, "%s", cases[i].text);
        cr_expect(json_number(j, &d) && d == cases[i].want, "%s", cases[i].text);
        json_free(root);
    }
    Json *j =
        parse("[\"99999999999999999999\", \"\\\"99999999999999999999\"]"); /* text stays text */
    const char *s;
    cr_assert(json_str(json_at(j, 0), &s, NULL));
    cr_assert_str_eq(s, "99999999999999999999");
    cr_assert(json_str(json_at(j, 1), &s, NULL));
    cr_assert_str_eq(s, "\"99999999999999999999");
    json_free(j);
}

Test(json, error_lines)
{
    static const struct {
        const char *text;
        int first_line;
        const char *starts;
    } cases[] = {
        {"{\"a\": 1,\n \"b\": }", 1, "f:2: invalid JSON: "},
        {"{\"a\": }", 42, "f:42: invalid JSON: "},
        {"", 1, "f:1: invalid JSON: the text is empty"},
        {"\n\n  ", 1, "f:3: invalid JSON: "},
        {"[1,\n2\n", 10, "f:12: invalid JSON: "},
        {"[1]\n\n]", 1, "f:3: invalid JSON: "},
        {"[\"\xff\"]", 1, "f:1: invalid JSON: "},
        {"[1,\n99999999999999999999,\nx]", 1, "f:3: invalid JSON: "},
        {"\xEF\xBB\xBF{}", 3, "f:3: invalid JSON: starts with a byte order mark"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Json *j;
        Err err = {0};
        cr_expect_eq(
            json_parse(&j, cases[i].text, strlen(cases[i].text), "f", cases[i].first_line, 0, &err),
            E_INPUT, "case %zu", i);
        cr_expect(strncmp(err.line, cases[i].starts, strlen(cases[i].starts)) == 0, "case %zu: %s",
                  i, err.line);
    }
}

Test(json, depth)
{
    for (int depth = 511; depth <= 513; depth++) {
        StrBuf b = {0};
        for (int i = 0; i < depth; i++)
            strbuf_puts(&b, i % 2 ? "{\"k\":\n" : "[");
        strbuf_puts(&b, depth % 2 ? "" : "0");
        for (int i = depth - 1; i >= 0; i--)
            strbuf_puts(&b, i % 2 ? "}" : "]");
        Json *j;
        Err err = {0};
        Status s = json_parse(&j, b.data, b.len, "f", 1, 0, &err);
        cr_expect_eq(s, depth > 512 ? E_INPUT : OK, "depth %d: %s", depth, err.line);
        if (s == OK)
            json_free(j);
        else
            cr_expect_str_eq(err.line, "f:257: invalid JSON: nested deeper than 512 levels");
        strbuf_clear(&b);
    }
    /* brackets in text do not count */
    char text[2000];
    memset(text, '[', sizeof text);
    text[0] = text[1998] = '"';
    text[1999] = '\0';
    json_free(parse(text));
}

Test(json, duplicates)
{
    const char *text = "{\"a\":1,\n\"b\":2,\n\"a\":3}";
    Json *j;
    Err err = {0};
    cr_assert_eq(json_parse(&j, text, strlen(text), "f", 1, JSON_REFUSE_DUPLICATES, &err), E_INPUT);
    cr_assert(strstr(err.line, "f:3: ") && strstr(err.line, "a"), "%s", err.line);
    j = parse(text);
    int64_t v;
    cr_assert(json_int(json_get(j, "a"), &v) && v == 3, "the last one counts");
    json_free(j);
}

Test(json, writer)
{
    const char *text =
        "{\"z\":[1,-2,3.0,0.1,1e300,true,false,null,[],{}],\"a\":\"q\\\" b\\\\ n\\n t\\t "
        "\\u0001 \x7f \xE2\x82\xAC / \\b\\f\\r\"}";
    Json *j = parse(text);
    StrBuf b = {0};
    json_write(&b, j, 0);
    cr_assert_str_eq(b.data,
                     "{\"z\":[1,-2,3.0,0.1,1e+300,true,false,null,[],{}],\"a\":\"q\\\" b\\\\ n\\n "
                     "t\\t \\u0001 \x7f \xE2\x82\xAC / \\b\\f\\r\"}");
    json_free(j);
    strbuf_reset(&b);
    j = parse("{\"a\":[1,{\"b\":[]}],\"c\":{}}");
    json_write(&b, j, 2);
    cr_assert_str_eq(b.data,
                     "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}");
    json_free(j);
    strbuf_clear(&b);
}

Test(json, numbers_read_back)
{
    static const double values[] = {
        0, -0.0, 1, 0.1, 1.0 / 3, 2e-5, 1e22, 123456789.0, 5e-324, 1.7976931348623157e308, -2.5e-7};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        StrBuf b = {0};
        json_write_number(&b, values[i]);
        Json *j = parse(b.data);
        double back;
        cr_expect(json_number(j, &back) && back == values[i] && signbit(back) == signbit(values[i]),
                  "%s", b.data);
        json_free(j);
        strbuf_clear(&b);
    }
    static const double none[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        StrBuf b = {0};
        json_write_number(&b, none[i]);
        cr_expect_str_eq(b.data, "null");
        strbuf_clear(&b);
    }
    StrBuf b = {0};
    json_write_number(&b, 0.1);
    cr_assert_str_eq(b.data, "0.1");
    strbuf_clear(&b);
}
