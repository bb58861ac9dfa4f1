/* tokenizer.json in small: one vocabulary of a few tokens for each rule, and what is refused by name. */
#include "tests/data/tokenizer_case.h"

/* A file around the parts that a test cares for. */
static char *file_of(const char *parts, const char *model)
{
    return str_format(
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, %s%s\"model\": {%s}}",
        parts, *parts ? ", " : "", model);
}

static Tokenizer *made(const char *parts, const char *model, const char *config)
{
    char *json = file_of(parts, model);
    Tokenizer *t = load_text(json, config);
    free(json);
    return t;
}

static void gives(const Tokenizer *t, const char *text, const char *ids)
{
    expect_ids(t, text, strlen(text), ENCODE_SPECIALS, ids);
}

Test(tokenizer_json, ignore_merges)
{
    static const char vocab[] =
        "\"vocab\": {\".:.:\": 0, \".:\": 1, \".\": 2, \":\": 3}, \"merges\": [\". :\"]";
    char *model = str_format("\"type\": \"BPE\", \"ignore_merges\": true, %s", vocab);
    Tokenizer *t = made("", model, NULL);
    gives(t, ".:.:", "0");
    gives(t, ".:.:.", "1 1 2");
    tokenizer_free(t);
    t = made("", vocab, NULL); /* no type: old files have none */
    gives(t, ".:.:", "1 1");
    tokenizer_free(t);
    free(model);
}

