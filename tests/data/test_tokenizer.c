/* Single facts about the real vocabularies: those of transformers' and llama-models' own tests, special
 * tokens in a text, where tokens start, decoding, and the two vocabularies that we carry. */
#include "base/parallel.h"
#include "tests/data/tokenizer_case.h"

#include <stdio.h>

static Tokenizer *shared_tokenizer(const char *rel)
{
    char *path = shared_or_skip(rel);
    Tokenizer *t = load_or_fail(path);
    free(path);
    return t;
}

typedef struct Case {
    const char *text;
    const char *ids;
    int flags;
} Case;

static void expect_cases(const Tokenizer *t, const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        expect_ids(t, cases[i].text, strlen(cases[i].text), cases[i].flags, cases[i].ids);
}
#define EXPECT_CASES(t, cases) expect_cases(t, cases, sizeof(cases) / sizeof *(cases))

/* transformers' tests of Llama, without BOS, and texts of our own checked with SentencePiece. */
static const Case llama2_cases[] = {
    {"This is a test", "910 338 263 1243", 0},
    {"生活的真谛是", "29871 30486 31704 30210 30848 235 179 158 30392", 0},
    {"Hi  Hello", "6324 29871 15043", 0},
    {"Hi   Hello", "6324 259 15043", 0},
    {"", "", 0},
    {" ", "259", 0},
    {"  ", "1678", 0},
    {" Hello", "29871 15043", 0},
    {"The following string should be properly encoded: Hello.",
     "450 1494 1347 881 367 6284 18511 29901 15043 29889", 0},
    {"But ird and ปี   ird   ด", "1205 29871 1823 322 29871 31010 30691 1678 1823 1678 30718", 0},
    {"hello", "22172", 0},
    {"hello", "12199", ENCODE_NO_PREFIX},
    {"Hey how are you doing", "18637 920 526 366 2599", 0},
    {"Hey how are you doing", "29950 1032 920 526 366 2599", ENCODE_NO_PREFIX},
    {"Hello, world!\n\tline\n", "15043 29892 3186 29991 13 12 1220 13", 0},
    {"🙂 x", "29871 243 162 156 133 921", 0},
    {"1234567", "29871 29896 29906 29941 29946 29945 29953 29955", 0},
    {"[INST] Hi [/INST]", "518 25580 29962 6324 518 29914 25580 29962", 0},
    {"               ", "462", 0},
    {"                ", "462 29871", 0},
    {"                 ", "462 259", 0},
    {"                               ", "462 462", 0},
    {"Summarize this dialog:\nA: Hi\n---\nSummary:\n",
     "6991 3034 675 445 7928 29901 13 29909 29901 6324 13 5634 13 26289 29901 13", 0},
    {"<s>", "529 29879 29958", 0},
    {"<s>", "1", ENCODE_SPECIALS},
    /* Not for tokenizer.model, which obeys "legacy": false in the tokenizer_config.json beside it. */
    {"a</s>b", "263 2 289", ENCODE_SPECIALS},
    {"a</s>b", "29874 2 289", ENCODE_SPECIALS | ENCODE_NO_PREFIX},
};

Test(tokenizer, llama2)
{
    static const char *const paths[] = {"data/tokenizers/llama2",
                                        "data/tokenizers/llama2/tokenizer.model",
                                        "data/tokenizers/tinyllama-chat"};
    for (int i = 0; i < 3; i++) {
        Tokenizer *t = shared_tokenizer(paths[i]);
        bool spm = str_ends(paths[i], ".model");
        expect_cases(t, llama2_cases, sizeof llama2_cases / sizeof *llama2_cases - (spm ? 2 : 0));
        expect_text(t, "869", false, ".");
        expect_text(t, "30112 869", false, "ا .");
        expect_text(t, "1 15043 3186 2", true, "Hello world");
        expect_text(t, "15043 243 162 156 133 921", false, "Hello🙂 x");
        expect_text(t, "15043 99999 -1 3186", false, "Hello world");
        cr_expect_eq(tokenizer_bos(t), 1);
        cr_expect_eq(tokenizer_eos(t), 2);
        cr_expect(tokenizer_adds_bos(t) && !tokenizer_adds_eos(t));
        cr_expect_eq(tokenizer_id(t, "▁the"), 278);
        cr_expect_eq(tokenizer_id(t, "<0x0A>"), 13);
        cr_expect_eq(tokenizer_id(t, "no such token"), -1);
        cr_expect_str_eq(tokenizer_piece(t, 278), "▁the");
        cr_expect_null(tokenizer_piece(t, 32000));
        cr_expect(tokenizer_is_special(t, 1) && !tokenizer_is_special(t, 278));
        tokenizer_free(t);
    }
}

