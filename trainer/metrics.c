/* metrics.jsonl and its twin for TensorBoard. */
#include "trainer/metrics.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "trainer/progress.h"
#include "trainer/tensorboard.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct Metrics {
    FILE *f;
    char *path;
    int error;
    EventFile *events; /* or NULL */
    Progress progress;
};

/* ---- lines ------------------------------------------------------------------------------------ */

static void put_number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, "%s\"%s\": ", b->len && b->data[b->len - 1] != '{' ? ", " : "", key);
    json_write_number(b, v);
}

static void put_int(StrBuf *b, const char *key, int64_t v)
{
    strbuf_printf(b, "%s\"%s\": %lld", b->len && b->data[b->len - 1] != '{' ? ", " : "", key,
                  (long long)v);
}

static double tokens_per_second(const StepRecord *r)
{
    return r->step_time > 0 ? (double)r->tokens / r->step_time : 0;
}

void metrics_step_line(StrBuf *out, const StepRecord *r)
{
    strbuf_putc(out, '{');
    put_int(out, "step", r->step);
    put_number(out, "epoch", r->epoch);
    put_number(out, "loss", r->loss);
    put_number(out, "grad_norm", r->grad_norm);
    put_number(out, "lr", r->lr);
    put_int(out, "tokens", r->tokens);
    put_number(out, "tokens_per_s", tokens_per_second(r));
    put_number(out, "step_time", r->step_time);
    put_int(out, "consumed_samples", r->consumed_samples);
    put_int(out, "peak_bytes", (int64_t)r->peak_bytes);
    put_int(out, "allocated_bytes", (int64_t)r->allocated_bytes);
    strbuf_puts(out, "}\n");
}

void metrics_eval_line(StrBuf *out, const EvalRecord *r)
{
    strbuf_putc(out, '{');
    put_int(out, "step", r->step);
    put_number(out, "epoch", r->epoch);
    put_number(out, "eval_loss", r->loss);
    put_number(out, "eval_perplexity", exp(r->loss));
    put_int(out, "eval_tokens", r->tokens);
    put_number(out, "eval_time", r->time);
    strbuf_puts(out, "}\n");
}

void metrics_save_line(StrBuf *out, const SaveRecord *r)
{
    strbuf_putc(out, '{');
    put_int(out, "step", r->step);
    put_number(out, "save_stall_s", r->stall);
    put_number(out, "save_s", r->time);
    strbuf_puts(out, "}\n");
}

/* ---- the file --------------------------------------------------------------------------------- */

/* A line that is cut off in the middle, by a kill, is dropped too. */
static bool keep_line(const char *line, size_t n, int64_t from_step)
{
    Json *j = NULL;
    Err ignored = {0};
    int64_t step;
    bool keep = json_parse(&j, line, n, "metrics.jsonl", 1, 0, &ignored) == OK &&
                json_int(json_get(j, "step"), &step) && step <= from_step;
    json_free(j);
    return keep;
}

static Status trim(const char *path, int64_t from_step, Err *err)
{
    char *text = NULL;
    size_t len = 0;
    if (path_exists(path)) TRY(file_read(&text, &len, path, err));
    StrBuf kept = {0};
    for (size_t at = 0; at < len;) {
        char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - text) - at + 1 : len - at;
        if (end && keep_line(text + at, n, from_step)) strbuf_append(&kept, text + at, n);
        at += n;
    }
    free(text);
    Status s = file_write_atomic(path, kept.len ? kept.data : "", kept.len, err);
    strbuf_clear(&kept);
    return s;
}

Status metrics_open(Metrics **out, const TrainConfig *c, int64_t from_step, int64_t total_steps,
                    Log *log, bool terminal, Err *err)
{
    Metrics *m = xcalloc(1, sizeof *m);
    m->path = path_join(c->output, "metrics.jsonl");
    m->progress = (Progress){
        .log = log, .terminal = terminal, .log_every = c->log_every, .total = total_steps};
    Status s = trim(m->path, from_step, err);
    if (s == OK) {
        m->f = fopen(m->path, "ab");
        if (!m->f) s = err_set(err, E_FAILED, "%s: %s", m->path, strerror(errno));
    }
    if (s == OK && c->tensorboard) {
        char *dir = path_join(c->output, "runs");
        s = event_file_open(&m->events, dir, err);
        free(dir);
    }
    *out = m;
    if (s == OK) return OK;
    Err ignored = {0};
    Status unused = metrics_close(m, &ignored);
    (void)unused;
    *out = NULL;
    return s;
}

/* A line reaches the system at once: a killed run has told all its steps. */
static void write_line(Metrics *m, StrBuf *line)
{
    bool ok = fwrite(line->data, 1, line->len, m->f) == line->len && fflush(m->f) == 0;
    if (!ok && !m->error) { /* told again at the end, which fails by it */
        m->error = errno;
        log_warn(m->progress.log, "%s: cannot write: %s", m->path, strerror(errno));
    }
    strbuf_clear(line);
}

void metrics_step(Metrics *m, const StepRecord *r)
{
    StrBuf line = {0};
    metrics_step_line(&line, r);
    write_line(m, &line);
    if (m->events) {
        event_file_scalar(m->events, r->step, "train/loss", r->loss);
        event_file_scalar(m->events, r->step, "train/learning_rate", r->lr);
        event_file_scalar(m->events, r->step, "train/grad_norm", r->grad_norm);
        event_file_scalar(m->events, r->step, "train/epoch", r->epoch);
        event_file_scalar(m->events, r->step, "train/tokens_per_second", tokens_per_second(r));
        event_file_flush(m->events);
    }
    progress_step(&m->progress, r);
}

void metrics_eval(Metrics *m, const EvalRecord *r)
{
    StrBuf line = {0};
    metrics_eval_line(&line, r);
    write_line(m, &line);
    if (m->events) {
        event_file_scalar(m->events, r->step, "eval/loss", r->loss);
        event_file_flush(m->events);
    }
    progress_eval(&m->progress, r);
}

void metrics_save(Metrics *m, const SaveRecord *r)
{
    StrBuf line = {0};
    metrics_save_line(&line, r);
    write_line(m, &line);
    progress_save(&m->progress, r);
}

Status metrics_close(Metrics *m, Err *err)
{
    if (!m) return OK;
    progress_end(&m->progress);
    Status s = event_file_close(m->events, err);
    if (m->f && fclose(m->f) != 0 && !m->error) m->error = errno;
    if (s == OK && m->error) s = err_set(err, E_FAILED, "%s: %s", m->path, strerror(m->error));
    free(m->path);
    free(m);
    return s;
}
