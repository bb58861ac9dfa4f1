/* Patterns against what Python's re.fullmatch says of the same texts. */
#include "model/pattern.h"

#include "base/str.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(pattern, as_python)
{
    static const char *const texts[] = {
        "model.layers.0.self_attn.q_proj",
        "model.layers.21.self_attn.v_proj",
        "model.layers.10.mlp.gate_proj",
        "model.layers.1.mlp.down_proj",
        "lm_head",
        "model.embed_tokens",
        "",
        "aabcc",
        "aaac",
        "ac",
        "x{",
        "aaab",
        "b",
        "]a-",
        "c",
        "bccc",
        "xmodel.a",
    };
    /* a digit per text: 1 where it matches (Python 3.11) */
    static const struct {
        const char *pattern, *matches;
    } cases[] = {
        {".*\\.q_proj", "10000000000000000"},
        {"(?:.*\\.)?(?:q_proj|v_proj)", "11000000000000000"},
        {"model\\.layers\\.[0-9]+\\.self_attn\\.(q|k)_proj", "10000000000000000"},
        {"model\\.layers\\.\\d{1,2}\\..*(q|v)_proj", "11000000000000000"},
        {"model\\.layers\\.(1|2[0-9])\\..*", "01010000000000000"},
        {".*?attn.*?", "11000000000000000"},
        {"^model.*proj$", "11110000000000000"},
        {"\\bmodel\\b.*", "11110100000000000"},
        {"[^.]+\\.layers\\..*", "11110000000000000"},
        {"model\\.layers\\.[\\d]+\\.mlp\\.(?:gate|up)_proj", "00100000000000000"},
        {"lm_head", "00001000000000000"},
        {"", "00000010000000000"},
        {"a{2,3}b{0,1}c{,2}", "00000001100100000"},
        {"x{", "00000000001000000"},
        {"(a*)*b", "00000000000110000"},
        {"[]a-]+", "00000000000001000"},
        {"\\w+\\.\\w+", "00000100000000001"},
        {"(a|b|)c+?", "00000000010000110"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Pattern *p;
        Err err = {0};
        cr_assert_eq(pattern_compile(&p, cases[i].pattern, &err), OK, "%s", err.line);
        for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
            cr_expect_eq(pattern_matches(p, texts[t]), cases[i].matches[t] == '1', "%s on '%s'",
                         cases[i].pattern, texts[t]);
        pattern_free(p);
    }
}

Test(pattern, refused_by_name)
{
    static const struct {
        const char *pattern, *says;
    } cases[] = {
        {"(?!lm_head).*", "this kind of group"},
        {"(?i)q_proj", "this kind of group"},
        {"(a)\\1", "this escape"},
        {"(a", "a group without ')'"},
        {"a)", "a ')' too many"},
        {"[a", "a class without ']'"},
        {"[z-a]", "this range"},
        {"*a", "a quantifier behind nothing"},
        {"a**", "a quantifier of a quantifier"},
        {"a{5000}", "this count"},
        {"a\\", "this escape"},
        {"((((a{900}){900}){900}){900})", "a pattern this large"},
        {"(((((){1000}){1000}){1000}){1000})", "a pattern this large"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Pattern *p;
        Err err = {0};
        cr_expect_eq(pattern_compile(&p, cases[i].pattern, &err), E_INPUT, "%s", cases[i].pattern);
        cr_expect(strstr(err.line, cases[i].says), "%s: %s", cases[i].pattern, err.line);
    }
    StrBuf deep = {0};
    for (int i = 0; i < 1000; i++)
        strbuf_putc(&deep, '(');
    Pattern *p;
    Err err = {0};
    cr_expect_eq(pattern_compile(&p, deep.data, &err), E_INPUT);
    cr_expect(strstr(err.line, "groups this deep"), "%s", err.line);
    strbuf_clear(&deep);
}
