/* The formats with a prompt and an answer, plain text and ready tokens.  Conversations: format_chat.c. */
#include "data/formats.h"

#include <stdlib.h>
#include <string.h>

/* A format's fields in the order of RowFormat.names. */
enum { ALPACA_INSTRUCTION, ALPACA_INPUT, ALPACA_OUTPUT };
enum { SAMSUM_DIALOGUE, SAMSUM_SUMMARY };
enum { COMPLETION_PROMPT, COMPLETION_ANSWER };
enum { TOKENS_IDS, TOKENS_LABELS };

static const struct {
    const char *name;
    const char *fields[FORMAT_MAX_FIELDS];
    int answer; /* the field that is the answer, or -1 */
} FORMATS[] = {
    [DATA_ALPACA] = {"alpaca", {"instruction", "input", "output"}, ALPACA_OUTPUT},
    [DATA_SAMSUM] = {"samsum", {"dialogue", "summary"}, SAMSUM_SUMMARY},
    [DATA_MESSAGES] = {"messages", {"messages", "role", "content"}, -1},
    [DATA_SHAREGPT] = {"sharegpt", {"conversations", "from", "value"}, -1},
    [DATA_COMPLETION] = {"completion", {"prompt", "completion"}, COMPLETION_ANSWER},
    [DATA_TEXT] = {"text", {"text"}, 0},
    [DATA_TOKENS] = {"tokens", {"input_ids", "labels"}, -1},
};
enum { N_FORMATS = sizeof FORMATS / sizeof *FORMATS };

