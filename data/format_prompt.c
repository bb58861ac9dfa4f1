/* Prompts in the words of the projects that they come from; custom prompts; pairs as chats. */
#include "data/formats_impl.h"

#include <string.h>

/* Stanford Alpaca's two prompts; the answer follows the last colon with nothing between. */
static const char ALPACA_WITH_INPUT[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n";
static const char ALPACA_WITHOUT_INPUT[] =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n";

/* What a {field} puts in: a string as it is, a number or bool as JSON writes it. */
static Status put_field(const Json *row, const char *name, Rendering *r, bool trained, Err *err)
{
    const Json *j = json_get(row, name);
    const char *s;
    size_t n;
    if (!j) return format_missing(row, name, name, err);
    if (json_str(j, &s, &n)) {
        rendering_text(r, s, n, trained);
        return OK;
    }
    JsonKind kind = json_kind(j);
    if (kind != JK_INT && kind != JK_REAL && kind != JK_BOOL)
        return err_set(err, E_INPUT, "%s: the prompt puts it in, so it must be a string, found %s",
                       name, json_kind_name(j));
    StrBuf b = {0};
    json_write(&b, j, 0);
    rendering_text(r, b.data, b.len, trained);
    strbuf_clear(&b);
    return OK;
}

static Status put_custom(const RowFormat *f, const Json *row, Rendering *r, bool trained, Err *err)
{
    r->starts_with_bos = f->prompt.starts_with_bos;
    for (int i = 0; i < f->prompt.n; i++) {
        const PromptPart *p = &f->prompt.parts[i];
        if (p->token >= 0)
            rendering_token(r, p->token, trained && p->token != f->bos);
        else if (p->is_field)
            TRY(put_field(row, format_mapped(f->src, p->text), r, trained, err));
        else
            rendering_text(r, p->text, p->len, trained);
    }
    return OK;
}

static Status put_alpaca(const RowFormat *f, const Json *row, Rendering *r, bool plain,
                         bool trained, Err *err)
{
    const char *ins, *in;
    size_t n_ins, n_in;
    TRY(format_field(f, row, ALPACA_INSTRUCTION, true, &ins, &n_ins, err));
    TRY(format_field(f, row, ALPACA_INPUT, false, &in, &n_in, err));
    if (plain) { /* as a user would write it into a chat, or raw */
        rendering_text(r, ins, n_ins, trained);
        if (n_in > 0 && f->as_chat) rendering_puts(r, "\n\n", trained);
        if (n_in > 0) rendering_text(r, in, n_in, trained);
        return OK;
    }
    rendering_puts(r, n_in > 0 ? ALPACA_WITH_INPUT : ALPACA_WITHOUT_INPUT, trained);
    rendering_text(r, ins, n_ins, trained);
    if (n_in > 0) {
        rendering_puts(r, "\n\n### Input:\n", trained);
        rendering_text(r, in, n_in, trained);
    }
    rendering_puts(r, "\n\n### Response:", trained);
    return OK;
}

/* llama-recipes writes BOS itself and tokenises prompt and answer apart. */
static Status put_samsum(const RowFormat *f, const Json *row, Rendering *r, bool trained, Err *err)
{
    const char *s;
    size_t n;
    TRY(format_field(f, row, SAMSUM_DIALOGUE, true, &s, &n, err));
    bool raw = f->src->chat == TEMPLATE_RAW;
    if (!f->as_chat && !raw && f->bos >= 0) {
        rendering_token(r, f->bos, false);
        r->starts_with_bos = true;
    }
    if (!raw) rendering_puts(r, "Summarize this dialog:\n", trained);
    rendering_text(r, s, n, trained);
    if (!raw) rendering_puts(r, "\n---\nSummary:\n", trained);
    if (!raw) rendering_break(r);
    return OK;
}

/* All that stands before the answer, in the source's own template. */
Status format_put_prompt(const RowFormat *f, const Json *row, Rendering *r, bool trained, Err *err)
{
    const char *s;
    size_t n;
    r->prompt_counted_alone = true;
    if (f->src->chat == TEMPLATE_PROMPT) return put_custom(f, row, r, trained, err);
    switch (f->src->format) {
    case DATA_ALPACA:
        return put_alpaca(f, row, r, f->as_chat || f->src->chat == TEMPLATE_RAW, trained, err);
    case DATA_SAMSUM:
        return put_samsum(f, row, r, trained, err);
    case DATA_COMPLETION:
        TRY(format_field(f, row, COMPLETION_PROMPT, true, &s, &n, err));
        rendering_text(r, s, n, trained);
        return OK;
    default:
        return OK; /* text has no prompt */
    }
}

/* The pair as a chat of two turns: s->messages, with the user's text in s->text. */
Status format_pair_as_chat(const RowFormat *f, const Json *row, bool answer_required,
                           FormatScratch *s, Err *err)
{
    TRY(format_put_prompt(f, row, &s->r, false, err));
    strbuf_reset(&s->text);
    strbuf_append(&s->text, s->r.text.data ? s->r.text.data : "", s->r.text.len);
    rendering_reset(&s->r);
    s->n_messages = 0;
    if (f->src->system)
        format_add_message(s,
                           (ChatMessage){"system", f->src->system, strlen(f->src->system), false});
    format_add_message(s, (ChatMessage){"user", s->text.data, s->text.len, false});
    ChatMessage answer = {"assistant", NULL, 0, true};
    TRY(format_field(f, row, f->answer, answer_required, &answer.text, &answer.len, err));
    if (answer.text) format_add_message(s, answer);
    return OK;
}
