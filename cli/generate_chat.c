/* A chat: from a file once, or turn by turn on a terminal. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/generate_job.h"
#include "data/chat_template.h"

#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The turns so far; owns their texts. */
typedef struct Turns {
    ChatMessage *items;
    int n, cap;
} Turns;

static void turns_add(Turns *t, const char *role, const char *text, size_t len)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 16;
        t->items = xrealloc(t->items, (size_t)t->cap * sizeof *t->items);
    }
    char *copy = xmalloc(len + 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    t->items[t->n++] = (ChatMessage){.role = xstrdup(role), .text = copy, .len = len};
}

static void turns_drop(Turns *t, int n)
{
    while (t->n > n) {
        t->n--;
        free((char *)(uintptr_t)t->items[t->n].role);
        free((char *)(uintptr_t)t->items[t->n].text);
    }
}

static void turns_clear(Turns *t)
{
    turns_drop(t, 0);
    free(t->items);
    *t = (Turns){0};
}

static Status read_turns(Turns *out, const Json *root, const char *name, const char *system,
                         Err *err)
{
    const Json *list = json_kind(root) == JK_OBJECT ? json_get(root, "messages") : root;
    if (json_kind(list) != JK_ARRAY || json_size(list) == 0)
        return err_set(err, E_INPUT,
                       "%s: needs a list of messages, [{\"role\": ..., \"content\": ...}, ...]",
                       name);
    for (size_t i = 0; i < json_size(list); i++) {
        const char *role, *text;
        size_t len;
        if (!json_str(json_get(json_at(list, i), "role"), &role, NULL))
            return err_set(err, E_INPUT, "%s: message %zu: role: needs a string, got %s", name,
                           i + 1, json_kind_name(json_get(json_at(list, i), "role")));
        if (!str_eq(role, "system") && !str_eq(role, "user") && !str_eq(role, "assistant"))
            return err_set(err, E_INPUT,
                           "%s: message %zu: role: '%s' is unknown; there are system, user and "
                           "assistant",
                           name, i + 1, role);
        if (!json_str(json_get(json_at(list, i), "content"), &text, &len))
            return err_set(err, E_INPUT, "%s: message %zu: content: needs a string, got %s", name,
                           i + 1, json_kind_name(json_get(json_at(list, i), "content")));
        if (i == 0 && system && !str_eq(role, "system"))
            turns_add(out, "system", system, strlen(system));
        turns_add(out, role, text, len);
    }
    if (!str_eq(out->items[out->n - 1].role, "assistant")) return OK;
    return err_set(err, E_INPUT, "%s: message %zu: the last is the assistant's; nothing to answer",
                   name, json_size(list));
}

static Status answer_file(GenerateJob *job, const Chat *chat, const char *path, Err *err)
{
    Json *root = NULL;
    Turns turns = {0};
    TokenBuf ids = {0};
    Status s = json_parse_file(&root, path, err);
    if (s == OK) s = read_turns(&turns, root, path, job->data.system, err);
    if (s == OK) {
        s = chat_prompt(chat, job->t, turns.items, turns.n, &ids, err);
        if (s != OK) s = err_wrap(err, s, "%s", path);
    }
    if (s == OK) s = generate_job_open(job, ids.n, err);
    if (s == OK) s = generate_job_stream(job, &ids, false, NULL, err);
    tokenbuf_clear(&ids);
    turns_clear(&turns);
    json_free(root);
    return s;
}

/* One question and its answer. */
static Status take_turn(GenerateJob *job, const Chat *chat, Turns *turns, const char *text,
                        size_t len, Err *err)
{
    TokenBuf ids = {0};
    StrBuf said = {0};
    turns_add(turns, "user", text, len);
    Status s = chat_prompt(chat, job->t, turns->items, turns->n, &ids, err);
    if (s == OK && ids.n >= model_context(&job->cfg))
        s = err_set(err, E_FAILED,
                    "the chat has %lld tokens, which fills the model's context of %lld; /clear "
                    "begins anew",
                    (long long)ids.n, (long long)model_context(&job->cfg));
    if (s == OK) s = generate_job_stream(job, &ids, false, &said, err);
    if (s == OK) turns_add(turns, "assistant", said.data ? said.data : "", said.len);
    tokenbuf_clear(&ids);
    strbuf_clear(&said);
    return s;
}

static Status talk(GenerateJob *job, const Chat *chat, Err *err)
{
    TRY(generate_job_open(job, model_context(&job->cfg), err));
    log_info(&job->log, "/clear forgets the chat, /exit or the end of input leaves");
    Turns turns = {0};
    const char *system = job->data.system;
    if (system) turns_add(&turns, "system", system, strlen(system));
    char *line = NULL;
    size_t cap = 0;
    Status s = OK;
    while (s == OK) {
        fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (str_eq(line, "/exit")) break;
        if (str_eq(line, "/clear")) turns_drop(&turns, system ? 1 : 0);
        if (n == 0 || str_eq(line, "/clear")) continue;
        int before = turns.n;
        s = take_turn(job, chat, &turns, line, (size_t)n, err);
        if (s == OK) continue;
        /* what was wrong with one turn ends that turn only */
        log_warn(&job->log, "%s", err->line);
        turns_drop(&turns, before);
        s = ferror(stdout) ? s : OK;
    }
    free(line);
    turns_clear(&turns);
    return s;
}

Status generate_chat(GenerateJob *job, Err *err)
{
    ChatTemplate kind;
    Chat chat;
    TRY(data_flags_chat(&kind, job->data.chat, job->t, err));
    TRY(chat_open(&chat, kind, job->t, err));
    generate_add_eos(&job->opts, chat.turn);
    bool from_stdin = str_eq(job->chat, "-");
    if (from_stdin && isatty(STDIN_FILENO)) return talk(job, &chat, err);
    return answer_file(job, &chat, from_stdin ? "/dev/stdin" : job->chat, err);
}
