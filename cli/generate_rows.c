/* JSONL to JSONL: each row as it was, with one field more. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/answers.h"
#include "cli/generate_job.h"
#include "model/folder.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct RowWriter {
    const Questions *q;
    const char *field;
    FileOut file; /* beside the result and renamed at the end: a file of that name is whole */
    bool to_file;
    StrBuf line;
    bool broken;
} RowWriter;

/* The row's own text, so that numbers stay as they are written, on one line.  A field of that name which it has already goes. */
static void put_row(StrBuf *b, const Question *q, const char *field)
{
    strbuf_append(b, q->row, q->n_row);
    for (size_t i = 0; i < b->len; i++) /* in strings line ends are escaped */
        if (b->data[i] == '\n' || b->data[i] == '\r') b->data[i] = ' ';
    json_text_set(b, field, NULL);
    while (b->len > 0 && b->data[b->len - 1] != '}')
        b->data[--b->len] = '\0';
    do
        b->data[--b->len] = '\0';
    while (strchr(" \t", b->data[b->len - 1]));
    if (b->data[b->len - 1] != '{') strbuf_puts(b, ", ");
}

static void write_row(void *ud, int64_t i, const Generation *g)
{
    RowWriter *w = ud;
    StrBuf *b = &w->line;
    strbuf_reset(b);
    put_row(b, &w->q->items[i], w->field);
    json_write_string(b, w->field, strlen(w->field));
    strbuf_puts(b, ": ");
    json_write_string(b, g->text, strlen(g->text));
    strbuf_puts(b, "}\n");
    if (w->to_file)
        file_out_write(&w->file, b->data, b->len);
    else if (fwrite(b->data, 1, b->len, stdout) != b->len || fflush(stdout))
        w->broken = true;
}

static Status answer(GenerateJob *job, const Questions *q, RowWriter *w, Err *err)
{
    Generation *answers = xcalloc((size_t)q->n, sizeof *answers);
    Status s = answers_generate(answers, q, &job->open.llama, job->t, &job->opts, write_row, w,
                                &job->log, err);
    s = model_blame(&job->open, &job->model, s, err);
    for (int64_t i = 0; i < q->n; i++)
        generation_clear(&answers[i]);
    free(answers);
    if (s == OK && w->broken) s = err_set(err, E_FAILED, "cannot write to standard output");
    return s;
}

static Status answer_to_file(GenerateJob *job, const Questions *q, RowWriter *w, Err *err)
{
    bool in_place;
    char *place = file_place(job->out, &in_place),
         *part = in_place ? xstrdup(place) : str_format("%s.tmp.%ld", place, (long)getpid());
    Status s = file_out_open(&w->file, part, err);
    if (s == OK) {
        w->to_file = true;
        s = answer(job, q, w, err);
        if (s == OK)
            s = file_out_close(&w->file, err);
        else
            file_out_abort(&w->file);
    }
    if (s == OK && !in_place) s = file_rename(part, place, err);
    if (s != OK && !in_place) unlink(part);
    free(part);
    free(place);
    return s;
}

static Status answer_all(GenerateJob *job, Questions *q, Err *err)
{
    int64_t longest;
    generate_add_eos(&job->opts, q->turn_end);
    TRY(answers_check(q, model_context(&job->cfg), &longest, err));
    for (int i = 0; job->out && i < q->n_files; i++)
        if (command_same_file(job->out, q->files[i]))
            return err_set(err, E_INPUT, "--out: %s is the file that is read", job->out);
    TRY(model_keeps_its_files(&job->model, job->out, err));
    TRY(generate_job_open(job, longest, err));
    RowWriter w = {.q = q, .field = job->out_field ? job->out_field : "generated"};
    Status s = job->out ? answer_to_file(job, q, &w, err) : answer(job, q, &w, err);
    strbuf_clear(&w.line);
    return s;
}

Status generate_rows(GenerateJob *job, Err *err)
{
    DataSource src = {0};
    Questions q = {0};
    Status s = data_flags_source(&src, &job->data, job->t, err);
    src.limit = job->limit;
    Pool *pool = pool_new((int)job->model.threads);
    if (s == OK) s = questions_open(&q, &src, 1, job->t, pool, &job->problems);
    pool_free(pool);
    if (s == OK) s = answer_all(job, &q, err);
    questions_clear(&q);
    data_source_clear(&src);
    return s;
}
