/* From marked text to tokens with labels. */
#include "data/render.h"

#include <stdlib.h>
#include <string.h>

void rendering_reset(Rendering *r)
{
    strbuf_reset(&r->text);
    r->n_parts = 0;
    r->prompt_counted_alone = false;
    r->starts_with_bos = false;
}

void rendering_clear(Rendering *r)
{
    strbuf_clear(&r->text);
    free(r->parts);
    memset(r, 0, sizeof *r);
}

static RenderPart *part_add(Rendering *r, int32_t token, bool trained)
{
    if (r->n_parts == r->cap_parts) {
        r->cap_parts = r->cap_parts ? 2 * r->cap_parts : 16;
        r->parts = xrealloc(r->parts, (size_t)r->cap_parts * sizeof *r->parts);
    }
    RenderPart *p = &r->parts[r->n_parts++];
    *p = (RenderPart){.start = r->text.len, .end = r->text.len, .token = token, .trained = trained};
    return p;
}

void rendering_text(Rendering *r, const char *s, size_t n, bool trained)
{
    if (n == 0) return;
    RenderPart *last = r->n_parts ? &r->parts[r->n_parts - 1] : NULL;
    if (!last || last->token >= 0 || last->trained != trained) last = part_add(r, -1, trained);
    strbuf_append(&r->text, s, n);
    last->end = r->text.len;
}

void rendering_puts(Rendering *r, const char *s, bool trained)
{
    rendering_text(r, s, strlen(s), trained);
}

void rendering_token(Rendering *r, int32_t token, bool trained)
{
    ASSERT(token >= 0, "token %d", (int)token);
    part_add(r, token, trained);
}

void rendering_break(Rendering *r)
{
    part_add(r, -1, false)->apart = true;
}

RenderRules render_rules(const Tokenizer *t)
{
    /* "a" alone, and "a" behind BOS: the same tokens mean that the prefix comes after a special token too
     * (Prepend normalizer, SentencePiece), others that it stands only at the start of a text. */
    RenderRules rules = {.prefix_after_token = true};
    const char *bos = tokenizer_bos(t) >= 0 ? tokenizer_piece(t, tokenizer_bos(t)) : NULL;
    if (!bos) return rules;
    TokenBuf alone = {0}, behind = {0};
    char *text = str_format("%sa", bos);
    tokenizer_encode(t, &alone, "a", 1, 0);
    tokenizer_encode(t, &behind, text, strlen(text), ENCODE_SPECIALS);
    if (behind.n > 0 && behind.ids[0] == tokenizer_bos(t))
        rules.prefix_after_token =
            behind.n - 1 == alone.n &&
            memcmp(behind.ids + 1, alone.ids, (size_t)alone.n * sizeof *alone.ids) == 0;
    free(text);
    tokenbuf_clear(&alone);
    tokenbuf_clear(&behind);
    return rules;
}

void token_row_push(TokenRow *row, int32_t id, int32_t label)
{
    if (row->n == row->cap) {
        row->cap = row->cap ? 2 * row->cap : 256;
        row->ids = xrealloc(row->ids, (size_t)row->cap * sizeof *row->ids);
        row->labels = xrealloc(row->labels, (size_t)row->cap * sizeof *row->labels);
    }
    row->ids[row->n] = id;
    row->labels[row->n++] = label;
}

void token_row_clear(TokenRow *row)
{
    free(row->ids);
    free(row->labels);
    memset(row, 0, sizeof *row);
}

/* Parts [from, to): text without a token or a break between them, one call of the tokenizer. */
static void encode_run(TokenRow *out, const Rendering *r, int from, int to, int flags,
                       const Tokenizer *t, TokenBuf *scratch)
{
    const RenderPart *parts = r->parts;
    size_t base = parts[from].start;
    const char *text = r->text.data + base;
    int64_t n_prompt = -1; /* tokens of the prompt, where they are counted alone */
    if (r->prompt_counted_alone && !parts[from].trained && parts[to - 1].trained) {
        int first = from;
        while (!parts[first].trained)
            first++;
        scratch->n = 0;
        tokenizer_encode(t, scratch, text, parts[first].start - base, flags);
        n_prompt = scratch->n;
    }
    scratch->n = 0;
    tokenizer_encode(t, scratch, text, parts[to - 1].end - base, flags);
    int p = from;
    for (int64_t i = 0; i < scratch->n; i++) {
        size_t at = base + (size_t)scratch->starts[i];
        while (p < to - 1 && at >= parts[p].end)
            p++;
        bool trained = n_prompt >= 0 ? i >= n_prompt : parts[p].trained;
        token_row_push(out, scratch->ids[i], trained ? scratch->ids[i] : UNTRAINED);
    }
}

void render_encode(TokenRow *out, const Rendering *r, const Tokenizer *t, RenderRules rules,
                   TokenBuf *scratch)
{
    int bos = tokenizer_bos(t);
    bool after_token = r->starts_with_bos;
    if (bos >= 0 && !r->starts_with_bos) token_row_push(out, bos, UNTRAINED);
    for (int i = 0; i < r->n_parts;) {
        const RenderPart *p = &r->parts[i];
        if (p->token >= 0) {
            token_row_push(out, p->token, p->trained ? p->token : UNTRAINED);
            after_token = true;
            i++;
            continue;
        }
        if (p->apart) after_token = false;
        if (p->end == p->start) {
            i++;
            continue;
        }
        int to = i + 1;
        while (to < r->n_parts && r->parts[to].token < 0 && !r->parts[to].apart)
            to++;
        int flags = after_token && !rules.prefix_after_token ? ENCODE_NO_PREFIX : 0;
        encode_run(out, r, i, to, flags, t, scratch);
        after_token = false;
        i = to;
    }
}

void render_print(StrBuf *out, const Rendering *r, const Tokenizer *t)
{
    for (int i = 0; i < r->n_parts; i++) {
        const RenderPart *p = &r->parts[i];
        if (p->token >= 0) {
            const char *piece = tokenizer_piece(t, p->token);
            strbuf_puts(out, piece ? piece : "");
        } else if (p->end > p->start) {
            strbuf_append(out, r->text.data + p->start, p->end - p->start);
        }
    }
}
