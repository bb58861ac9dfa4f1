/* A summary without a model: the first turn of the dialogue. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/eval_job.h"
#include "data/formats.h"
#include "data/jsonl.h"
#include "data/store.h"

#include <string.h>

static const char *field_name(const DataSource *src, const char *name)
{
    for (int i = 0; i < src->n_fields; i++)
        if (str_eq(src->fields[i].from, name)) return src->fields[i].to;
    return name;
}

/* The first line that holds more than white space, without its line end. */
static char *first_turn(const char *dialogue)
{
    const char *from = dialogue + strspn(dialogue, " \t\r\n");
    size_t n = strcspn(from, "\r\n");
    return xstrndup(from, n);
}

static Status add_row(EvalResult *r, const DataSource *src, const Json *row, const RowPlace *at,
                      Err *err)
{
    const char *dialogue, *summary;
    size_t n;
    TRY(format_string(row, "dialogue", field_name(src, "dialogue"), true, &dialogue, &n, err));
    TRY(format_string(row, "summary", field_name(src, "summary"), true, &summary, &n, err));
    EvalRow *e = eval_result_add(r, at);
    e->prediction = first_turn(dialogue);
    e->reference = xstrdup(summary);
    return OK;
}

static Status read_file(EvalJob *job, const DataSource *src, int64_t end, const char *file,
                        Err *err)
{
    RowReader *rows;
    TRY(rows_open(&rows, file, err));
    Status s = OK;
    while (s == OK && (end == 0 || job->result.n < end)) {
        const char *text;
        size_t len;
        int64_t line;
        Json *row = NULL;
        s = rows_next(rows, &text, &len, &line, err);
        if (s != OK || !text) break;
        s = json_parse(&row, text, len, file, (int)line, JSON_REFUSE_DUPLICATES, err);
        if (s == OK) {
            s = add_row(&job->result, src, row, &(RowPlace){file, line, rows_number(rows)}, err);
            if (s != OK) s = err_wrap(err, s, "%s:%lld", file, (long long)line);
        }
        if (s != OK) row_error(err, s, file, rows_number(rows));
        json_free(row);
    }
    rows_close(rows);
    return s;
}

Status eval_baseline(EvalJob *job, Err *err)
{
    if (!str_eq(job->baseline, "first-turn"))
        return err_set(err, E_INPUT, "--baseline: '%s' is none; there is first-turn",
                       job->baseline);
    for (int i = 0; i < job->n_sources; i++) {
        const DataSource *src = &job->sources[i];
        if (src->format != DATA_SAMSUM)
            return err_set(err, E_INPUT, "--baseline: first-turn needs --format samsum, not %s",
                           format_name(src->format));
        char **files;
        int n_files;
        TRY(source_files(&files, &n_files, src->path, err));
        Status s = OK;
        int64_t end = src->limit > 0 ? job->result.n + src->limit : 0;
        for (int k = 0; s == OK && k < n_files; k++)
            s = read_file(job, src, end, files[k], err);
        dir_list_free(files, n_files);
        TRY(s);
    }
    if (job->result.n == 0) return err_set(err, E_INPUT, "--baseline: the data has no rows");
    eval_result_score(&job->result);
    return OK;
}
