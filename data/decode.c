/* Tokens to text.  Everything is written as a stream, and decoding a whole sequence is a stream that ends:
 * so the two cannot differ. */
#include "data/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

static const char FFFD[] = "\xEF\xBF\xBD";
static const char META[] = "\xE2\x96\x81";

DecodeStep *decoder_add(Decoder *d, DecodeStepKind kind)
{
    d->steps = xrealloc(d->steps, (size_t)(d->n + 1) * sizeof *d->steps);
    d->steps[d->n] = (DecodeStep){.kind = kind};
    return &d->steps[d->n++];
}

void decoder_clear(Decoder *d)
{
    for (int i = 0; i < d->n; i++) {
        free(d->steps[i].from);
        free(d->steps[i].to);
    }
    free(d->steps);
    free(d->bytes);
    *d = (Decoder){0};
}

/* Puts out what of `held` is settled, as from_utf8_lossy of the whole would. */
static void settle_bytes(StrBuf *held, StrBuf *out, bool end)
{
    if (!held->len) return;
    size_t keep = end ? 0 : utf8_cut_tail(held->data, held->len);
    utf8_append_lossy(out, held->data, held->len - keep);
    memmove(held->data, held->data + held->len - keep, keep);
    held->len = keep;
}

/* ---- steps of tokenizer.json ---- */

typedef struct Run {
    const Decoder *d;
    DecodeStream *s;
    StrBuf *out;
} Run;

static void step(Run *r, int k, const char *text, size_t n);

/* The run of byte tokens is over. */
static void flush_run(Run *r)
{
    StrBuf held = r->s->held;
    if (!held.len) return;
    r->s->held = (StrBuf){0};
    int next = r->d->byte_step + 1;
    if (utf8_valid(held.data, held.len))
        step(r, next, held.data, held.len);
    else
        for (size_t i = 0; i < held.len; i++)
            step(r, next, FFFD, 3);
    strbuf_reset(&held);
    r->s->held = held;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static void replace_step(Run *r, int k, const char *text, size_t n)
{
    const DecodeStep *st = &r->d->steps[k];
    bool drop = st->kind == DEC_METASPACE && st->n && r->s->n_done == 0;
    StrBuf b = {0};
    const char *hit;
    while ((hit = bytes_find(text, n, st->from, st->n_from))) {
        strbuf_append(&b, text, (size_t)(hit - text));
        if (!drop) strbuf_append(&b, st->to, st->n_to);
        n -= (size_t)(hit - text) + st->n_from;
        text = hit + st->n_from;
    }
    if (b.len || drop) {
        strbuf_append(&b, text, n);
        step(r, k + 1, b.data ? b.data : "", b.len);
    } else {
        step(r, k + 1, text, n);
    }
    strbuf_clear(&b);
}

static void strip_step(Run *r, int k, const char *text, size_t n)
{
    const DecodeStep *st = &r->d->steps[k];
    int64_t own = 0, *n_stripped = st->fused ? &r->s->n_stripped : &own;
    bool open = !st->fused || !r->s->begun;
    while (open && *n_stripped < st->n && n >= st->n_from &&
           memcmp(text, st->from, st->n_from) == 0) {
        text += st->n_from;
        n -= st->n_from;
        ++*n_stripped;
    }
    if (st->fused && n) r->s->begun = true;
    step(r, k + 1, text, n);
}

static void step(Run *r, int k, const char *text, size_t n)
{
    if (k == r->d->n) {
        strbuf_append(r->out, text, n);
        return;
    }
    switch (r->d->steps[k].kind) {
    case DEC_REPLACE:
    case DEC_METASPACE:
        replace_step(r, k, text, n);
        break;
    case DEC_STRIP:
        strip_step(r, k, text, n);
        break;
    case DEC_FUSE:
        step(r, k + 1, text, n);
        break;
    case DEC_BYTE_FALLBACK: {
        int byte = byte_token(text, n);
        if (byte >= 0) {
            strbuf_putc(&r->s->held, (char)byte);
        } else {
            flush_run(r);
            step(r, k + 1, text, n);
        }
        break;
    }
    }
}

/* ---- SentencePiece ---- */

/* Its rule for bytes: a character where there is one, U+FFFD for each byte that starts none. */
static void settle_spm(DecodeStream *s, StrBuf *out, bool end)
{
    StrBuf *h = &s->held;
    size_t at = 0;
    while (at < h->len) {
        uint32_t cp;
        int n = utf8_decode(h->data + at, h->len - at, &cp);
        if (!n && !end && utf8_cut_tail(h->data + at, h->len - at) == h->len - at) break;
        if (n)
            strbuf_append(out, h->data + at, (size_t)n);
        else
            strbuf_puts(out, FFFD);
        at += n ? (size_t)n : 1;
        s->begun = true;
    }
    if (!at) return;
    memmove(h->data, h->data + at, h->len - at);
    h->len -= at;
}

static void push_spm(const Decoder *d, DecodeStream *s, StrBuf *out, int id, const char *piece,
                     size_t n, bool special)
{
    if (id < d->n_bytes && d->bytes[id] >= 0) {
        strbuf_putc(&s->held, (char)d->bytes[id]);
        settle_spm(s, out, false);
        return;
    }
    settle_spm(s, out, true);
    bool strips = d->dummy_prefix || d->remove_extra;
    if (!special && !s->begun && strips && n >= 3 && memcmp(piece, META, 3) == 0) {
        piece += 3;
        n -= 3;
        s->begun = !d->remove_extra; /* where it is set, all leading white space goes */
    }
    if (n) s->begun = true;
    for (const char *hit; (hit = bytes_find(piece, n, META, 3)); piece = hit + 3) {
        strbuf_append(out, piece, (size_t)(hit - piece));
        strbuf_putc(out, ' ');
        n -= (size_t)(hit - piece) + 3;
    }
    strbuf_append(out, piece, n);
}

/* ---- all of them ---- */

static void append_byte_level(StrBuf *held, const char *piece, size_t n)
{
    size_t from = held->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int len = utf8_decode(piece + i, n - i, &cp);
        int byte = len ? alphabet_to_byte(cp) : -1;
        if (byte < 0) { /* not of the alphabet: the token stands for its own text */
            held->len = from;
            strbuf_append(held, piece, n);
            return;
        }
        strbuf_putc(held, (char)byte);
        i += (size_t)len;
    }
}