/* Stanford Alpaca's two prompts; the answer follows the last colon with nothing between. */
static const char ALPACA_WITH_INPUT[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n";
static const char ALPACA_WITHOUT_INPUT[] =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n";

const char *format_name(DataFormat format)
{
    return (unsigned)format < N_FORMATS ? FORMATS[format].name : NULL;
}

/* --- opening ------------------------------------------------------------------------------- */

static const char *mapped(const DataSource *src, const char *name)
{
    for (int i = 0; i < src->n_fields; i++)
        if (str_eq(src->fields[i].from, name)) return src->fields[i].to;
    return name;
}

static Status check_map(const RowFormat *f, Err *err)
{
    const DataSource *src = f->src;
    const char *known[FORMAT_MAX_FIELDS + 64];
    int n = 0;
    for (int i = 0; i < FORMAT_MAX_FIELDS && FORMATS[src->format].fields[i]; i++)
        known[n++] = FORMATS[src->format].fields[i];
    for (int i = 0; i < f->prompt.n && n < (int)(sizeof known / sizeof *known); i++)
        if (f->prompt.parts[i].is_field) known[n++] = f->prompt.parts[i].text;
    for (int i = 0; i < src->n_fields; i++) {
        const char *from = src->fields[i].from;
        bool found = false;
        for (int k = 0; k < n && !found; k++)
            found = str_eq(known[k], from);
        for (int k = 0; k < i; k++)
            if (str_eq(src->fields[k].from, from))
                return err_set(err, E_INPUT, "fields: '%s' is mapped twice", from);
        if (found) continue;
        const char *near = str_nearest(from, known, n);
        return err_set(err, E_INPUT,
                       "fields: the format '%s' has no field '%s'%s%s%s (write the format's name "
                       "first, then the file's)",
                       FORMATS[src->format].name, from, near ? "; did you mean '" : "",
                       near ? near : "", near ? "'?" : "");
    }
    return OK;
}

static bool is_conversation(DataFormat format)
{
    return format == DATA_MESSAGES || format == DATA_SHAREGPT;
}

static Status check_template(const RowFormat *f, Err *err)
{
    const DataSource *src = f->src;
    const char *format = FORMATS[src->format].name;
    if (is_conversation(src->format) && src->chat == TEMPLATE_DEFAULT) {
        ChatTemplate guess = chat_template_guess(f->t);
        return err_set(err, E_INPUT,
                       "template: the format '%s' needs one: llama2, llama3, llama3.1, chatml or "
                       "raw%s%s",
                       format, guess == TEMPLATE_DEFAULT ? "" : "; the model's own looks like ",
                       guess == TEMPLATE_DEFAULT ? "" : chat_template_name(guess));
    }
    bool fixed = src->format == DATA_TOKENS || (src->format == DATA_TEXT && f->as_chat);
    if (fixed && src->chat != TEMPLATE_DEFAULT && src->chat != TEMPLATE_RAW)
        return err_set(err, E_INPUT, "template: the format '%s' is taken as it is and has none",
                       format);
    if (is_conversation(src->format) && src->chat == TEMPLATE_PROMPT)
        return err_set(err, E_INPUT,
                       "template: a prompt with {field}s cannot write the format '%s'; choose a "
                       "chat template or raw",
                       format);
    if ((src->chat == TEMPLATE_PROMPT) != (src->prompt != NULL))
        return err_set(err, E_INPUT, "%s",
                       src->prompt ? "prompt: is given, and the template is another"
                                   : "prompt: is missing: the template 'prompt' needs its text");
    if (src->system && !f->as_chat)
        return err_set(err, E_INPUT, "system: only chat templates have a system message");
    return OK;
}

int format_vocab_size(const Tokenizer *t)
{
    return t ? tokenizer_vocab_size(t) : INT32_MAX;
}

Status format_open(RowFormat *out, const DataSource *src, TrainOn train_on, const Tokenizer *t,
                   Err *err)
{
    ASSERT((unsigned)src->format < N_FORMATS, "format %d", (int)src->format);
    ASSERT(t || src->format == DATA_TOKENS, "no tokenizer for %s", src->path);
    RowFormat f = {.src = src, .t = t, .train_on = train_on};
    f.as_chat = src->chat == TEMPLATE_LLAMA2 || src->chat == TEMPLATE_LLAMA3 ||
                src->chat == TEMPLATE_LLAMA31 || src->chat == TEMPLATE_CHATML;
    TRY(check_template(&f, err));
    if (f.as_chat) TRY(chat_open(&f.chat, src->chat, t, err));
    if (src->chat == TEMPLATE_PROMPT) TRY(prompt_parse(&f.prompt, src->prompt, t, err));
    Status s = check_map(&f, err);
    if (s != OK) {
        prompt_clear(&f.prompt);
        return s;
    }
    for (int i = 0; i < FORMAT_MAX_FIELDS; i++) {
        const char *name = FORMATS[src->format].fields[i];
        f.names[i] = name ? mapped(src, name) : NULL;
    }
    if (t) f.rules = render_rules(t);
    *out = f;
    return OK;
}

void format_close(RowFormat *f)
{
    prompt_clear(&f->prompt);
}

void format_scratch_clear(FormatScratch *s)
{
    rendering_clear(&s->r);
    tokenbuf_clear(&s->tokens);
    strbuf_clear(&s->text);
    free(s->messages);
    memset(s, 0, sizeof *s);
}

/* --- fields -------------------------------------------------------------------------------- */

Status format_missing(const Json *row, const char *asked, const char *name, Err *err)
{
    const char *has[16];
    int n = 0;
    StrBuf list = {0};
    for (void *it = json_first(row); it && n < 16; it = json_next(row, it)) {
        has[n] = json_iter_key(it);
        strbuf_printf(&list, "%s'%.40s'", n ? ", " : "", has[n]);
        n++;
    }
    const char *near = str_nearest(name, has, n);
    Status s;
    if (near)
        s = err_set(err, E_INPUT, "%s: missing; did you mean '%.40s'? (fields: {%s: %.40s})", name,
                    near, asked, near);
    else if (n)
        s = err_set(err, E_INPUT,
                    "%s: missing; the row has %.300s; name the right one (fields: {%s: ...})", name,
                    list.data, asked);
    else
        s = err_set(err, E_INPUT, "%s: missing; the row has no fields", name);
    strbuf_clear(&list);
    return s;
}

Status format_string(const Json *row, const char *asked, const char *name, bool required,
                     const char **text, size_t *len, Err *err)
{
    *text = NULL;
    *len = 0;
    const Json *j = json_get(row, name);
    if (json_str(j, text, len)) return OK;
    if (!required && (!j || json_kind(j) == JK_NULL)) return OK;
    if (!j) return format_missing(row, asked, name, err);
    return err_set(err, E_INPUT, "%s: must be a string, found %s", name, json_kind_name(j));
}

static Status field(const RowFormat *f, const Json *row, int i, bool required, const char **text,
                    size_t *len, Err *err)
{
    return format_string(row, FORMATS[f->src->format].fields[i], f->names[i], required, text, len,
                         err);
}

/* --- prompts ------------------------------------------------------------------------------- */

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
            rendering_token(r, p->token, trained && p->token != tokenizer_bos(f->t));
        else if (p->is_field)
            TRY(put_field(row, mapped(f->src, p->text), r, trained, err));
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
    TRY(field(f, row, ALPACA_INSTRUCTION, true, &ins, &n_ins, err));
    TRY(field(f, row, ALPACA_INPUT, false, &in, &n_in, err));
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
    TRY(field(f, row, SAMSUM_DIALOGUE, true, &s, &n, err));
    bool raw = f->src->chat == TEMPLATE_RAW;
    if (!f->as_chat && !raw && tokenizer_bos(f->t) >= 0) {
        rendering_token(r, tokenizer_bos(f->t), false);
        r->starts_with_bos = true;
    }
    if (!raw) rendering_puts(r, "Summarize this dialog:\n", trained);
    rendering_text(r, s, n, trained);
    if (!raw) rendering_puts(r, "\n---\nSummary:\n", trained);
    if (!raw) rendering_break(r);
    return OK;
}

