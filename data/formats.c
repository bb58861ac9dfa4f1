/* The table of formats, the check of a source's settings, and the way from a row to tokens. */
#include "data/formats.h"

#include "data/formats_impl.h"

#include <stdlib.h>
#include <string.h>

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

const char *format_name(DataFormat format)
{
    return (unsigned)format < N_FORMATS ? FORMATS[format].name : NULL;
}

/* --- opening ------------------------------------------------------------------------------- */

const char *format_mapped(const DataSource *src, const char *name)
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

static void find_spelled(RowFormat *f)
{
    static const char *const markers[] = {"<|eot_id|>", "<|start_header_id|>", "<|im_start|>",
                                          "<|im_end|>"};
    const char *ends[2] = {tokenizer_piece(f->t, f->bos), tokenizer_piece(f->t, f->eos)};
    for (int i = 0; i < 2; i++)
        if (ends[i] && *ends[i]) f->spelled[f->n_spelled++] = ends[i];
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++)
        if (tokenizer_id(f->t, markers[i]) >= 0) f->spelled[f->n_spelled++] = markers[i];
}

Status format_open(RowFormat *out, const DataSource *src, TrainOn train_on, const Tokenizer *t,
                   Err *err)
{
    ASSERT((unsigned)src->format < N_FORMATS, "format %d", (int)src->format);
    ASSERT(t || src->format == DATA_TOKENS, "no tokenizer for %s", src->path);
    RowFormat f = {.src = src, .t = t, .bos = -1, .eos = -1, .train_on = train_on};
    if (t) f.bos = tokenizer_bos(t), f.eos = tokenizer_eos(t);
    f.fields = FORMATS[src->format].fields;
    f.answer = FORMATS[src->format].answer;
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
        f.names[i] = name ? format_mapped(src, name) : NULL;
    }
    if (t) {
        f.rules = render_rules(t);
        find_spelled(&f);
    }
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

Status format_field(const RowFormat *f, const Json *row, int i, bool required, const char **text,
                    size_t *len, Err *err)
{
    return format_string(row, f->fields[i], f->names[i], required, text, len, err);
}

/* --- rows ---------------------------------------------------------------------------------- */

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
        if (str_eq(m[i].role, "assistant") && f->eos >= 0) rendering_token(r, f->eos, trained);
    }
}

static Status render_chat(const RowFormat *f, FormatScratch *s, int n, bool all, bool generation,
                          Err *err)
{
    if (f->as_chat) return chat_render(&f->chat, &s->r, s->messages, n, all, generation, err);
    raw_chat(f, &s->r, s->messages, n, all);
    return OK;
}

static Status check_object(const Json *row, Err *err)
{
    if (json_kind(row) == JK_OBJECT) return OK;
    return err_set(err, E_INPUT, "the row must be an object {...}, found %s", json_kind_name(row));
}

/* What a row has and its format does not read: an instruction that would be missing, a conversation that would be cut. */
static Status check_fields(const RowFormat *f, const Json *row, Err *err)
{
    static const char *const turns[] = {"system", "history"};
    const Json *prompt = json_get(row, f->names[COMPLETION_PROMPT]);
    if (f->src->format == DATA_COMPLETION && !f->as_chat && prompt && json_kind(prompt) == JK_ARRAY)
        return err_set(err, E_INPUT,
                       "%s: is a list of messages, which needs a chat template: llama2, llama3, "
                       "llama3.1 or chatml",
                       f->names[COMPLETION_PROMPT]);
    for (int i = 0; i < 2 && f->src->format == DATA_ALPACA && !f->src->prompt; i++) {
        if (!format_says_something(json_get(row, turns[i]))) continue;
        return err_set(
            err, E_INPUT,
            "%s: is not read from alpaca rows; take it out, write a prompt with {%s}, or "
            "make messages of the row",
            turns[i], turns[i]);
    }
    return OK;
}

/* Text that was rendered elsewhere would be trained as plain characters: that is worth a warning. */
static bool spells_special(const RowFormat *f, const Rendering *r)
{
    for (int i = 0; i < f->n_spelled && r->text.len > 0; i++)
        if (strstr(r->text.data, f->spelled[i])) return true;
    return false;
}

/* A prompt may put a field in many times, so a row's size says nothing of the text's. */
static Status encode(const RowFormat *f, FormatScratch *s, TokenRow *out, Err *err)
{
    if (s->r.text.len >= (size_t)1 << 30)
        return err_set(err, E_INPUT, "the row makes a text of %zu bytes, at most 2^30 can be read",
                       s->r.text.len);
    s->spells = spells_special(f, &s->r);
    render_encode(out, &s->r, f->t, f->rules, &s->tokens);
    return OK;
}

Status format_row(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out, Err *err)
{
    TRY(check_object(row, err));
    TRY(check_fields(f, row, err));
    if (f->src->format == DATA_TOKENS) return format_tokens(f, row, out, err);
    rendering_reset(&s->r);
    bool all = f->train_on == TRAIN_ON_ALL;
    if (row_is_chat(f, row)) {
        TRY(format_read_messages(f, row, true, s, err));
        TRY(render_chat(f, s, s->n_messages, all, false, err));
    } else if (f->as_chat) {
        TRY(format_pair_as_chat(f, row, true, s, err));
        TRY(render_chat(f, s, s->n_messages, all, false, err));
    } else {
        const char *answer;
        size_t n;
        TRY(format_put_prompt(f, row, &s->r, all, err));
        TRY(format_field(f, row, f->answer, true, &answer, &n, err));
        rendering_text(&s->r, answer, n, true);
        if (f->eos >= 0) rendering_token(&s->r, f->eos, true);
    }
    return encode(f, s, out, err);
}

Status format_row_prompt(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out,
                         char **answer, Err *err)
{
    *answer = NULL;
    TRY(check_object(row, err));
    TRY(check_fields(f, row, err));
    if (f->src->format == DATA_TOKENS) return format_tokens_prompt(f, row, out, answer, err);
    rendering_reset(&s->r);
    bool chat = row_is_chat(f, row);
    const char *text = NULL;
    size_t n = 0;
    if (chat || f->as_chat) {
        if (chat)
            TRY(format_read_messages(f, row, false, s, err));
        else
            TRY(format_pair_as_chat(f, row, false, s, err));
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
        TRY(format_field(f, row, 0, true, &prompt, &n_prompt, err));
        rendering_text(&s->r, prompt, n_prompt, false);
    } else {
        TRY(format_put_prompt(f, row, &s->r, false, err));
        TRY(format_field(f, row, f->answer, false, &text, &n, err));
    }
    TRY(encode(f, s, out, err));
    if (text) *answer = xstrndup(text, n);
    return OK;
}