void decode_stream_push(DecodeStream *s, const Tokenizer *t, StrBuf *out, int32_t id,
                        bool skip_special)
{
    size_t n;
    const char *piece = vocab_piece(&t->vocab, id, &n);
    bool special = added_is_special(&t->added, id);
    if (!piece || (skip_special && special)) return;
    Run r = {&t->dec, s, out};
    switch (t->dec.kind) {
    case DECODE_STEPS:
        step(&r, 0, piece, n);
        break;
    case DECODE_BYTE_LEVEL:
        append_byte_level(&s->held, piece, n);
        settle_bytes(&s->held, out, false);
        break;
    case DECODE_SPM:
        push_spm(&t->dec, s, out, id, piece, n, special);
        break;
    case DECODE_SPACED:
        if (s->n_done) strbuf_putc(out, ' ');
        strbuf_append(out, piece, n);
        break;
    }
    s->n_done++;
}

void decode_stream_end(DecodeStream *s, const Tokenizer *t, StrBuf *out)
{
    Run r = {&t->dec, s, out};
    switch (t->dec.kind) {
    case DECODE_STEPS:
        flush_run(&r);
        break;
    case DECODE_BYTE_LEVEL:
        settle_bytes(&s->held, out, true);
        break;
    case DECODE_SPM:
        settle_spm(s, out, true);
        break;
    case DECODE_SPACED:
        break;
    }
    strbuf_clear(&s->held);
    *s = (DecodeStream){0};
}

void tokenizer_decode(const Tokenizer *t, StrBuf *out, const int32_t *ids, int64_t n,
                      bool skip_special)
{
    DecodeStream s = {0};
    for (int64_t i = 0; i < n; i++)
        decode_stream_push(&s, t, out, ids[i], skip_special);
    decode_stream_end(&s, t, out);
}