/* Where the bytes of a broken character end up is the one thing that the two formats differ in. */
Test(tokenizer, broken_bytes)
{
    Tokenizer *json = shared_tokenizer("data/tokenizers/llama2");
    Tokenizer *spm = shared_tokenizer("data/tokenizers/llama2/tokenizer.model");
    expect_text(json, "15043 243 162 156 15043", false, "Hello\uFFFD\uFFFD\uFFFD Hello");
    expect_text(spm, "15043 243 162 156 15043", false, "Hello\uFFFD\uFFFD\uFFFD Hello");
    expect_text(json, "198 172 243", false, "\uFFFD\uFFFD\uFFFD"); /* é, then half an emoji */
    expect_text(spm, "198 172 243", false, "é\uFFFD");
    tokenizer_free(json);
    tokenizer_free(spm);
}

/* transformers' pipeline without "legacy": the space stands only at the start of the whole text. */
Test(tokenizer, llama2_not_legacy)
{
    char *path = shared_or_skip("data/tokenizers/llama2/tokenizer.json"), *json;
    size_t n;
    Err err = {0};
    cr_assert(file_read(&json, &n, path, &err) == OK, "%s", err.line);
    const char *from = strstr(json, "\"normalizer\""), *to = strstr(json, "\"post_processor\"");
    cr_assert(from && to && from < to);
    StrBuf b = {0};
    strbuf_append(&b, json, (size_t)(from - json));
    strbuf_puts(
        &b, "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": "
            "\"▁\", \"prepend_scheme\": \"first\", \"split\": false}, ");
    strbuf_puts(&b, to);
    Tokenizer *t = load_text(b.data, NULL);
    static const Case cases[] = {
        {"<s> Hello<s>how", "1 15043 1 3525", ENCODE_SPECIALS},
        {" <s> Hello<s> how", "29871 1 15043 1 920", ENCODE_SPECIALS},
        {"Hello", "15043", 0},
        {" Hello", "15043", 0},
        {"hello", "12199", ENCODE_NO_PREFIX},
    };
    EXPECT_CASES(t, cases);
    tokenizer_free(t);
    strbuf_clear(&b);
    free(json);
    free(path);
}

static const Case llama3_cases[] = {
    {"This is a test sentence.", "2028 374 264 1296 11914 13", 0},
    {"Hello world", "9906 1917", 0},
    {"Hello, world!  1234567 tokens\n\n\nNext line\t\ttab",
     "9906 11 1917 0 220 220 4513 10961 22 11460 1432 5971 1584 197 59249", 0},
    {"I'LL go; you've 3.14159 it's", "40 6 4178 733 26 499 3077 220 18 13 9335 2946 433 596", 0},
    {"生活的真谛是", "104654 9554 89151 39013 249 21043", 0},
    {"    return x\n\n    y", "262 471 865 271 262 379", 0},
    {"🙂👍🏽 émigré naïve",
     "9468 19044 9468 239 235 9468 237 121 4046 76 5346 978 95980 588", 0},
    {"  ", "256", 0},
    {"\n\n", "271", 0},
    {"12345", "4513 1774", 0},
    {"a\r\nb \r\n c", "64 319 65 2591 272", 0},
    {"ปี   ird", "55784 29419 256 220 2668", 0},
    {"Dr. O'Neil'd", "9023 13 507 6 63040 4265", 0},
    {" \u00a0x\u3000y", "220 4194 87 23249 88", 0},
    {"ſ's 'ſ", "129 123 596 364 129 123", 0},
    {"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>"
     "assistant"
     "<|end_header_id|>\n\n",
     "128000 128006 882 128007 271 13347 128009 128006 78191 128007 271", ENCODE_SPECIALS},
    {"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
     "December 2023\n"
     "Today Date: 26 Jul 2024\n\n<|eot_id|>",
     "128000 128006 9125 128007 271 38766 1303 33025 2696 25 6790 220 2366 18 198 15724 2696 25 "
     "220 1627 10263 "
     "220 2366 19 271 128009",
     ENCODE_SPECIALS},
};

