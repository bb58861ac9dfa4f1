/* The chat templates.  Each function below is one Jinja template, statement by statement. */
#include "data/chat_template.h"

#include <stdlib.h>
#include <string.h>

/* Llama 3.1's template fixes the date where none is passed in, so that a text depends on no clock. */
static const char LLAMA31_SYSTEM[] =
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

const char *chat_template_name(ChatTemplate kind)
{
    switch (kind) {
    case TEMPLATE_DEFAULT:
        return "default";
    case TEMPLATE_LLAMA2:
        return "llama2";
    case TEMPLATE_LLAMA3:
        return "llama3";
    case TEMPLATE_CHATML:
        return "chatml";
    case TEMPLATE_PROMPT:
        return "prompt";
    case TEMPLATE_RAW:
        return "raw";
    case TEMPLATE_LLAMA31:
        return "llama3.1";
    }
    return NULL;
}

/* The text without white space and line ends, written or not, with one kind of quotes and of members: message["role"] is
 * message.role. */
static char *plain_jinja(const char *jinja)
{
    StrBuf b = {0};
    for (const char *p = jinja; *p; p++) {
        const char *end = p[0] == '[' && (p[1] == '\'' || p[1] == '"') ? strchr(p + 2, p[1]) : NULL;
        if (end && end[1] == ']') {
            strbuf_printf(&b, ".%.*s", (int)(end - p - 2), p + 2);
            p = end + 1;
        } else if (p[0] == '\\' && p[1] == 'n') {
            p++;
        } else if (!strchr(" \t\r\n", *p)) {
            strbuf_putc(&b, *p == '"' ? '\'' : *p);
        }
    }
    return strbuf_take(&b);
}

/* Whether each turn is <|im_start|>{role}\n{content}<|im_end|>, the content as it is, and nothing else is written into an
 * assistant's (Qwen 3's template puts an empty <think> there). */
static bool is_chatml(const char *jinja)
{
    char *plain = plain_jinja(jinja);
    bool turns = strstr(plain, "'<|im_start|>'+message.role+''+message.content+'<|im_end|>") ||
                 strstr(plain, "'<|im_start|>'+message.role+''+content+'<|im_end|>");
    free(plain);
    return turns && !strstr(jinja, "<think>") && !strstr(jinja, "trim");
}

ChatTemplate chat_template_guess(const Tokenizer *t)
{
    const char *jinja = tokenizer_chat_template(t);
    if (!jinja) return TEMPLATE_DEFAULT;
    if (strstr(jinja, "<|im_start|>")) return is_chatml(jinja) ? TEMPLATE_CHATML : TEMPLATE_DEFAULT;
    if (strstr(jinja, "<|start_header_id|>"))
        return strstr(jinja, "Cutting Knowledge Date") ? TEMPLATE_LLAMA31 : TEMPLATE_LLAMA3;
    return strstr(jinja, "[INST]") && strstr(jinja, "<<SYS>>") ? TEMPLATE_LLAMA2 : TEMPLATE_DEFAULT;
}

static Status marker(int *id, const Chat *c, const Tokenizer *t, const char *content, Err *err)
{
    *id = tokenizer_id(t, content);
    if (*id >= 0) return OK;
    return err_set(
        err, E_INPUT,
        "the template '%s' needs the token %s, which this model's tokenizer does not have",
        chat_template_name(c->kind), content);
}

/* The system message that a ChatML template writes where no message says one ("You are a helpful assistant."): a turn that
 * is a literal, or text outside of braces; "" where there is none.  False: it has no room. */
static bool find_system(char *out, size_t room, const char *jinja)
{
    static const char begin[] = "<|im_start|>system", end[] = "<|im_end|>";
    out[0] = '\0';
    for (const char *p = jinja; (p = strstr(p, begin)) != NULL;) {
        char quote = p > jinja ? p[-1] : ' ';
        p += strlen(begin);
        p += p[0] == '\\' && p[1] == 'n' ? 2 : p[0] == '\n' ? 1 : 0;
        const char *to = strstr(p, end);
        size_t n = to ? (size_t)(to - p) : 0, k = 0;
        if (n == 0 || memchr(p, quote == '\'' || quote == '"' ? quote : '{', n)) continue;
        if (n >= room) return false;
        for (size_t i = 0; i < n; i++) {
            bool line = p[i] == '\\' && i + 1 < n && p[i + 1] == 'n';
            out[k++] = line ? '\n' : p[i];
            i += line;
        }
        out[k] = '\0';
        break;
    }
    return true;
}

