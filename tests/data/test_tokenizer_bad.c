/* Files that are cut off or damaged, of every kind that we read: one line that names the file, and no crash.
 * Run under the sanitizers (.ci/run); the fuzz target looks for what is not here. */
#include "tests/data/tokenizer_case.h"

#include <stdio.h>

static bool loads(const char *name, const char *data, size_t n)
{
    /* A copy of just these bytes, so that the sanitizer sees a read behind them. */
    char *copy = xmalloc(n);
    if (n) memcpy(copy, data, n);
    Err err = {0};
    Tokenizer *t;
    Status s = tokenizer_load_bytes(&t, name, copy, n, &err);
    free(copy);
    if (s == OK) {
        TokenBuf b = {0};
        tokenizer_encode(t, &b, "Hello \xFF ab", 10, ENCODE_SPECIALS);
        tokenbuf_clear(&b);
        tokenizer_free(t);
        return true;
    }
    cr_assert(s == E_INPUT && str_starts(err.line, name) && !strchr(err.line, '\n'),
              "%zu bytes: '%s'", n, err.line);
    return false;
}

Test(tokenizer_bad, cut_anywhere)
{
    char *dir = source_path("tests/fuzz/corpus/tokenizer"), **names;
    int n_names;
    Err err = {0};
    cr_assert(dir_list(&names, &n_names, dir, &err) == OK, "%s", err.line);
    cr_assert(n_names >= 7);
    for (int i = 0; i < n_names; i++) {
        char *path = path_join(dir, names[i]), *data;
        const char *name = str_ends(path, ".json") ? "f.json" : "f.model";
        size_t n;
        cr_assert(file_read(&data, &n, path, &err) == OK, "%s", err.line);
        int n_ok = 0;
        for (size_t cut = 0; cut < n; cut++)
            n_ok += loads(name, data, cut);
        /* A list may end at the end of a line, but a JSON text has only one end. */
        if (str_ends(path, ".json")) cr_expect_eq(n_ok, 0, "%s: %d cuts load", names[i], n_ok);
        if (!strstr(names[i], "nul")) cr_expect(loads(name, data, n), "%s does not load", names[i]);
        /* One byte changed, each in turn: whatever it says, it is said. */
        for (size_t at = 0; at < n; at++) {
            data[at] ^= 0x15;
            loads(name, data, n);
            data[at] ^= 0x15;
        }
        free(data);
        free(path);
    }
    dir_list_free(names, n_names);
    free(dir);
}

Test(tokenizer_bad, rank_files)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"AA== 0\nAQ==\n", "f:2: "},
        {"AA== 0\nAQ== x\n", "f:2: the rank"},
        {"AA== 0\nAQ== 0\n", "f:2: "},
        {"AA== 0\nAA== 1\n", "f:2: "},
        {"AA== 0\n#### 1\n", "f:2: "},
        {"AA== 0\nAQ== 99999999999999999999\n", "f:2: the rank"},
        {"AA== 0\n", "no token for byte 0x01"},
        {"AA== 0\n== 1\n", "f:2: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err err = {0};
        Tokenizer *t;
        Status s = tokenizer_load_bytes(&t, "f", cases[i].text, strlen(cases[i].text), &err);
        cr_expect(s == E_INPUT && strstr(err.line, cases[i].says), "case %zu: '%s'", i, err.line);
    }
}

static void put_varint(StrBuf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        strbuf_putc(b, (char)(v | 0x80));
    strbuf_putc(b, (char)v);
}

static void put_bytes(StrBuf *b, int field, const char *s, size_t n)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    strbuf_append(b, s, n);
}

static void put_int(StrBuf *b, int field, uint64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, v);
}

typedef struct Spm {
    int model_type, suffix, byte_fallback;
    const char *piece; /* a third piece of this text and type */
    int type;
    const char *charsmap;
} Spm;

static void put_piece(StrBuf *b, const char *s, int type)
{
    StrBuf piece = {0};
    put_bytes(&piece, 1, s, strlen(s));
    put_int(&piece, 3, (uint64_t)type);
    put_bytes(b, 1, piece.data, piece.len);
    strbuf_clear(&piece);
}

static StrBuf spm_file(const Spm *m)
{
    StrBuf b = {0}, trainer = {0}, norm = {0};
    put_piece(&b, "<unk>", 2);
    put_piece(&b, "a", 1);
    if (m->piece) put_piece(&b, m->piece, m->type);
    if (m->model_type) put_int(&trainer, 3, (uint64_t)m->model_type);
    if (m->suffix) put_int(&trainer, 24, 1);
    if (m->byte_fallback) put_int(&trainer, 35, 1);
    put_bytes(&b, 2, trainer.data ? trainer.data : "", trainer.len);
    put_bytes(&norm, 1, "nmt_nfkc", 8);
    if (m->charsmap) put_bytes(&norm, 2, m->charsmap, strlen(m->charsmap));
    put_bytes(&b, 3, norm.data, norm.len);
    strbuf_clear(&trainer);
    strbuf_clear(&norm);
    return b;
}

Test(tokenizer_bad, sentencepiece)
{
    static const struct {
        Spm m;
        const char *says; /* NULL: loads */
    } cases[] = {
        {{2, 0, 0, NULL, 0, NULL}, NULL},
        {{0, 0, 0, NULL, 0, NULL}, "model_type: Unigram is not supported"},
        {{1, 0, 0, NULL, 0, NULL}, "model_type: Unigram is not supported"},
        {{3, 0, 0, NULL, 0, NULL}, "model_type: Word"},
        {{4, 0, 0, NULL, 0, NULL}, "model_type: Char"},
        {{2, 1, 0, NULL, 0, NULL}, "treat_whitespace_as_suffix"},
        {{2, 0, 1, NULL, 0, NULL}, "byte_fallback without the piece <0x00>"},
        {{2, 0, 0, "a", 1, NULL}, "piece 2: 'a' is there twice"},
        {{2, 0, 0, "<u>", 2, NULL}, "two unknown pieces"},
        {{2, 0, 0, "<0x4", 6, NULL}, "piece 2: '<0x4' is no byte"},
        {{2, 0, 0, "b", 9, NULL}, "unknown type"},
        {{2, 0, 0, "\xFF", 1, NULL}, "without text"},
        {{2, 0, 0, NULL, 0, "map"}, "the character map of 'nmt_nfkc' is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StrBuf b = spm_file(&cases[i].m);
        Err err = {0};
        Tokenizer *t;
        Status s = tokenizer_load_bytes(&t, "f.model", b.data, b.len, &err);
        if (cases[i].says)
            cr_expect(s == E_INPUT && strstr(err.line, cases[i].says), "case %zu: '%s'", i,
                      err.line);
        else
            cr_expect_eq(s, OK, "case %zu: '%s'", i, err.line);
        if (s == OK) tokenizer_free(t);
        strbuf_clear(&b);
    }
}
