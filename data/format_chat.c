/* Conversations: OpenAI's `messages`, ShareGPT's `conversations`, and prompt/completion rows that hold
 * lists of messages. */
#include "data/formats_impl.h"

#include <stdlib.h>
#include <string.h>

void format_add_message(FormatScratch *s, ChatMessage m)
{
    if (s->n_messages == s->cap_messages) {
        s->cap_messages = s->cap_messages ? 2 * s->cap_messages : 16;
        s->messages = xrealloc(s->messages, (size_t)s->cap_messages * sizeof *s->messages);
    }
    s->messages[s->n_messages++] = m;
}

/* The templates' name of a role; NULL when there is none. */
static const char *role_of(const char *name)
{
    static const struct {
        const char *in, *out;
    } roles[] = {
        {"system", "system"},   {"user", "user"},     {"assistant", "assistant"},
        {"human", "user"},      {"gpt", "assistant"}, {"chatgpt", "assistant"},
        {"model", "assistant"},
    };
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (str_eq(roles[i].in, name)) return roles[i].out;
    return NULL;
}

static bool is_tool(const char *role)
{
    return str_eq(role, "tool") || str_eq(role, "function") || str_eq(role, "ipython") ||
           str_eq(role, "observation") || str_eq(role, "function_call");
}

bool format_says_something(const Json *j)
{
    const char *text;
    size_t n;
    bool yes = true;
    if (!j || json_kind(j) == JK_NULL) return false;
    if (json_str(j, &text, &n)) return n > 0 && !str_eq(text, "[]");
    if (json_kind(j) == JK_ARRAY || json_kind(j) == JK_OBJECT) return json_size(j) > 0;
    return !json_bool(j, &yes) || yes;
}

/* What is in a message or a row of conversations and changes what should be learnt, but is not read. */
static Status check_unread(const Json *j, const char *where, Err *err)
{
    static const struct {
        const char *key, *what;
    } unread[] = {
        {"tool_calls", "tools are not supported; leave such conversations out"},
        {"tools", "tools are not supported; leave such conversations out"},
        {"reasoning_content",
         "is not read; take it out, or put it into the content as the model writes it"},
    };
    for (size_t i = 0; i < sizeof unread / sizeof *unread; i++)
        if (format_says_something(json_get(j, unread[i].key)))
            return err_set(err, E_INPUT, "%s%s%s: %s", where, *where ? ": " : "", unread[i].key,
                           unread[i].what);
    const Json *train = json_get(j, "train");
    bool trains;
    if (train && json_bool(train, &trains))
        return err_set(err, E_INPUT,
                       "%s%strain: is not read; a turn that is not trained has weight 0", where,
                       *where ? ": " : "");
    return OK;
}

static Status read_message(const Json *j, const char *role_name, const char *text_name,
                           const char *where, FormatScratch *s, Err *err)
{
    if (json_kind(j) != JK_OBJECT)
        return err_set(err, E_INPUT, "%s: must be an object, found %s", where, json_kind_name(j));
    const char *role;
    size_t n;
    Status status = format_string(j, "role", role_name, true, &role, &n, err);
    if (status != OK) return err_wrap(err, status, "%s", where);
    ChatMessage m = {.role = role_of(role)};
    if (!m.role && is_tool(role))
        return err_set(err, E_INPUT,
                       "%s: %s: '%s': tools are not supported; leave such conversations out", where,
                       role_name, role);
    if (!m.role)
        return err_set(err, E_INPUT,
                       "%s: %s: '%.40s' is unknown; there are system, user (human) and assistant "
                       "(gpt)",
                       where, role_name, role);
    TRY(check_unread(j, where, err));
    status = format_string(j, "content", text_name, true, &m.text, &m.len, err);
    if (status != OK) return err_wrap(err, status, "%s", where);
    double weight = 1;
    const Json *w = json_get(j, "weight");
    if (w && json_kind(w) != JK_NULL && (!json_number(w, &weight) || (weight != 0 && weight != 1)))
        return err_set(err, E_INPUT, "%s: weight: must be 0 or 1", where);
    m.trained = str_eq(m.role, "assistant") && weight != 0;
    format_add_message(s, m);
    return OK;
}

static Status read_list(const RowFormat *f, const Json *row, const char *asked, const char *name,
                        bool required, FormatScratch *s, Err *err)
{
    const Json *list = json_get(row, name);
    if (!list && !required) return OK;
    if (!list) return format_missing(row, asked, name, err);
    if (json_kind(list) != JK_ARRAY)
        return err_set(err, E_INPUT, "%s: must be an array of messages, found %s", name,
                       json_kind_name(list));
    if (json_size(list) == 0) return err_set(err, E_INPUT, "%s: is empty", name);
    bool own = f->src->format != DATA_COMPLETION; /* whose role and content may be mapped */
    for (size_t i = 0; i < json_size(list); i++) {
        char *where = str_format("%s[%zu]", name, i);
        Status status = read_message(json_at(list, i), own ? f->names[CHAT_ROLE] : "role",
                                     own ? f->names[CHAT_CONTENT] : "content", where, s, err);
        free(where);
        if (status != OK) return status;
    }
    return OK;
}

/* A conversation, in LLaMA-Factory's rows with a system message beside it. */
static Status read_sharegpt(const RowFormat *f, const Json *row, FormatScratch *s, Err *err)
{
    ChatMessage m = {.role = "system"};
    TRY(format_string(row, "system", "system", false, &m.text, &m.len, err));
    if (m.len > 0) format_add_message(s, m);
    const int first = s->n_messages;
    TRY(read_list(f, row, "conversations", f->names[CHAT_LIST], true, s, err));
    if (m.len > 0 && str_eq(s->messages[first].role, "system"))
        return err_set(err, E_INPUT,
                       "system: the conversation has such a message, too; take one of them out");
    return OK;
}

Status format_read_messages(const RowFormat *f, const Json *row, bool answer_required,
                            FormatScratch *s, Err *err)
{
    s->n_messages = 0;
    const char *system = f->src->system;
    if (system) format_add_message(s, (ChatMessage){"system", system, strlen(system), false});
    TRY(check_unread(row, "", err));
    switch (f->src->format) {
    case DATA_COMPLETION:
        TRY(read_list(f, row, "prompt", f->names[0], true, s, err));
        TRY(read_list(f, row, "completion", f->names[1], answer_required, s, err));
        break;
    case DATA_SHAREGPT:
        TRY(read_sharegpt(f, row, s, err));
        break;
    default:
        TRY(read_list(f, row, "messages", f->names[CHAT_LIST], true, s, err));
        break;
    }
    if (system && s->n_messages > 1 && str_eq(s->messages[1].role, "system")) {
        /* the row brings its own */
        s->n_messages--;
        memmove(s->messages, s->messages + 1, (size_t)s->n_messages * sizeof *s->messages);
    }
    if (f->train_on != TRAIN_ON_ANSWER) return OK;
    int last = s->n_messages - 1;
    while (last >= 0 && !str_eq(s->messages[last].role, "assistant"))
        last--;
    for (int i = 0; i < last; i++)
        s->messages[i].trained = false;
    return OK;
}
