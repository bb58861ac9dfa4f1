/* Parses "text {field} text". */
#include "data/prompt.h"

#include <stdlib.h>
#include <string.h>

static PromptPart *part_add(Prompt *p, const char *text, size_t len)
{
    p->parts = xrealloc(p->parts, (size_t)(p->n + 1) * sizeof *p->parts);
    PromptPart *part = &p->parts[p->n++];
    *part = (PromptPart){.text = xstrndup(text, len), .len = len, .token = -1};
    return part;
}

/* Literal text, cut at the special tokens that it names. */
static void add_literal(Prompt *p, StrBuf *lit, const Tokenizer *t)
{
    if (lit->len == 0) return;
    TokenBuf ids = {0};
    tokenizer_encode(t, &ids, lit->data, lit->len, ENCODE_SPECIALS);
    size_t from = 0;
    for (int64_t i = 0; i < ids.n; i++) {
        size_t at = (size_t)ids.starts[i];
        const char *piece =
            tokenizer_is_special(t, ids.ids[i]) ? tokenizer_piece(t, ids.ids[i]) : NULL;
        size_t n = piece ? strlen(piece) : 0;
        if (n == 0 || at < from || at + n > lit->len || memcmp(lit->data + at, piece, n) != 0)
            continue;
        if (at > from) part_add(p, lit->data + from, at - from);
        part_add(p, piece, n)->token = ids.ids[i];
        from = at + n;
    }
    if (from < lit->len) part_add(p, lit->data + from, lit->len - from);
    tokenbuf_clear(&ids);
    strbuf_reset(lit);
}

Status prompt_parse(Prompt *out, const char *text, const Tokenizer *t, Err *err)
{
    Prompt p = {0};
    StrBuf lit = {0};
    Status status = OK;
    for (const char *s = text; *s && status == OK;) {
        if ((*s == '{' || *s == '}') && s[1] == *s) {
            strbuf_putc(&lit, *s);
            s += 2;
        } else if (*s == '}') {
            status = err_set(err, E_INPUT,
                             "prompt: a '}' without a '{' at character %d; write '}}' for a brace",
                             (int)(s - text) + 1);
        } else if (*s == '{') {
            size_t n = strcspn(s + 1, "{}");
            if (s[1 + n] != '}' || n == 0) {
                status = err_set(err, E_INPUT,
                                 "prompt: the '{' at character %d does not begin a {field}; write "
                                 "'{{' for a brace",
                                 (int)(s - text) + 1);
                break;
            }
            add_literal(&p, &lit, t);
            part_add(&p, s + 1, n)->is_field = true;
            s += n + 2;
        } else {
            strbuf_putc(&lit, *s++);
        }
    }
    if (status == OK) add_literal(&p, &lit, t);
    strbuf_clear(&lit);
    if (status != OK) {
        prompt_clear(&p);
        return status;
    }
    p.starts_with_bos = p.n > 0 && p.parts[0].token >= 0 && p.parts[0].token == tokenizer_bos(t);
    *out = p;
    return OK;
}

void prompt_clear(Prompt *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->parts[i].text);
    free(p->parts);
    memset(p, 0, sizeof *p);
}
