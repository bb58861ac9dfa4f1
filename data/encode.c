/* Encoding: added tokens are cut out, the rest is normalized, cut into words and merged. */
#include "data/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

struct EncodeScratch {
    uint64_t owner; /* hash of the tokenizer whose words the cache has */
    BpeScratch *bpe;
    RegexScratch *regex;
    MappedText valid;   /* the input, where it was not UTF-8 */
    MappedText norm[2]; /* the normalizer's */
    PretokWork pre;
};

void tokenbuf_push(TokenBuf *b, int32_t id, int32_t start)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->ids = xrealloc(b->ids, (size_t)b->cap * sizeof *b->ids);
        b->starts = xrealloc(b->starts, (size_t)b->cap * sizeof *b->starts);
    }
    b->ids[b->n] = id;
    b->starts[b->n++] = start;
}

static void scratch_free(struct EncodeScratch *s)
{
    if (!s) return;
    bpe_scratch_free(s->bpe);
    regex_scratch_free(s->regex);
    mapped_text_clear(&s->valid);
    mapped_text_clear(&s->norm[0]);
    mapped_text_clear(&s->norm[1]);
    pretok_work_clear(&s->pre);
    free(s);
}

void tokenbuf_clear(TokenBuf *b)
{
    free(b->ids);
    free(b->starts);
    scratch_free(b->scratch);
    *b = (TokenBuf){0};
}

static struct EncodeScratch *scratch_of(TokenBuf *b, const Tokenizer *t)
{
    struct EncodeScratch *s = b->scratch;
    if (!s) {
        s = b->scratch = xcalloc(1, sizeof *s);
        s->bpe = bpe_scratch_new();
        s->regex = s->pre.regex = regex_scratch_new();
        s->owner = t->hash;
    }
    if (s->owner != t->hash) {
        bpe_scratch_forget(s->bpe);
        s->owner = t->hash;
    }
    return s;
}

/* The input made valid as utf8_append_lossy makes it, each U+FFFD standing where its bytes stood. */
static TextView make_valid(MappedText *to, const char *text, size_t len)
{
    mapped_text_reset(to);
    size_t good = 0, i = 0;
    TextView in = {text, len, NULL, 0};
    while (i < len) {
        uint32_t cp;
        int n = utf8_decode(text + i, len - i, &cp);
        if (n) {
            i += (size_t)n;
            continue;
        }
        if (good < i) mapped_text_copy(to, &in, good, i);
        mapped_text_append(to, "\xEF\xBF\xBD", 3, (int32_t)i);
        size_t bad = len - i < 3 ? len - i : 3;
        while (bad > 1 && utf8_cut_tail(text + i, bad) != bad)
            bad--;
        good = i += bad;
    }
    if (good < i) mapped_text_copy(to, &in, good, i);
    return mapped_text_view(to);
}

/* One word, or several where "▁" parts them for certain: shorter words are sooner merged, and known. */
static void encode_word(const Tokenizer *t, struct EncodeScratch *s, const TextView *v, Span word,
                        TokenBuf *out)
{
    int32_t from = word.a;
    for (int32_t i = word.a + 1; t->bpe.cut_at_space && i + 3 <= word.b; i++) {
        const char *hit = memchr(v->s + i, 0xE2, (size_t)(word.b - i));
        if (!hit) break;
        i = (int32_t)(hit - v->s);
        if (i + 3 > word.b || memcmp(hit, "\xE2\x96\x81", 3) != 0) continue;
        bool in_run = i - from >= 3 && memcmp(hit - 3, "\xE2\x96\x81", 3) == 0;
        if (!in_run) {
            bpe_encode(&t->bpe, s->bpe, v, (Span){from, i}, out);
            from = i;
        }
        i += 2;
    }
    bpe_encode(&t->bpe, s->bpe, v, (Span){from, word.b}, out);
}

static void encode_words(const Tokenizer *t, struct EncodeScratch *s, TextView v, bool no_prefix,
                         int32_t begins, TokenBuf *out)
{
    const Spans *words = pretok_run(&t->pre, &v, &s->pre, no_prefix, begins);
    for (int i = 0; i < words->n; i++)
        encode_word(t, s, &v, words->items[i], out);
}

/* What stands between two added tokens of the raw text. */
static void encode_piece(const Tokenizer *t, struct EncodeScratch *s, TextView v, int flags,
                         TokenBuf *out)
{
    const int32_t begins = view_from(&v, 0);
    const bool at_start = begins == 0;
    bool no_prefix = at_start ? (flags & ENCODE_NO_PREFIX) : t->prefix_once;
    normalizer_run(&t->norm, &v, s->norm, s->regex, no_prefix);
    size_t pos = 0, done = 0;
    AddedMatch m;
    while (added_next(&t->added, &t->added.normalized, &v, s->regex, flags & ENCODE_SPECIALS, &pos,
                      done, &m)) {
        if (done < m.start)
            encode_words(t, s, view_slice(&v, done, m.start), no_prefix && !done,
                         view_from(&v, done), out);
        tokenbuf_push(out, m.id, view_from(&v, m.start));
        done = m.stop;
    }
    if (done < v.n)
        encode_words(t, s, view_slice(&v, done, v.n), no_prefix && !done,
                     done ? view_from(&v, done) : begins, out);
}

void tokenizer_encode(const Tokenizer *t, TokenBuf *out, const char *text, size_t len, int flags)
{
    ASSERT(len <= TOKENIZER_MAX_TEXT, "a text of %zu bytes", len);
    struct EncodeScratch *s = scratch_of(out, t);
    TextView v =
        utf8_valid(text, len) ? (TextView){text, len, NULL, 0} : make_valid(&s->valid, text, len);
    size_t pos = 0, done = 0;
    AddedMatch m;
    while (added_next(&t->added, &t->added.raw, &v, s->regex, flags & ENCODE_SPECIALS, &pos, done,
                      &m)) {
        if (done < m.start) encode_piece(t, s, view_slice(&v, done, m.start), flags, out);
        tokenbuf_push(out, m.id, view_from(&v, m.start));
        done = m.stop;
    }
    if (done < v.n) encode_piece(t, s, view_slice(&v, done, v.n), flags, out);
}
