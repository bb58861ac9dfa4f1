/* Reads sources as questions: all rows' text first, then parsed and tokenised by all threads. */
#include "data/questions.h"

#include "base/fs.h"
#include "data/formats.h"
#include "data/jsonl.h"
#include "data/store.h"

#include <stdlib.h>
#include <string.h>

enum { TASK_ROWS = 128 };

typedef struct Work {
    const RowFormat *format;
    Question *questions; /* of this source */
    char **problems;     /* of its rows, or NULL each */
    int64_t n;
} Work;

static void run_row(const Work *w, int64_t i, FormatScratch *scratch)
{
    Question *q = &w->questions[i];
    Err err = {0};
    Json *json = NULL;
    TokenRow row = {0};
    Status s = json_parse(&json, q->row, q->n_row, q->at.file, (int)q->at.line,
                          JSON_REFUSE_DUPLICATES, &err);
    if (s == OK) {
        s = format_row_prompt(w->format, json, scratch, &row, &q->answer, &err);
        if (s != OK) s = err_wrap(&err, s, "%s:%lld", q->at.file, (long long)q->at.line);
    }
    json_free(json);
    if (s != OK) {
        row_error(&err, s, q->at.file, q->at.number);
        w->problems[i] = xstrdup(err.line);
        token_row_clear(&row);
        return;
    }
    StrBuf text = {0};
    if (w->format->src->format == DATA_TOKENS)
        tokenizer_decode(w->format->t, &text, row.ids, row.n, false);
    else
        render_print(&text, &scratch->r, w->format->t);
    q->text = strbuf_take(&text);
    q->ids = row.ids;
    q->n = row.n;
    free(row.labels);
}

static void run_task(void *ud, int64_t task)
{
    const Work *w = ud;
    FormatScratch scratch = {0};
    int64_t to = (task + 1) * TASK_ROWS < w->n ? (task + 1) * TASK_ROWS : w->n;
    for (int64_t i = task * TASK_ROWS; i < to; i++)
        run_row(w, i, &scratch);
    format_scratch_clear(&scratch);
}

/* limit: of q->n; 0: none. */
static Status read_rows(Questions *q, int64_t *cap, int64_t limit, const char *file, Err *err)
{
    RowReader *r;
    TRY(rows_open(&r, file, err));
    const char *text;
    size_t len;
    int64_t line;
    Status s = OK;
    while (limit == 0 || q->n < limit) {
        s = rows_next(r, &text, &len, &line, err);
        if (s != OK || !text) break;
        if (q->n == *cap) {
            *cap = *cap ? 2 * *cap : 1024;
            q->items = xrealloc(q->items, (size_t)*cap * sizeof *q->items);
        }
        char *row = xmalloc(len + 1);
        memcpy(row, text, len);
        row[len] = '\0';
        q->items[q->n++] = (Question){.row = row, .n_row = len, .at = {file, line, rows_number(r)}};
    }
    rows_close(r);
    return s;
}

static void read_source(Questions *q, const DataSource *src, const Tokenizer *t, Pool *pool,
                        Problems *problems)
{
    Err err = {0};
    RowFormat format;
    if (format_open(&format, src, TRAIN_ON_ANSWER, t, &err) != OK) {
        problems_add(problems, "%s: %s", src->path, err.line);
        return;
    }
    char **files;
    int n_files;
    int64_t first = q->n, cap = q->n, limit = src->limit > 0 ? first + src->limit : 0;
    if (source_files(&files, &n_files, src->path, &err) != OK) {
        problems_add(problems, "%s", err.line);
        format_close(&format);
        return;
    }
    q->files = xrealloc(q->files, (size_t)(q->n_files + n_files) * sizeof *q->files);
    memcpy(q->files + q->n_files, files, (size_t)n_files * sizeof *files);
    q->n_files += n_files;
    for (int i = 0; i < n_files; i++)
        if (read_rows(q, &cap, limit, files[i], &err) != OK) problems_add(problems, "%s", err.line);
    free(files);
    Work w = {.format = &format, .questions = q->items + first, .n = q->n - first};
    w.problems = xcalloc((size_t)w.n, sizeof *w.problems);
    if (w.n > 0) pool_run(pool, (w.n + TASK_ROWS - 1) / TASK_ROWS, run_task, &w);
    for (int64_t i = 0; i < w.n; i++) {
        if (w.problems[i]) problems_add_row(problems, "%s", w.problems[i]);
        free(w.problems[i]);
    }
    free(w.problems);
    if (format.as_chat) q->turn_end = format.chat.turn;
    format_close(&format);
}

Status questions_open(Questions *out, const DataSource *sources, int n, const Tokenizer *t,
                      Pool *pool, Problems *problems)
{
    Questions q = {.turn_end = -1};
    int before = problems->n + problems->n_dropped;
    for (int i = 0; i < n; i++)
        read_source(&q, &sources[i], t, pool, problems);
    if (q.n == 0 && problems->n + problems->n_dropped == before)
        problems_add(problems, "the data has no rows");
    if (problems->n + problems->n_dropped > before) {
        questions_clear(&q);
        return E_INPUT;
    }
    *out = q;
    return OK;
}

void questions_clear(Questions *q)
{
    for (int64_t i = 0; i < q->n; i++) {
        free(q->items[i].ids);
        free(q->items[i].text);
        free(q->items[i].answer);
        free(q->items[i].row);
    }
    free(q->items);
    if (q->files) dir_list_free(q->files, q->n_files);
    memset(q, 0, sizeof *q);
}