Test(tokenizer, llama3)
{
    static const char *const paths[] = {"data/tokenizers/llama3",
                                        "data/tokenizers/llama3/tokenizer.model"};
    for (int i = 0; i < 2; i++) {
        Tokenizer *t = shared_tokenizer(paths[i]);
        EXPECT_CASES(t, llama3_cases);
        cr_expect_eq(tokenizer_vocab_size(t), 128256);
        cr_expect_eq(tokenizer_bos(t), 128000);
        cr_expect_eq(tokenizer_id(t, "<|eot_id|>"), 128009);
        cr_expect_str_eq(tokenizer_piece(t, 128009), "<|eot_id|>");
        cr_expect_eq(tokenizer_id(t, "Ġthe"), 279);
        cr_expect(tokenizer_adds_bos(t) && !tokenizer_adds_eos(t));
        expect_text(t, "128000 9906 1917 128009", true, "Hello world");
        expect_text(t, "128000 9906 1917 128009", false, "<|begin_of_text|>Hello world<|eot_id|>");
        expect_text(t, "9468 19044 9468 239", false, "🙂\uFFFD");
        tokenizer_free(t);
    }
}

/* A rank file by itself: the list of special tokens is built in. */
Test(tokenizer, llama3_ranks_alone)
{
    char *path = shared_or_skip("data/tokenizers/llama3/tokenizer.model"), *dir = tmp_dir();
    char *copy = path_join(dir, "tokenizer.model");
    Err err = {0};
    cr_assert(file_copy(path, copy, &err) == OK, "%s", err.line);
    Tokenizer *t = load_or_fail(dir);
    EXPECT_CASES(t, llama3_cases);
    Tokenizer *with = shared_tokenizer("data/tokenizers/llama3");
    for (int id = 128000; id < 128256; id++)
        cr_expect_str_eq(tokenizer_piece(t, id), tokenizer_piece(with, id));
    tokenizer_free(t);
    tokenizer_free(with);
    tmp_dir_remove(dir);
    free(copy);
    free(path);
}

Test(tokenizer, starts)
{
    Tokenizer *t = shared_tokenizer("data/tokenizers/llama2");
    expect_starts(t, "Hello world", 11, 0, "0 5");
    expect_starts(t, "🙂 x", 6, 0, "0 0 0 0 0 4");
    expect_starts(t, "a</s>b", 6, ENCODE_SPECIALS, "0 1 5");
    tokenizer_free(t);
    t = shared_tokenizer("data/tokenizers/llama3");
    expect_starts(t, "Hello world", 11, 0, "0 5");
    expect_starts(t, "🙂👍🏽 é", 15, 0, "0 0 4 4 4 8 8 8 12");
    /* Broken UTF-8: U+FFFD stands where the bytes stood. */
    expect_ids(t, "a\xFF\xE2\x82 b", 6, 0, "64 10178 293");
    expect_starts(t, "a\xFF\xE2\x82 b", 6, 0, "0 1 4");
    tokenizer_free(t);
}

/* A megabyte in one word, of every kind, in time. */
Test(tokenizer, long_texts)
{
    static const char *const paths[] = {"data/tokenizers/llama2",
                                        "data/tokenizers/llama2/tokenizer.model",
                                        "data/tokenizers/llama3"};
    static const char *const units[] = {"a", " ", "\n", "ab", "🙂", "▁", "1", "x ", "é"};
    for (int p = 0; p < 3; p++) {
        Tokenizer *t = shared_tokenizer(paths[p]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            StrBuf text = {0}, back = {0};
            TokenBuf b = {0};
            while (text.len < 1 << 20)
                strbuf_puts(&text, units[u]);
            tokenizer_encode(t, &b, text.data, text.len, 0);
            tokenizer_decode(t, &back, b.ids, b.n, false);
            /* SentencePiece's space and one that is written "▁" look the same to a decoder. */
            if (p == 2 || !str_eq(units[u], "▁"))
                cr_expect(back.len == text.len && memcmp(back.data, text.data, text.len) == 0,
                          "%s: '%s' a megabyte long", paths[p], units[u]);
            strbuf_clear(&text);
            strbuf_clear(&back);
            tokenbuf_clear(&b);
        }
        tokenizer_free(t);
    }
}

/* The ids are those of `tokenizers` 0.23.  The vocabulary is not written in GPT-2's alphabet, so that
 * spaces vanish there too. */
