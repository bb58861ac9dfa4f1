#include "cli/data_flags.h"

#include "data/chat_template.h"
#include "data/formats.h"

#include <stdlib.h>
#include <string.h>

static Status find_format(DataFormat *out, const char *name, Err *err)
{
    StrBuf known = {0};
    const char *names[32];
    int n = 0;
    for (; n < 32 && format_name((DataFormat)n); n++) {
        names[n] = format_name((DataFormat)n);
        strbuf_printf(&known, "%s%s", n ? ", " : "", names[n]);
        if (!str_eq(name, names[n])) continue;
        *out = (DataFormat)n;
        strbuf_clear(&known);
        return OK;
    }
    const char *near = name ? str_nearest(name, names, n) : NULL;
    Status s = !name ? err_set(err, E_INPUT, "--format: needs one of %s", known.data)
               : near
                   ? err_set(err, E_INPUT, "--format: '%s' is none; did you mean '%s'?", name, near)
                   : err_set(err, E_INPUT, "--format: '%s' is none of %s", name, known.data);
    strbuf_clear(&known);
    return s;
}

static Status find_template(ChatTemplate *out, const char *name, Err *err)
{
    StrBuf known = {0};
    for (int i = 0; chat_template_name((ChatTemplate)i); i++) {
        if (i == TEMPLATE_PROMPT) continue; /* --prompt-template */
        const char *one = chat_template_name((ChatTemplate)i);
        strbuf_printf(&known, "%s%s", known.len ? ", " : "", one);
        if (!str_eq(name, one)) continue;
        *out = (ChatTemplate)i;
        strbuf_clear(&known);
        return OK;
    }
    Status s = err_set(err, E_INPUT, "--template: '%s' is none of %s", name, known.data);
    strbuf_clear(&known);
    return s;
}

Status data_flags_chat(ChatTemplate *out, const char *name, const Tokenizer *t, Err *err)
{
    if (name) return find_template(out, name, err);
    *out = chat_template_guess(t);
    if (*out != TEMPLATE_DEFAULT) return OK;
    return err_set(
        err, E_INPUT,
        "--template: the tokenizer names no chat template, or one that is none of ours; name "
        "llama2, llama3, llama3.1 or chatml");
}

static Status add_field(DataSource *s, const char *pair, Err *err)
{
    const char *eq = strchr(pair, '=');
    if (!eq || eq == pair || !eq[1])
        return err_set(err, E_INPUT, "--field: needs NAME=OTHER, got '%s'", pair);
    s->fields[s->n_fields++] = (FieldMap){xstrndup(pair, (size_t)(eq - pair)), xstrdup(eq + 1)};
    return OK;
}

Status data_flags_source(DataSource *out, const DataFlags *f, const Tokenizer *t, Err *err)
{
    *out = (DataSource){.weight = 1};
    if (!f->data) return err_set(err, E_INPUT, "--data: needs a file");
    TRY(find_format(&out->format, f->format, err));
    if (f->prompt && f->chat)
        return err_set(err, E_INPUT, "--prompt-template: not together with --template");
    if (f->prompt) {
        out->chat = TEMPLATE_PROMPT;
    } else if (f->chat) {
        TRY(find_template(&out->chat, f->chat, err));
    } else if (t && (out->format == DATA_MESSAGES || out->format == DATA_SHAREGPT)) {
        TRY(data_flags_chat(&out->chat, NULL, t, err));
    }
    out->path = xstrdup(f->data);
    out->prompt = f->prompt ? xstrdup(f->prompt) : NULL;
    out->system = f->system ? xstrdup(f->system) : NULL;
    out->fields = xcalloc((size_t)f->fields.n, sizeof *out->fields);
    for (int i = 0; i < f->fields.n; i++)
        TRY(add_field(out, f->fields.items[i], err));
    return OK;
}

void data_source_clear(DataSource *s)
{
    free(s->path);
    free(s->prompt);
    free(s->system);
    for (int i = 0; i < s->n_fields; i++) {
        free(s->fields[i].from);
        free(s->fields[i].to);
    }
    free(s->fields);
    *s = (DataSource){0};
}

Status data_flags_train_on(TrainOn *out, const char *name, Err *err)
{
    static const char *const names[] = {"answer", "assistant", "all"};
    *out = TRAIN_ON_ANSWER;
    for (int i = 0; i < 3 && name; i++) {
        if (!str_eq(name, names[i])) continue;
        *out = (TrainOn)i;
        return OK;
    }
    return name ? err_set(err, E_INPUT, "--train-on: '%s' is none of answer, assistant, all", name)
                : OK;
}