Status chat_open(Chat *out, ChatTemplate kind, const Tokenizer *t, Err *err)
{
    Chat c = {.kind = kind, .bos = tokenizer_bos(t), .eos = tokenizer_eos(t)};
    c.header = c.end_header = c.turn = -1;
    const char *jinja = tokenizer_chat_template(t);
    switch (kind) {
    case TEMPLATE_LLAMA2:
        if (c.bos < 0 || c.eos < 0)
            return err_set(
                err, E_INPUT,
                "the template 'llama2' needs BOS and EOS, and this model's tokenizer does "
                "not have both");
        break;
    case TEMPLATE_LLAMA3:
    case TEMPLATE_LLAMA31:
        if (c.bos < 0)
            return err_set(
                err, E_INPUT,
                "the template '%s' needs BOS, which this model's tokenizer does not have",
                chat_template_name(kind));
        TRY(marker(&c.header, &c, t, "<|start_header_id|>", err));
        TRY(marker(&c.end_header, &c, t, "<|end_header_id|>", err));
        TRY(marker(&c.turn, &c, t, "<|eot_id|>", err));
        break;
    case TEMPLATE_CHATML:
        TRY(marker(&c.header, &c, t, "<|im_start|>", err));
        TRY(marker(&c.turn, &c, t, "<|im_end|>", err));
        if (jinja && !find_system(c.default_system, sizeof c.default_system, jinja))
            return err_set(err, E_INPUT,
                           "the default system message of the model's own template has more than "
                           "%zu bytes",
                           sizeof c.default_system - 1);
        /* the model's own template says whether BOS stands in front */
        c.no_bos = c.bos == c.header || (jinja && is_chatml(jinja) && !strstr(jinja, "bos_token"));
        break;
    default:
        return err_set(err, E_INPUT,
                       "'%s' is no chat template: choose llama2, llama3, llama3.1 or chatml",
                       chat_template_name(kind) ? chat_template_name(kind) : "?");
    }
    *out = c;
    return OK;
}

/* What Python's str.strip() removes. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static void strip(const char **s, size_t *n)
{
    uint32_t c;
    int k;
    while (*n > 0 && (k = utf8_decode(*s, *n, &c)) > 0 && is_space(c))
        *s += k, *n -= (size_t)k;
    while (*n > 0) {
        size_t back = 1; /* to the first byte of the last character */
        while (back < *n && back < 4 && ((*s)[*n - back] & 0xC0) == 0x80)
            back++;
        k = utf8_decode(*s + *n - back, back, &c);
        if (k != (int)back || !is_space(c)) break;
        *n -= back;
    }
}

/* <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {assistant} </s><s>[INST] ... */
static Status render_llama2(const Chat *c, Rendering *r, const ChatMessage *m, int n, bool all,
                            Err *err)
{
    int first = n > 0 && str_eq(m[0].role, "system");
    StrBuf turn = {0};
    Status status = OK;
    for (int i = first; i < n && status == OK; i++) {
        bool user = (i - first) % 2 == 0;
        if (!str_eq(m[i].role, user ? "user" : "assistant")) {
            status = err_set(err, E_INPUT,
                             "turn %d: the role is %s, and llama2's template wants %s here: "
                             "user and assistant in turns, a system message only in front",
                             i + 1, m[i].role, user ? "user" : "assistant");
            break;
        }
        const char *text = m[i].text;
        size_t len = m[i].len;
        if (user && i == first && first) {
            strbuf_puts(&turn, "<<SYS>>\n");
            strbuf_append(&turn, m[0].text, m[0].len);
            strbuf_puts(&turn, "\n<</SYS>>\n\n");
            strbuf_append(&turn, text, len);
            text = turn.data, len = turn.len;
        }
        strip(&text, &len);
        if (user) {
            rendering_token(r, c->bos, false);
            rendering_puts(r, "[INST] ", all);
            rendering_text(r, text, len, all);
            rendering_puts(r, " [/INST]", all);
        } else {
            bool trained = all || m[i].trained;
            rendering_puts(r, " ", trained);
            rendering_text(r, text, len, trained);
            rendering_puts(r, " ", trained);
            rendering_token(r, c->eos, trained);
        }
    }
    if (status == OK && n == first) status = err_set(err, E_INPUT, "nothing but a system message");
    strbuf_clear(&turn);
    return status;
}

