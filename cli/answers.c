#include "cli/answers.h"

#include "cli/command.h"

#include <stdlib.h>

Status answers_check(const Questions *q, int64_t context, int64_t *longest, Err *err)
{
    *longest = 0;
    for (int64_t i = 0; i < q->n; i++) {
        const Question *x = &q->items[i];
        if (x->n > *longest) *longest = x->n;
        if (x->n < context) continue;
        Status s = err_set(
            err, E_INPUT,
            "%s:%lld: the prompt has %lld tokens, which leaves no room for an answer in the "
            "model's %lld",
            x->at.file, (long long)x->at.line, (long long)x->n, (long long)context);
        return row_error(err, s, x->at.file, x->at.number);
    }
    return OK;
}

typedef struct Progress {
    const Generation *answers;
    bool *complete;
    int64_t n, n_done, next; /* next: the first that `done` was not called for */
    int64_t n_tokens, ended[4];
    AnswerFn *done;
    void *ud;
    Log *log;
    double start, shown;
} Progress;

static void on_done(void *ud, int64_t i)
{
    Progress *p = ud;
    p->complete[i] = true;
    p->n_done++;
    p->n_tokens += p->answers[i].n;
    p->ended[p->answers[i].finish]++;
    for (; p->next < p->n && p->complete[p->next]; p->next++)
        if (p->done) p->done(p->ud, p->next, &p->answers[p->next]);
    double now = seconds_now();
    if (!log_on_terminal(p->log) || now - p->shown < 0.1) return;
    p->shown = now;
    fprintf(p->log->to, "\r\033[K%lld/%lld rows, %.0f tokens/s", (long long)p->n_done,
            (long long)p->n, (double)p->n_tokens / (now - p->start));
    fflush(p->log->to);
    p->log->line_open = true;
}

static void tell_end(const Progress *p)
{
    StrBuf b = {0};
    for (int i = 0; i < 4; i++)
        if (p->ended[i])
            strbuf_printf(&b, "%s%lld by %s", b.len ? ", " : "", (long long)p->ended[i],
                          finish_name((FinishReason)i));
    double seconds = seconds_now() - p->start;
    log_info(p->log, "%lld rows, %lld tokens in %.1f s (%.0f tokens/s); ended %s", (long long)p->n,
             (long long)p->n_tokens, seconds, (double)p->n_tokens / seconds, b.data);
    strbuf_clear(&b);
}

Status answers_generate(Generation *answers, const Questions *q, Llama *m, const Tokenizer *t,
                        const GenerateOpts *opts, AnswerFn *done, void *ud, Log *log, Err *err)
{
    GeneratePrompt *prompts = xcalloc((size_t)q->n, sizeof *prompts);
    for (int64_t i = 0; i < q->n; i++)
        prompts[i] = (GeneratePrompt){q->items[i].ids, q->items[i].n, (uint64_t)i, false};
    Progress p = {.answers = answers,
                  .complete = xcalloc((size_t)q->n, sizeof *p.complete),
                  .n = q->n,
                  .done = done,
                  .ud = ud,
                  .log = log,
                  .start = seconds_now()};
    GenerateHooks hooks = {.done = on_done, .ud = &p};
    Status s = generate(answers, m, t, prompts, q->n, opts, &hooks, err);
    if (log->line_open) fputs("\r\033[K", log->to);
    log->line_open = false;
    if (s == OK) tell_end(&p);
    free(p.complete);
    free(prompts);
    return s;
}