/* All that stands before the answer, in the source's own template. */
static Status put_prompt(const RowFormat *f, const Json *row, Rendering *r, bool trained, Err *err)
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
        TRY(field(f, row, COMPLETION_PROMPT, true, &s, &n, err));
        rendering_text(r, s, n, trained);
        return OK;
    default:
        return OK; /* text has no prompt */
    }
}

/* The pair as a chat of two turns: s->messages, with the user's text in s->text. */
static Status pair_as_chat(const RowFormat *f, const Json *row, bool answer_required,
                           FormatScratch *s, Err *err)
{
    TRY(put_prompt(f, row, &s->r, false, err));
    strbuf_reset(&s->text);
    strbuf_append(&s->text, s->r.text.data ? s->r.text.data : "", s->r.text.len);
    rendering_reset(&s->r);
    s->n_messages = 0;
    if (f->src->system)
        format_add_message(s,
                           (ChatMessage){"system", f->src->system, strlen(f->src->system), false});
    format_add_message(s, (ChatMessage){"user", s->text.data, s->text.len, false});
    ChatMessage answer = {"assistant", NULL, 0, true};
    TRY(field(f, row, FORMATS[f->src->format].answer, answer_required, &answer.text, &answer.len,
              err));
    if (answer.text) format_add_message(s, answer);
    return OK;
}

static bool row_is_chat(const RowFormat *f, const Json *row)
{
    if (is_conversation(f->src->format)) return true;
    const Json *prompt = json_get(row, f->names[COMPLETION_PROMPT]);
    return f->src->format == DATA_COMPLETION && f->as_chat && prompt &&
           json_kind(prompt) == JK_ARRAY;
}

static void raw_chat(const RowFormat *f, Rendering *r, const ChatMessage *m, int n, bool all)
{
    for (int i = 0; i < n; i++) {
        bool trained = all || m[i].trained;
        rendering_text(r, m[i].text, m[i].len, trained);
        if (str_eq(m[i].role, "assistant") && tokenizer_eos(f->t) >= 0)
            rendering_token(r, tokenizer_eos(f->t), trained);
    }
}

static Status render_chat(const RowFormat *f, FormatScratch *s, int n, bool all, bool generation,
                          Err *err)
{
    if (f->as_chat) return chat_render(&f->chat, &s->r, s->messages, n, all, generation, err);
    raw_chat(f, &s->r, s->messages, n, all);
    return OK;
}

/* --- tokens -------------------------------------------------------------------------------- */

static Status read_ids(const RowFormat *f, const Json *list, const char *name, int64_t *at,
                       int64_t *value, bool labels, Err *err)
{
    const Json *j = json_at(list, (size_t)*at);
    if (!json_int(j, value))
        return err_set(err, E_INPUT, "%s[%lld]: must be an integer, found %s", name, (long long)*at,
                       json_kind_name(j));
    if (labels && *value == UNTRAINED) return OK;
    if (*value < 0 || *value >= format_vocab_size(f->t))
        return err_set(err, E_INPUT, "%s[%lld]: %lld is no token: %s has 0 to %d%s", name,
                       (long long)*at, (long long)*value, f->t ? "the tokenizer" : "a vocabulary",
                       format_vocab_size(f->t) - 1, labels ? ", and -100 says not trained" : "");
    return OK;
}

static Status tokens_row(const RowFormat *f, const Json *row, TokenRow *out, Err *err)
{
    const char *name = f->names[TOKENS_IDS], *label_name = f->names[TOKENS_LABELS];
    const Json *ids = json_get(row, name), *labels = json_get(row, label_name);
    if (!ids) return format_missing(row, "input_ids", name, err);
    if (json_kind(ids) != JK_ARRAY)
        return err_set(err, E_INPUT, "%s: must be an array of integers, found %s", name,
                       json_kind_name(ids));
    if (labels && json_kind(labels) != JK_NULL && json_kind(labels) != JK_ARRAY)
        return err_set(err, E_INPUT, "%s: must be an array of integers, found %s", label_name,
                       json_kind_name(labels));
    bool has_labels = labels && json_kind(labels) == JK_ARRAY;
    if (has_labels && json_size(labels) != json_size(ids))
        return err_set(err, E_INPUT, "%s: has %zu entries, %s has %zu; they must be as many",
                       label_name, json_size(labels), name, json_size(ids));
    if (json_size(ids) == 0) return err_set(err, E_INPUT, "%s: is empty", name);
    const Json *mask = json_get(row, "attention_mask");
    for (int64_t i = 0; i < (int64_t)json_size(ids); i++) {
        int64_t id, label, m;
        TRY(read_ids(f, ids, name, &i, &id, false, err));
        label = id;
        if (has_labels) TRY(read_ids(f, labels, label_name, &i, &label, true, err));
        if (json_int(json_at(mask, (size_t)i), &m) && m == 0)
            return err_set(
                err, E_INPUT,
                "attention_mask[%lld]: is 0, and rows are taken without padding; cut the "
                "padding off",
                (long long)i);
        token_row_push(out, (int32_t)id, (int32_t)label);
    }
    return OK;
}