Test(tokenizer_json, unknown_characters)
{
    static const char vocab[] =
        "\"unk_token\": \"<unk>\", \"vocab\": {\"<unk>\": 0, \"a\": 1, \"b\": 2, "
        "\"<0xC3>\": 3, \"<0xA9>\": 4, \"<0x63>\": 5}, \"merges\": []";
    static const struct {
        const char *flags, *text, *ids;
    } cases[] = {
        {"\"fuse_unk\": true", "accb", "1 0 2"},
        {"\"fuse_unk\": false", "accb", "1 0 0 2"},
        {"\"fuse_unk\": true, \"byte_fallback\": true", "acécb", "1 5 3 4 5 2"},
        /* è has no token for its second byte: unknown as a whole.  It waits for the next token. */
        {"\"fuse_unk\": true, \"byte_fallback\": true", "aècb", "1 5 0 2"},
        {"\"fuse_unk\": true, \"byte_fallback\": true", "èè", "0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *model = str_format("%s, %s", cases[i].flags, vocab);
        Tokenizer *t = made("", model, NULL);
        gives(t, cases[i].text, cases[i].ids);
        tokenizer_free(t);
        free(model);
    }
    Tokenizer *t = made("", "\"vocab\": {\"a\": 0}, \"merges\": []", NULL);
    gives(t, "bab", "0"); /* no unk_token: it vanishes */
    tokenizer_free(t);
}

Test(tokenizer_json, merges)
{
    /* As pairs, whose parts may have spaces; the lower rank first, the leftmost of equals. */
    Tokenizer *t =
        made("",
             "\"vocab\": {\"a\": 0, \" \": 1, \"a \": 2, \" a\": 3, \"a a\": 4, \"aa\": 5}, "
             "\"merges\": [[\" \", \"a\"], [\"a\", \" a\"], [\"a\", \"a\"]]",
             NULL);
    gives(t, "a a", "4");
    gives(t, "a ", "0 1");
    gives(t, "aaa", "5 0");
    gives(t, " aa", "3 0");
    tokenizer_free(t);
    /* Escapes and white space of every kind. */
    t = made("\"merges\": [1], \"x\": {\"model\": {\"merges\": [2]}}",
             "\"x\": [\"merges\", {\"merges\": [3]}], \"vocab\": {\"\\\"\": 0, \"\\\\\": 1, \"]\": "
             "2, \"\\\"\\\\\": 3, \"]]\": 4}, "
             "\"merges\" :\n [ [ \"\\u0022\" ,\t\"\\\\\"\r\n] ,\"] ]\" ]",
             NULL);
    gives(t, "\"\\]]]", "3 4 2");
    tokenizer_free(t);
    /* A line "#version" is no merge; a NUL is a character like another. */
    t = made("",
             "\"vocab\": {\"\\u0000\": 0, \"a\": 1, \"a\\u0000\": 2, \"\\\\u0000\": 3}, "
             "\"merges\": [\"#version: 0.2\", \"a \\u0000\"]",
             NULL);
    expect_ids(t, "a\0", 2, 0, "2");
    expect_ids(t, "\0a", 2, 0, "0 1");
    cr_expect_eq(tokenizer_id(t, "\\u0000"), 3);
    tokenizer_free(t);
}

#define ADDED(id, content, more)                                                                   \
    "{\"id\": " #id ", \"content\": \"" content                                                    \
    "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": "                                  \
    "false, \"normalized\": false, \"special\": true" more "}"
#define LETTERS                                                                                    \
    "\"vocab\": {\"a\": 0, \"b\": 1, \" \": 2, \"<\": 3, \"x\": 4, \">\": 5}, \"merges\": []"

Test(tokenizer_json, added_tokens)
{
    Tokenizer *t =
        made("\"added_tokens\": [" ADDED(6, "<x>", "") ", " ADDED(7, "<x>x", "") ", " ADDED(
                 8, "ab",
                 ", \"special\": false, \"single_word\": true") ", " ADDED(3, "<",
                                                                           ", \"lstrip\": true, "
                                                                           "\"rstrip\": true") "]",
             LETTERS, NULL);
    gives(t, "a<x>b", "0 6 1");
    gives(t, "a<x>xb", "0 7 1"); /* the longest */
    gives(t, "a <  b", "0 3 1"); /* with the white space around */
    gives(t, "ab", "8");
    gives(t, "xab ab abx", "4 0 1 2 8 2 0 1 4");
    expect_ids(t, "a<x>b", 5, 0, "0 3 4 5 1"); /* special tokens are text, unless asked for */
    expect_ids(t, "ab", 2, 0, "8");
    expect_starts(t, "a <  b", 6, ENCODE_SPECIALS, "0 1 5");
    cr_expect(tokenizer_is_special(t, 6) && !tokenizer_is_special(t, 8));
    cr_expect_eq(tokenizer_vocab_size(t), 9);
    tokenizer_free(t);
}

/* As the reference takes a content that stands twice: the last entry says how it is found, special it is once and for all. */
Test(tokenizer_json, an_added_token_twice)
{
    static const struct {
        const char *first, *last;
        bool special;
        const char *ids;
    } cases[] = {
        {"", ", \"special\": false", true, "0 2 6 1"},
        {", \"special\": false", "", true, "0 2 6 1"},
        {", \"special\": false", ", \"special\": false", false, "0 2 6 1"},
        {"", ", \"special\": false, \"lstrip\": true", true, "0 6 1"},
        {", \"lstrip\": true", ", \"special\": false", true, "0 2 6 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parts =
            str_format("\"added_tokens\": [" ADDED(6, "<x>", "%s") ", " ADDED(6, "<x>", "%s") "]",
                       cases[i].first, cases[i].last);
        Tokenizer *t = made(parts, LETTERS, NULL);
        gives(t, "a <x>b", cases[i].ids);
        cr_expect_eq(tokenizer_is_special(t, 6), cases[i].special, "case %zu", i);
        expect_ids(t, "<x>", 3, 0, cases[i].special ? "3 4 5" : "6");
        tokenizer_free(t);
        free(parts);
    }
}

Test(tokenizer_json, normalized_added_tokens)
{
    /* Old Llama 2 files: "<x>" is looked for as "_<x>" behind the normalizer. */
    static const char parts[] =
        "\"added_tokens\": [{\"id\": 7, \"content\": \"<x>\", \"normalized\": true, \"special\": "
        "true}], "
        "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", "
        "\"prepend\": \"_\"}, "
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"_\"}]}";
    static const char model[] =
        "\"vocab\": {\"a\": 0, \"b\": 1, \"_\": 2, \"<\": 3, \"x\": 4, \">\": 5, \"_a\": 6}, "
        "\"merges\": [\"_ a\"]";
    Tokenizer *t = made(parts, model, NULL);
    gives(t, "a<x>b", "6 3 4 5 1");
    gives(t, "a <x>b", "6 7 1");
    gives(t, "<x>a", "7 0");
    expect_ids(t, "a", 1, ENCODE_NO_PREFIX, "0");
    tokenizer_free(t);
    /* tokenizer_config.json has the last word on how a token is found. */
    t = made(parts, model,
             "{\"added_tokens_decoder\": {\"7\": {\"content\": \"<x>\", \"normalized\": false, "
             "\"special\": true}}}");
    gives(t, "a<x>b", "6 7 2 1");
    tokenizer_free(t);
}

Test(tokenizer_json, split_behaviors)
{
    static const char model[] =
        "\"ignore_merges\": true, \"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"a\": 1, \"-\": 2, "
        "\"a-\": 3, \"-a\": 4, \"--\": 5, \"aa\": 6}, \"merges\": []";
    static const struct {
        const char *behavior, *invert, *ids;
    } cases[] = {
        {"Isolated", "false", "6 2 2 1"},
        {"Removed", "false", "6 1"},
        {"MergedWithPrevious", "false", "1 1 2 2 1"},
        {"MergedWithNext", "false", "6 2 4"},
        {"Contiguous", "false", "6 5 1"},
        {"Removed", "true", "2 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parts =
            str_format("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, "
                       "\"behavior\": \"%s\", \"invert\": %s}",
                       cases[i].behavior, cases[i].invert);
        Tokenizer *t = made(parts, model, NULL);
        gives(t, "aa--a", cases[i].ids);
        tokenizer_free(t);
        free(parts);
    }
}

Test(tokenizer_json, nfc)
{
    Tokenizer *t =
        made("\"normalizer\": {\"type\": \"NFC\"}, \"decoder\": {\"type\": \"Fuse\"}",
             "\"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"é\": 1, \"각\": 2, \"a\": 3, "
             "\"q\\u0323\\u0307\": 4, "
             "\"q\": 5, \"\\u0323\": 6, \"\\u0307\": 7, \"Ω\": 8, \"豈\": 9}, \"merges\": []",
             NULL);
    gives(t, "e\u0301", "1");
    gives(t, "\u1100\u1161\u11A8", "2");
    gives(t, "\uAC00\u11A8", "2");
    gives(t, "q\u0307\u0323", "5 6 7"); /* marks in the order of their classes */
    gives(t, "\u2126", "8");            /* singletons */
    gives(t, "\uF900", "9");
    expect_starts(t, "ae\u0301a", 5, 0, "0 1 4");
    expect_text(t, "1 2 3", false, "é각a");
    tokenizer_free(t);
    /* the text begins where its first character was not */
    t = made(
        "\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Metaspace\", "
        "\"replacement\": \"▁\", \"prepend_scheme\": \"first\", \"split\": false}",
        "\"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"▁\": 1, \"\\u0301\": 2, \"\\u0323\": 3, "
        "\"a\": 4}, \"merges\": []",
        NULL);
    gives(t, "\u0301\u0323a", "1 3 2 4");
    tokenizer_free(t);
}

Test(tokenizer_json, decoders)
{
    static const char model[] =
        "\"vocab\": {\"▁a\": 0, \"▁\": 1, \"b\": 2, \"<0xC3>\": 3, \"<0xA9>\": 4, \"a▁b\": 5}, "
        "\"merges\": []";
    static const struct {
        const char *decoder, *ids, *text;
    } cases[] = {
        {"null", "0 2", "▁a b"},
        {"{\"type\": \"Fuse\"}", "0 2", "▁ab"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"add_prefix_space\": true}", "0 0 5",
         "a aa b"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"never\"}", "0 0",
         " a a"},
        {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
         "{\"String\": \"▁\"}, "
         "\"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": "
         "\"Strip\", \"content\": \" "
         "\", \"start\": 1, \"stop\": 0}]}",
         "1 0 3 4 2 3 2", "  aéb\uFFFDb"},
        {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"ByteFallback\"}, {\"type\": "
         "\"Strip\", \"content\": "
         "\"▁\", \"start\": 1, \"stop\": 0}]}",
         "0 1 0 3 4", "aaé"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parts = str_format("\"decoder\": %s", cases[i].decoder);
        Tokenizer *t = made(parts, model, NULL);
        bool one_less = i == 4; /* the first of the two spaces is stripped */
        expect_text(t, cases[i].ids, false, cases[i].text + one_less);
        tokenizer_free(t);
        free(parts);
    }
}

#define TEMPLATE(before, after)                                                                    \
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" before                  \
    "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}" after                                        \
    "], \"special_tokens\": {\"<\": {\"id\": \"<\", \"ids\": [3], \"tokens\": [\"<\"]}, \">\": "   \
    "{\"id\": "                                                                                    \
    "\">\", \"ids\": [5], \"tokens\": [\">\"]}}}"
#define PIECE(name) "{\"SpecialToken\": {\"id\": \"" name "\", \"type_id\": 0}}"

Test(tokenizer_json, around_the_text)
{
    static const struct {
        const char *parts, *config;
        int bos, eos, pad;
        bool adds_bos, adds_eos;
    } cases[] = {
        {"", NULL, -1, -1, -1, false, false},
        {TEMPLATE(PIECE("<") ", ", ""), NULL, 3, -1, -1, true, false},
        {TEMPLATE(PIECE("<") ", ", ", " PIECE(">")), NULL, 3, 5, -1, true, true},
        {TEMPLATE(PIECE("<") ", ", ""),
         "{\"bos_token\": \"<\", \"eos_token\": {\"content\": \">\"}, \"pad_token\": null}", 3, 5,
         -1, true, false},
        {TEMPLATE(PIECE("<") ", ", ""),
         "{\"bos_token\": \"<\", \"eos_token\": \">\", \"pad_token\": \"x\", \"tokenizer_class\": "
         "\"LlamaTokenizer\", "
         "\"add_bos_token\": false, \"add_eos_token\": true}",
         3, 5, 4, false, true},
        {"",
         "{\"bos_token\": \"<\", \"eos_token\": \">\", \"tokenizer_class\": "
         "\"LlamaTokenizerFast\"}",
         3, 5, -1, true, false},
        {"",
         "{\"bos_token\": \"<\", \"eos_token\": \">\", \"tokenizer_class\": "
         "\"PreTrainedTokenizerFast\", "
         "\"model_max_length\": 1000000000000000019884624838656}",
         3, 5, -1, false, false},
        {"", "{\"bos_token\": null, \"eos_token\": \">\"}", -1, 5, -1, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *t = made(cases[i].parts, LETTERS, cases[i].config);
        cr_expect_eq(tokenizer_bos(t), cases[i].bos, "case %zu: bos %d", i, tokenizer_bos(t));
        cr_expect_eq(tokenizer_eos(t), cases[i].eos, "case %zu: eos %d", i, tokenizer_eos(t));
        cr_expect_eq(tokenizer_pad(t), cases[i].pad, "case %zu: pad %d", i, tokenizer_pad(t));
        cr_expect_eq(tokenizer_adds_bos(t), cases[i].adds_bos, "case %zu", i);
        cr_expect_eq(tokenizer_adds_eos(t), cases[i].adds_eos, "case %zu", i);
        tokenizer_free(t);
    }
}

Test(tokenizer_json, chat_templates)
{
    Tokenizer *t = made("", LETTERS, "{\"chat_template\": \"{{ x }}\"}");
    cr_expect_str_eq(tokenizer_chat_template(t), "{{ x }}");
    tokenizer_free(t);
    t = made("", LETTERS,
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}, {\"name\": "
             "\"default\", \"template\": \"d\"}]}");
    cr_expect_str_eq(tokenizer_chat_template(t), "d");
    tokenizer_free(t);
    t = made("", LETTERS, NULL);
    cr_expect_null(tokenizer_chat_template(t));
    tokenizer_free(t);
    char *dir = tmp_dir(), *json = file_of("", LETTERS);
    write_file(dir, "tokenizer.json", json, strlen(json));
    write_file(dir, "tokenizer_config.json", "{\"chat_template\": \"no\"}", 23);
    write_file(dir, "chat_template.jinja", "yes", 3);
    write_file(dir, "special_tokens_map.json", "{\"eos_token\": \"x\"}", 18);
    t = load_or_fail(dir);
    cr_expect_str_eq(tokenizer_chat_template(t), "yes");
    cr_expect_eq(tokenizer_eos(t), 4);
    tokenizer_free(t);
    tmp_dir_remove(dir);
    free(json);
}

/* added_tokens.json, which older folders have: fine where the others say the same, else refused. */
Test(tokenizer_json, added_tokens_file)
{
    char *dir = tmp_dir(), *json = file_of("", LETTERS);
    write_file(dir, "tokenizer.json", json, strlen(json));
    write_file(dir, "added_tokens.json", "{\"x\": 4}", 8);
    tokenizer_free(load_or_fail(dir));
    static const char *const bad[] = {"{\"x\": 3}", "{\"new\": 9}"};
    for (int i = 0; i < 2; i++) {
        Tokenizer *t = NULL;
        Err err = {0};
        write_file(dir, "added_tokens.json", bad[i], strlen(bad[i]));
        cr_expect_eq(tokenizer_load(&t, dir, &err), E_INPUT);
        cr_expect(!t && strstr(err.line, "added_tokens.json: '") &&
                      strstr(err.line, "is not that token"),
                  "%s", err.line);
    }
    tmp_dir_remove(dir);
    free(json);
}

/* Refused in one line, which names the file and what it is about. */
Test(tokenizer_json, refusals)
{
    static const struct {
        const char *parts, *model, *config, *says;
    } cases[] = {
        {"", "\"type\": \"Unigram\", \"vocab\": []", NULL, "model.type: Unigram is not supported"},
        {"", "\"type\": 5, \"vocab\": {}", NULL, "model.type: must be a string, found integer"},
        {"", "\"type\": \"WordPiece\", \"vocab\": {}", NULL, "model.type: WordPiece"},
        {"", "\"type\": \"WordLevel\", \"vocab\": {}", NULL, "model.type: WordLevel"},
        {"",
         "\"type\": \"BPE\", \"continuing_subword_prefix\": \"##\", \"vocab\": {}, \"merges\": []",
         NULL, "model.continuing_subword_prefix"},
        {"", "\"end_of_word_suffix\": \"</w>\", \"vocab\": {}, \"merges\": []", NULL,
         "model.end_of_word_suffix"},
        {"", "\"dropout\": 0.1, \"vocab\": {}, \"merges\": []", NULL, "model.dropout"},
        {"", "\"vocab\": {\"a\": 0}", NULL, "model.merges"},
        {"", "\"merges\": []", NULL, "model.vocab"},
        {"", "\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", NULL, "model.vocab: 'b': id 0"},
        {"", "\"vocab\": {\"a\": -1}, \"merges\": []", NULL, "model.vocab: 'a'"},
        {"", "\"vocab\": {\"a\": 4000000000}, \"merges\": []", NULL, "model.vocab: 'a'"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]", NULL, "model.merges[0]: 'b'"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]", NULL, "model.merges[0]: 'aa'"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]", NULL, "model.merges[0]"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]", NULL, "model.merges[0]"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [7]", NULL, "model.merges[0]"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": [\"a a\" \"a a\"]", NULL, "model.merges"},
        {"", "\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [\"a a\",]", NULL, "model.merges[1]"},
        {"", "\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [\"a a\", \"\\x\"]", NULL,
         "invalid JSON"},
        {"", "\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [], \"merges\": [\"a a\"]", NULL,
         "model.merges: is there twice"},
        {"", "\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [{\"a\": \"a\"}]", NULL,
         "model.merges[0]"},
        {"", "\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [[\"a\", \"a\", \"a\"]]", NULL,
         "model.merges[0]"},
        {"", "\"vocab\": {\"a\": 0}, \"merges\": {}", NULL, "model.merges"},
        {"", "\"unk_token\": \"u\", \"vocab\": {\"a\": 0}, \"merges\": []", NULL,
         "model.unk_token"},
        {"\"normalizer\": {\"type\": \"NFKC\"}", LETTERS, NULL, "normalizer: type NFKC"},
        {"\"normalizer\": {\"type\": \"Precompiled\"}", LETTERS, NULL,
         "normalizer: type Precompiled"},
        {"\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]}",
         LETTERS, NULL, "normalizer: type Lowercase"},
        {"\"normalizer\": 7", LETTERS, NULL, "normalizer"},
        {"\"pre_tokenizer\": {\"type\": \"Whitespace\"}", LETTERS, NULL,
         "pre_tokenizer: type Whitespace"},
        {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": "
         "\"Isolated\", "
         "\"invert\": false}",
         LETTERS, NULL, "pre_tokenizer: the pattern does not compile"},
        {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, "
         "\"behavior\": \"Isolated\"}",
         LETTERS, NULL, "pre_tokenizer: the pattern has && inside"},
        {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?i:ss)\"}, "
         "\"behavior\": \"Isolated\"}",
         LETTERS, NULL, "under (?i)"},
        {"\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": "
         "\"Sideways\"}",
         LETTERS, NULL, "unknown behavior 'Sideways'"},
        {"\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"__\"}", LETTERS, NULL,
         "one character"},
        {"\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": "
         "\"often\"}",
         LETTERS, NULL, "prepend_scheme"},
        {"\"decoder\": {\"type\": \"WordPiece\"}", LETTERS, NULL, "decoder: type WordPiece"},
        {"\"post_processor\": {\"type\": \"RobertaProcessing\"}", LETTERS, NULL,
         "post_processor: type RobertaProcessing"},
        {TEMPLATE(PIECE("<") ", " PIECE(">") ", ", ""), LETTERS, NULL,
         "post_processor: TemplateProcessing"},
        {TEMPLATE(PIECE("<") ", ", ""), LETTERS, "{\"bos_token\": \">\"}", "bos_token is 5"},
        {"\"added_tokens\": [{\"id\": 9, \"content\": \"new\"}]", LETTERS, NULL,
         "added_tokens[0]: 'new' says id 9"},
        {"\"added_tokens\": [{\"id\": 1, \"content\": \"a\"}]", LETTERS, NULL,
         "added_tokens[0]: 'a' says id 1"},
        {"\"added_tokens\": [{\"id\": 6}]", LETTERS, NULL, "added_tokens[0]"},
        {"\"added_tokens\": {}", LETTERS, NULL, "added_tokens: must be a list"},
        {"\"version\": \"2.0\"", LETTERS, NULL, "version"},
        {"", LETTERS, "[]", "tokenizer_config.json: must be a JSON object"},
        {"", LETTERS, "{\"bos_token\": 1}", "tokenizer_config.json: bos_token"},
        {"", LETTERS, "{\"bos_token\": \"<nope>\"}", "bos_token: '<nope>' is no token"},
        {"", LETTERS, "{\"add_bos_token\": \"yes\"}", "add_bos_token"},
        {"", LETTERS, "{\"added_tokens_decoder\": {\"x\": {}}}", "'x' is no token id"},
        {"", LETTERS, "{\"added_tokens_decoder\": {\"3\": {\"content\": \"new\"}}}",
         "'new' says id 3"},
        {"", LETTERS, "{\"chat_template\": 3}", "chat_template"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = tmp_dir(), *json = file_of(cases[i].parts, cases[i].model);
        if (strstr(cases[i].parts, "version")) { /* the first of two would win */
            free(json);
            json = str_format("{%s, \"model\": {%s}}", cases[i].parts, cases[i].model);
        }
        write_file(dir, "tokenizer.json", json, strlen(json));
        if (cases[i].config)
            write_file(dir, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        Err err = {0};
        Tokenizer *t = NULL;
        Status s = tokenizer_load(&t, dir, &err);
        cr_expect(s == E_INPUT && strstr(err.line, cases[i].says) && strstr(err.line, dir),
                  "case %zu: wanted '%s', got %d '%s'", i, cases[i].says, (int)s, err.line);
        cr_expect(!strchr(err.line, '\n'));
        if (s == OK) tokenizer_free(t);
        tmp_dir_remove(dir);
        free(json);
    }
}

Test(tokenizer_json, nothing_there)
{
    char *dir = tmp_dir();
    Err err = {0};
    Tokenizer *t;
    cr_expect_eq(tokenizer_load(&t, dir, &err), E_INPUT);
    cr_expect(strstr(err.line, "neither tokenizer.json nor tokenizer.model"), "%s", err.line);
    char *path = path_join(dir, "absent.json");
    cr_expect_eq(tokenizer_load(&t, path, &err), E_INPUT);
    write_file(dir, "tokenizer.model", "", 0);
    cr_expect_eq(tokenizer_load(&t, dir, &err), E_INPUT);
    cr_expect(strstr(err.line, "empty"), "%s", err.line);
    free(path);
    tmp_dir_remove(dir);
}