Test(tokenizer, torchtitan_fixture)
{
    char *dir = source_path("tests/fixtures/torchtitan-test");
    Tokenizer *t = load_or_fail(dir);
    static const Case cases[] = {
        {"Hello world!", "72 101 108 108 111 119 111 114 108 100 33", 0},
        {"it's YOU'LL", "105 116 39 115 89 79 85 39 76 76", 0},
        {"<|image|>hi", "60 124 105 109 97 103 101 124 62 104 105", 0},
        {"<|begin_of_text|>hi<|image|>", "2002 104 105 1998", ENCODE_SPECIALS},
    };
    EXPECT_CASES(t, cases);
    cr_expect_eq(tokenizer_vocab_size(t), 2020);
    cr_expect_eq(tokenizer_bos(t), 2002);
    cr_expect_eq(tokenizer_eos(t), 2003);
    cr_expect_eq(tokenizer_pad(t), 2001);
    cr_expect(!tokenizer_adds_bos(t) && tokenizer_chat_template(t));
    expect_text(t, "2002 104 105 2003", true, "hi");
    tokenizer_free(t);
    free(dir);
}

/* The ids are those of tiktoken 0.14. */
Test(tokenizer, torchtune_fixture)
{
    char *path = source_path("tests/fixtures/torchtune-test/tiktoken_small.model");
    Tokenizer *t = load_or_fail(path);
    static const Case cases[] = {
        {"Hello world!", "72 381 111 441 307 33", 0},
        {"I can see the sun. But even when I cannot see the sun, I know that it exists.",
         "73 503 654 262 376 110 46 690 720 500 270 1119 654 262 376 110 44 270 686 334 312 522 "
         "511 115 46",
         0},
        {"naïve 日本 🙂\n\n  12345",
         "956 195 175 320 32 230 151 165 230 156 172 32 240 159 153 130 10 10 32 32 49 50 51 52 53",
         0},
        {"  two  spaces ", "32 646 32 501 359 300 32", 0},
        {"it's YOU'LL", "272 475 588 79 85 39 76 76", 0},
    };
    EXPECT_CASES(t, cases);
    expect_text(t, "956 195 175 320 32 230 151 165", false, "naïve 日");
    expect_text(t, "956 195", false, "na\uFFFD");
    cr_expect_eq(tokenizer_vocab_size(t), 2000);
    cr_expect_eq(tokenizer_bos(t), -1);
    cr_expect_str_eq(tokenizer_kind(t), "tiktoken");
    tokenizer_free(t);
    free(path);
}

/* One TokenBuf with two tokenizers: the cache of words is not carried over. */
Test(tokenizer, one_buffer_two_tokenizers)
{
    char *a = source_path("tests/fixtures/torchtitan-test");
    char *b = source_path("tests/fixtures/torchtune-test/tiktoken_small.model");
    Tokenizer *ta = load_or_fail(a), *tb = load_or_fail(b);
    cr_expect(tokenizer_hash(ta) != tokenizer_hash(tb));
    TokenBuf buf = {0};
    for (int i = 0; i < 3; i++) {
        buf.n = 0;
        tokenizer_encode(ta, &buf, "Hello", 5, 0);
        cr_expect(buf.n == 5 && buf.ids[1] == 101);
        tokenizer_encode(tb, &buf, "Hello", 5, 0);
        cr_expect(buf.n == 8 && buf.ids[6] == 381);
    }
    tokenbuf_clear(&buf);
    tokenizer_free(ta);
    tokenizer_free(tb);
    free(a);
    free(b);
}

typedef struct Shared {
    const Tokenizer *t;
    TokenBuf bufs[64];
} Shared;

static void encode_one(void *ud, int64_t i)
{
    Shared *s = ud;
    for (int k = 0; k < 50; k++) {
        s->bufs[i].n = 0;
        tokenizer_encode(s->t, &s->bufs[i], "naïve 日本 🙂\n\n  12345 the sun. But", 38, 0);
    }
}

/* One Tokenizer, several threads. */
Test(tokenizer, threads)
{
    char *path = source_path("tests/fixtures/torchtune-test/tiktoken_small.model");
    Shared s = {load_or_fail(path), {{0}}};
    Pool *pool = pool_new(4);
    pool_run(pool, 64, encode_one, &s);
    pool_free(pool);
    for (int i = 0; i < 64; i++) {
        cr_expect(s.bufs[i].n == s.bufs[0].n && s.bufs[i].n > 20);
        cr_expect_arr_eq(s.bufs[i].ids, s.bufs[0].ids, (size_t)s.bufs[0].n * sizeof(int32_t));
    }
    for (int i = 0; i < 64; i++)
        tokenbuf_clear(&s.bufs[i]);
    tokenizer_free((Tokenizer *)(uintptr_t)s.t);
    free(path);
}