/* --- rows ---------------------------------------------------------------------------------- */

static Status check_object(const Json *row, Err *err)
{
    if (json_kind(row) == JK_OBJECT) return OK;
    return err_set(err, E_INPUT, "the row must be an object {...}, found %s", json_kind_name(row));
}

/* A prompt may put a field in many times, so a row's size says nothing of the text's. */
static Status encode(const RowFormat *f, FormatScratch *s, TokenRow *out, Err *err)
{
    if (s->r.text.len >= (size_t)1 << 30)
        return err_set(err, E_INPUT, "the row makes a text of %zu bytes, at most 2^30 can be read",
                       s->r.text.len);
    render_encode(out, &s->r, f->t, f->rules, &s->tokens);
    return OK;
}

Status format_row(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out, Err *err)
{
    TRY(check_object(row, err));
    if (f->src->format == DATA_TOKENS) return tokens_row(f, row, out, err);
    rendering_reset(&s->r);
    bool all = f->train_on == TRAIN_ON_ALL;
    if (row_is_chat(f, row)) {
        TRY(format_read_messages(f, row, true, s, err));
        TRY(render_chat(f, s, s->n_messages, all, false, err));
    } else if (f->as_chat) {
        TRY(pair_as_chat(f, row, true, s, err));
        TRY(render_chat(f, s, s->n_messages, all, false, err));
    } else {
        const char *answer;
        size_t n;
        TRY(put_prompt(f, row, &s->r, all, err));
        TRY(field(f, row, FORMATS[f->src->format].answer, true, &answer, &n, err));
        rendering_text(&s->r, answer, n, true);
        if (tokenizer_eos(f->t) >= 0) rendering_token(&s->r, tokenizer_eos(f->t), true);
    }
    return encode(f, s, out, err);
}

static Status tokens_prompt(const RowFormat *f, const Json *row, TokenRow *out, char **answer,
                            Err *err)
{
    TRY(tokens_row(f, row, out, err));
    int64_t n = 0;
    while (n < out->n && out->labels[n] == UNTRAINED)
        n++;
    if (n > 0 && n < out->n) {
        StrBuf b = {0};
        tokenizer_decode(f->t, &b, out->ids + n, out->n - n, true);
        *answer = strbuf_take(&b);
        out->n = n;
    }
    for (int64_t i = 0; i < out->n; i++)
        out->labels[i] = UNTRAINED;
    return OK;
}

Status format_row_prompt(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out,
                         char **answer, Err *err)
{
    *answer = NULL;
    TRY(check_object(row, err));
    if (f->src->format == DATA_TOKENS) return tokens_prompt(f, row, out, answer, err);
    rendering_reset(&s->r);
    bool chat = row_is_chat(f, row);
    const char *text = NULL;
    size_t n = 0;
    if (chat || f->as_chat) {
        if (chat)
            TRY(format_read_messages(f, row, false, s, err));
        else
            TRY(pair_as_chat(f, row, false, s, err));
        int turns = s->n_messages;
        if (turns > 1 && str_eq(s->messages[turns - 1].role, "assistant")) {
            text = s->messages[turns - 1].text;
            n = s->messages[turns - 1].len;
            turns--;
        }
        TRY(render_chat(f, s, turns, false, true, err));
    } else if (f->src->format == DATA_TEXT && f->src->chat != TEMPLATE_PROMPT) {
        const char *prompt;
        size_t n_prompt;
        TRY(field(f, row, 0, true, &prompt, &n_prompt, err));
        rendering_text(&s->r, prompt, n_prompt, false);
    } else {
        TRY(put_prompt(f, row, &s->r, false, err));
        TRY(field(f, row, FORMATS[f->src->format].answer, false, &text, &n, err));
    }
    TRY(encode(f, s, out, err));
    if (text) *answer = xstrndup(text, n);
    return OK;
}
