/* Each step turns the spans of the one before into finer ones, over the same text or over a new one. */
#include "data/pretok.h"

#include <stdlib.h>
#include <string.h>

PreStep *pretok_add(Pretok *p, PreKind kind)
{
    p->steps = xrealloc(p->steps, (size_t)(p->n + 1) * sizeof *p->steps);
    p->steps[p->n] = (PreStep){.kind = kind};
    return &p->steps[p->n++];
}

void pretok_clear(Pretok *p)
{
    for (int i = 0; i < p->n; i++)
        regex_free(p->steps[i].regex);
    free(p->steps);
    *p = (Pretok){0};
}

void spans_push(Spans *s, size_t a, size_t b)
{
    if (a == b) return;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->items = xrealloc(s->items, (size_t)s->cap * sizeof *s->items);
    }
    s->items[s->n++] = (Span){(int32_t)a, (int32_t)b};
}

void spans_clear(Spans *s)
{
    free(s->items);
    *s = (Spans){0};
}

void pretok_work_clear(PretokWork *w)
{
    for (int i = 0; i < 2; i++) {
        spans_clear(&w->spans[i]);
        mapped_text_clear(&w->bufs[i]);
    }
    free(w->segments);
    *w = (PretokWork){0};
}

static void push_segment(PretokWork *w, size_t *n, size_t a, size_t b, bool match)
{
    if (*n == w->cap_segments) {
        w->cap_segments = w->cap_segments ? 2 * w->cap_segments : 64;
        w->segments = xrealloc(w->segments, w->cap_segments * sizeof *w->segments);
    }
    w->segments[(*n)++] = (struct Segment){{(int32_t)a, (int32_t)b}, match};
}

/* Joins the segments that the behavior joins.  An empty match is a segment too: it takes part and
 * vanishes when the spans are kept. */
static void push_joined(Spans *out, const struct Segment *seg, size_t n, SplitBehavior behavior)
{
    for (size_t i = 0; i < n;) {
        size_t to = i + 1;
        if (behavior == SPLIT_CONTIGUOUS) {
            while (to < n && seg[to].match == seg[i].match)
                to++;
        } else if (behavior == SPLIT_WITH_PREV) {
            if (!seg[i].match && to < n && seg[to].match) to++;
        } else if (behavior == SPLIT_WITH_NEXT) {
            if (seg[i].match && to < n && !seg[to].match) to++;
        }
        spans_push(out, (size_t)seg[i].span.a, (size_t)seg[to - 1].span.b);
        i = to;
    }
}

static void split_span(const Regex *re, SplitBehavior behavior, bool invert, PretokWork *w,
                       const TextView *v, Span span, Spans *out)
{
    const char *s = v->s + span.a;
    size_t n = (size_t)(span.b - span.a), base = (size_t)span.a, done = 0, a, b, n_seg = 0;
    bool simple = behavior == SPLIT_ISOLATED || behavior == SPLIT_REMOVED;
    bool keep_match = behavior == SPLIT_ISOLATED || invert;
    bool keep_gap = behavior == SPLIT_ISOLATED || !invert;
    RegexIter it = {0};
    while (regex_next(&it, re, w->regex, s, n, &a, &b)) {
        if (simple) {
            if (keep_gap) spans_push(out, base + done, base + a);
            if (keep_match) spans_push(out, base + a, base + b);
        } else {
            if (done != a) push_segment(w, &n_seg, base + done, base + a, invert);
            push_segment(w, &n_seg, base + a, base + b, !invert);
        }
        done = b;
    }
    if (simple) {
        if (keep_gap) spans_push(out, base + done, base + n);
    } else {
        if (done != n) push_segment(w, &n_seg, base + done, base + n, invert);
        push_joined(out, w->segments, n_seg, behavior);
    }
}

/* Cuts a Metaspace text before each space character that does not start it. */
static void split_at_space(const char *space, const TextView *v, Span span, Spans *out)
{
    size_t n_space = strlen(space), from = (size_t)span.a, to = (size_t)span.b;
    for (size_t i = from + 1; i < to;) {
        const char *hit = bytes_find(v->s + i, to - i, space, n_space);
        if (!hit) break;
        size_t at = (size_t)(hit - v->s);
        spans_push(out, from, at);
        from = at;
        i = at + 1;
    }
    spans_push(out, from, to);
}

static bool starts_with(const TextView *v, Span span, const char *s, size_t n)
{
    return (size_t)(span.b - span.a) >= n && memcmp(v->s + span.a, s, n) == 0;
}

/* A new text with " " replaced (METASPACE) and the space put in front where the scheme says so; the
 * spans move along. */
static void respace(const PreStep *st, TextView *v, Spans *spans, MappedText *out, bool no_prefix,
                    int32_t begins)
{
    bool meta = st->kind == PRE_METASPACE;
    const char *space = meta ? st->space : " ";
    size_t n_space = strlen(space);
    mapped_text_reset(out);
    for (int i = 0; i < spans->n; i++) {
        Span *p = &spans->items[i];
        int32_t from = view_from(v, (size_t)p->a), start = (int32_t)out->s.len;
        bool prefixed = v->s[p->a] == ' ' || starts_with(v, *p, space, n_space);
        bool whole = p->a == 0 && (size_t)p->b == v->n;
        bool wanted = st->scheme == PREPEND_ALWAYS ||
                      (st->scheme == PREPEND_FIRST && (whole ? begins : from) == 0);
        if (wanted && !prefixed && !(no_prefix && i == 0))
            mapped_text_append(out, space, n_space, from);
        for (size_t at = (size_t)p->a; at < (size_t)p->b;) {
            size_t left = (size_t)p->b - at;
            const char *hit = meta ? memchr(v->s + at, ' ', left) : NULL;
            size_t to = hit ? (size_t)(hit - v->s) : at + left;
            mapped_text_copy(out, v, at, to);
            if (hit) mapped_text_append(out, space, n_space, view_from(v, to));
            at = hit ? to + 1 : to;
        }
        *p = (Span){start, (int32_t)out->s.len};
    }
    *v = mapped_text_view(out);
}

const Spans *pretok_run(const Pretok *p, TextView *v, PretokWork *w, bool no_prefix, int32_t begins)
{
    int now = 0, buf = 0;
    w->spans[0].n = 0;
    spans_push(&w->spans[0], 0, v->n);
    for (int i = 0; i < p->n; i++) {
        const PreStep *st = &p->steps[i];
        Spans *in = &w->spans[now], *out = &w->spans[!now];
        bool respaces = st->kind == PRE_METASPACE ||
                        (st->kind == PRE_BYTE_LEVEL && st->scheme != PREPEND_NEVER);
        if (respaces) {
            respace(st, v, in, &w->bufs[buf], no_prefix, begins);
            buf = !buf;
        }
        if (!st->regex && !st->split) continue;
        out->n = 0;
        for (int k = 0; k < in->n; k++) {
            if (st->split)
                split_at_space(st->space, v, in->items[k], out);
            else
                split_span(st->regex, st->behavior, st->invert, w, v, in->items[k], out);
        }
        now = !now;
    }
    return &w->spans[now];
}
