/* Text: buffers, suggestions, UTF-8. */
#include "base/str.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(str, buffer_grows_and_stays_terminated)
{
    StrBuf b = {0};
    strbuf_append(&b, "", 0);
    cr_assert_str_eq(b.data, "");
    for (int i = 0; i < 1000; i++)
        strbuf_printf(&b, "%d,", i);
    strbuf_putc(&b, '\0');
    strbuf_puts(&b, "end");
    cr_assert_eq(b.len, 3890 + 1 + 3);
    cr_assert_str_eq(b.data + 3891, "end");
    strbuf_reset(&b);
    cr_assert_str_eq(b.data, "");
    strbuf_puts(&b, "x");
    char *text = strbuf_take(&b);
    cr_assert_str_eq(text, "x");
    cr_assert_null(b.data);
    free(text);
    text = strbuf_take(&b);
    cr_assert_str_eq(text, "");
    free(text);
    text = str_format("%s-%05d", "a", 42);
    cr_assert_str_eq(text, "a-00042");
    free(text);
}

Test(str, compare)
{
    cr_assert(str_eq(NULL, NULL) && !str_eq(NULL, "") && !str_eq("", NULL) && str_eq("a", "a"));
    cr_assert(str_starts("abc", "ab") && str_starts("abc", "") && !str_starts("a", "ab"));
    cr_assert(str_ends("abc", "bc") && str_ends("abc", "") && !str_ends("c", "bc"));
}

Test(str, nearest)
{
    static const char *const keys[] = {"lora.rank",       "lora.alpha", "optim.lr",
                                       "train.max_steps", "data.path",  "seed"};
    static const struct {
        const char *word, *want;
    } cases[] = {
        {"lora.rnak", "lora.rank"}, /* two neighbours swapped */
        {"lora.ranks", "lora.rank"},
        {"optim.learning_rate", NULL},
        {"opitm.lr", "optim.lr"},
        {"train.maxsteps", "train.max_steps"},
        {"sed", "seed"},
        {"seed", "seed"},
        {"x", NULL},
        {"", NULL},
        {"entirely different", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = str_nearest(cases[i].word, keys, 6);
        cr_expect(str_eq(got, cases[i].want), "'%s': got %s", cases[i].word, got ? got : "nothing");
    }
    char long_word[500];
    memset(long_word, 'a', sizeof long_word);
    long_word[499] = '\0';
    cr_assert_null(str_nearest(long_word, keys, 6));
}

/* Every scalar value there and back, and no surrogate; lengths by definition. */
Test(utf8, all_scalar_values)
{
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        char s[4];
        uint32_t back = 0;
        int n = utf8_encode(cp, s);
        int want = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
        if (n != want || utf8_decode(s, (size_t)n, &back) != n || back != cp)
            cr_assert_fail("U+%04X: %d bytes, back U+%04X", cp, n, back);
        if (n > 1 && utf8_decode(s, (size_t)n - 1, &back) != 0)
            cr_assert_fail("U+%04X cut short was decoded", cp);
    }
}

/* The table of the Unicode standard's section 3.9 (U+FFFD substitution of maximal subparts), and the
 * examples of Rust's from_utf8_lossy. */
Test(utf8, lossy)
{
    static const struct {
        const char *name, *in, *want;
    } cases[] = {
        {"plain", "Hello \xE2\x82\xAC", "Hello \xE2\x82\xAC"},
        {"rust doc", "Hello \xF0\x90\x80World", "Hello \xEF\xBF\xBDWorld"},
        {"overlong (3-8)", "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF"
         "\xBF\xBD"
         "A"},
        {"surrogates (3-9)", "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41",
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF"
         "\xBF\xBD"
         "A"},
        {"other (3-10)", "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
         "A\xEF\xBF\xBD\xEF\xBF\xBD"
         "B"},
        {"truncated (3-11)", "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41",
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
         "A"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StrBuf b = {0};
        utf8_append_lossy(&b, cases[i].in, strlen(cases[i].in));
        cr_expect_str_eq(b.data, cases[i].want, "%s", cases[i].name);
        bool valid = strcmp(cases[i].in, cases[i].want) == 0;
        cr_expect_eq(utf8_valid(cases[i].in, strlen(cases[i].in)), valid, "%s", cases[i].name);
        strbuf_clear(&b);
    }
}