static void header(const Chat *c, Rendering *r, const char *role, bool trained)
{
    rendering_token(r, c->header, trained);
    rendering_puts(r, role, trained);
    if (c->end_header >= 0) rendering_token(r, c->end_header, trained);
    rendering_puts(r, c->end_header >= 0 ? "\n\n" : "\n", trained);
}

/* <|start_header_id|>{role}<|end_header_id|>\n\n{stripped content}<|eot_id|>, nothing between.  3.1 has a
 * system block always, with the dates in front of what the system message says. */
static void render_llama3(const Chat *c, Rendering *r, const ChatMessage *m, int n, bool all)
{
    rendering_token(r, c->bos, false);
    int i = 0;
    if (c->kind == TEMPLATE_LLAMA31) {
        header(c, r, "system", all);
        rendering_puts(r, LLAMA31_SYSTEM, all);
        if (n > 0 && str_eq(m[0].role, "system")) {
            const char *text = m[0].text;
            size_t len = m[0].len;
            strip(&text, &len);
            rendering_text(r, text, len, all);
            i = 1;
        }
        rendering_token(r, c->turn, all);
    }
    for (; i < n; i++) {
        const char *text = m[i].text;
        size_t len = m[i].len;
        strip(&text, &len);
        bool trained = all || m[i].trained;
        header(c, r, m[i].role, all);
        rendering_text(r, text, len, trained);
        rendering_token(r, c->turn, trained);
    }
}

/* <|im_start|>{role}\n{content}<|im_end|>\n.  The line end behind the turn is part of the trained stretch,
 * as in TRL's training templates for Qwen. */
static void render_chatml(const Chat *c, Rendering *r, const ChatMessage *m, int n, bool all)
{
    if (c->default_system[0] && !(n > 0 && str_eq(m[0].role, "system"))) {
        header(c, r, "system", all);
        rendering_puts(r, c->default_system, all);
        rendering_token(r, c->turn, all);
        rendering_puts(r, "\n", all);
    }
    for (int i = 0; i < n; i++) {
        bool trained = all || m[i].trained;
        header(c, r, m[i].role, all);
        rendering_text(r, m[i].text, m[i].len, trained);
        rendering_token(r, c->turn, trained);
        rendering_puts(r, "\n", trained);
    }
}

Status chat_render(const Chat *c, Rendering *r, const ChatMessage *m, int n, bool train_all,
                   bool generation_prompt, Err *err)
{
    if (n == 0) return err_set(err, E_INPUT, "no messages");
    r->starts_with_bos = c->kind != TEMPLATE_CHATML || c->no_bos;
    switch (c->kind) {
    case TEMPLATE_LLAMA2: /* its prompt ends with [/INST]: there is no header to add */
        return render_llama2(c, r, m, n, train_all, err);
    case TEMPLATE_LLAMA3:
    case TEMPLATE_LLAMA31:
        render_llama3(c, r, m, n, train_all);
        break;
    default:
        render_chatml(c, r, m, n, train_all);
        break;
    }
    if (generation_prompt) header(c, r, "assistant", false);
    return OK;
}

Status chat_prompt(const Chat *c, const Tokenizer *t, const ChatMessage *m, int n, TokenBuf *ids,
                   Err *err)
{
    Rendering r = {0};
    TokenRow row = {0};
    TokenBuf scratch = {0};
    Status s = chat_render(c, &r, m, n, false, true, err);
    if (s == OK) {
        render_encode(&row, &r, t, render_rules(t), &scratch);
        for (int64_t i = 0; i < row.n; i++)
            tokenbuf_push(ids, row.ids[i], 0);
    }
    rendering_clear(&r);
    token_row_clear(&row);
    tokenbuf_clear(&scratch);
    return s;
}
