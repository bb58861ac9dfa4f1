/* The steps of a normalizer, each from one buffer into the other. */
#include "data/normalize.h"

#include <stdlib.h>
#include <string.h>

static const char META[] = "\xE2\x96\x81"; /* ▁, SentencePiece's visible space */
enum { N_META = 3 };

NormStep *normalizer_add(Normalizer *z, NormKind kind)
{
    z->steps = xrealloc(z->steps, (size_t)(z->n + 1) * sizeof *z->steps);
    z->steps[z->n] = (NormStep){.kind = kind};
    return &z->steps[z->n++];
}

void normalizer_clear(Normalizer *z)
{
    for (int i = 0; i < z->n; i++) {
        regex_free(z->steps[i].regex);
        free(z->steps[i].from);
        free(z->steps[i].to);
    }
    free(z->steps);
    *z = (Normalizer){0};
}

static bool prepend(const NormStep *st, MappedText *out, const TextView *v)
{
    mapped_text_append(out, st->to, st->n_to, view_from(v, 0));
    mapped_text_copy(out, v, 0, v->n);
    return true;
}

static bool replace_literal(const NormStep *st, MappedText *out, const TextView *v)
{
    size_t done = 0;
    const char *hit;
    while ((hit = bytes_find(v->s + done, v->n - done, st->from, st->n_from))) {
        size_t at = (size_t)(hit - v->s);
        mapped_text_copy(out, v, done, at);
        mapped_text_append(out, st->to, st->n_to, view_from(v, at));
        done = at + st->n_from;
    }
    if (!done) return false;
    mapped_text_copy(out, v, done, v->n);
    return true;
}

static bool replace_regex(const NormStep *st, MappedText *out, const TextView *v,
                          RegexScratch *scratch)
{
    RegexIter it = {0};
    size_t done = 0, a, b;
    bool any = false;
    while (regex_next(&it, st->regex, scratch, v->s, v->n, &a, &b)) {
        mapped_text_copy(out, v, done, a);
        mapped_text_append(out, st->to, st->n_to, view_from(v, a));
        done = b;
        any = true;
    }
    if (any) mapped_text_copy(out, v, done, v->n);
    return any;
}

/* SentencePiece's normalizer with the identity as its character map. */
static bool spm(const NormStep *st, MappedText *out, const TextView *v, bool no_prefix)
{
    size_t i = 0, n = v->n;
    while (st->remove_extra && i < n && v->s[i] == ' ')
        i++;
    if (i == n) return true; /* all was white space: no prefix either */
    const char *space = st->escape ? META : " ";
    size_t n_space = st->escape ? N_META : 1;
    if (st->dummy_prefix && !no_prefix) mapped_text_append(out, space, n_space, view_from(v, i));
    while (i < n) {
        if (v->s[i] == ' ') {
            mapped_text_append(out, space, n_space, view_from(v, i++));
            while (st->remove_extra && i < n && v->s[i] == ' ')
                i++;
        } else {
            const char *next = memchr(v->s + i, ' ', n - i);
            size_t to = next ? (size_t)(next - v->s) : n;
            mapped_text_copy(out, v, i, to);
            i = to;
        }
    }
    /* A "▁" that was written in the text goes the same way. */
    while (st->remove_extra && out->s.len >= n_space &&
           memcmp(out->s.data + out->s.len - n_space, space, n_space) == 0)
        out->s.len -= n_space;
    return true;
}

void normalizer_run(const Normalizer *z, TextView *v, MappedText bufs[2], RegexScratch *scratch,
                    bool no_prefix)
{
    int into = 0;
    for (int i = 0; i < z->n && v->n > 0; i++) {
        const NormStep *st = &z->steps[i];
        MappedText *out = &bufs[into];
        mapped_text_reset(out);
        bool changed = false;
        switch (st->kind) {
        case NORM_PREPEND:
            changed = !no_prefix && prepend(st, out, v);
            break;
        case NORM_REPLACE:
            changed = st->regex ? replace_regex(st, out, v, scratch) : replace_literal(st, out, v);
            break;
        case NORM_NFC:
            changed = nfc_append(out, v);
            break;
        case NORM_SPM:
            changed = spm(st, out, v, no_prefix);
            break;
        }
        if (!changed) continue;
        *v = mapped_text_view(out);
        into = !into;
    }
}
