/* Reads a source: rows in file order by one thread, parsed and tokenised by all, joined in file order
 * again, so that the result does not depend on how many threads there are. */
#include "data/store.h"

#include "base/hash.h"
#include "data/dataset_cache.h"
#include "data/formats.h"
#include "data/jsonl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BATCH_ROWS = 4096, TASKS_PER_THREAD = 4 };
static const size_t BATCH_BYTES = (size_t)16 << 20;

/* A row on its way.  out: its documents' tokens, one behind the other. */
typedef struct Job {
    char *text;
    size_t len;
    RowAt at;
    TokenRow out;
    DocEntry *docs; /* .start counts from the row's first token */
    int n_docs;
    bool untrained, empty_answer, spells;
    char *problem;
} Job;

typedef struct Build {
    const DataOpts *opts;
    const RowFormat *format;
    const char *file;
    bool lines; /* the file has a row a line */
    Overlong overlong;
    bool any_length;
    Job *jobs;
    int n_jobs;
    /* One per task, kept from batch to batch: the tokenizer's cache of words lies in it. */
    FormatScratch *scratch;
    int n_tasks;
    TokenStore *store;
    int64_t cap_docs, cap_tokens;
    int64_t n_rows; /* read, of all files */
    Problems *problems;
} Build;

/* --- one row, on any thread ---------------------------------------------------------------- */

static int64_t count_trained(const int32_t *labels, int64_t n)
{
    int64_t trained = 0;
    for (int64_t i = 1; i < n; i++)
        trained += labels[i] != UNTRAINED;
    return trained;
}

/* Adds tokens [from, to) of `row` as one document, behind `context` (a token, or -1), unless it trains on
 * nothing. */
static void add_document(Job *job, const TokenRow *row, int64_t from, int64_t to, int32_t context,
                         int piece)
{
    TokenRow *out = &job->out;
    int64_t start = out->n;
    if (context >= 0) token_row_push(out, context, UNTRAINED);
    for (int64_t i = from; i < to; i++)
        token_row_push(out, row->ids[i], row->labels[i]);
    int64_t n = out->n - start, trained = count_trained(out->labels + start, n);
    if (trained == 0) {
        out->n = start;
        return;
    }
    job->docs = xrealloc(job->docs, (size_t)(job->n_docs + 1) * sizeof *job->docs);
    uint64_t hash = hash64(out->ids + start, (size_t)n * sizeof *out->ids, 1);
    hash = hash64(out->labels + start, (size_t)n * sizeof *out->labels, hash);
    job->docs[job->n_docs++] = (DocEntry){.start = start,
                                          .at = job->at,
                                          .hash = hash,
                                          .n = (int32_t)n,
                                          .n_trained = (int32_t)trained,
                                          .piece = piece};
}

static void split_row(const Build *b, Job *job, const TokenRow *row)
{
    int bos = b->format->bos;
    bool has_bos = bos >= 0 && row->ids[0] == bos;
    int64_t max = b->opts->max_length, kept = 0;
    int piece = 1;
    for (int64_t from = 0; from < row->n; piece++) {
        int32_t context = from == 0 ? -1 : has_bos ? bos : row->ids[from - 1];
        int64_t room = context >= 0 ? max - 1 : max;
        int64_t to = row->n - from < room ? row->n : from + room;
        int before = job->n_docs;
        add_document(job, row, from, to, context, piece);
        if (job->n_docs > before) kept += to - from;
        from = to;
    }
    if (job->n_docs > 0) job->docs[0].dropped = (int32_t)(row->n - kept);
}

static Status finish_row(const Build *b, Job *job, const TokenRow *row, Err *err)
{
    int64_t max = b->opts->max_length;
    bool too_long = !b->any_length && row->n > max;
    const char *why = "";
    if (!too_long) {
        add_document(job, row, 0, row->n, -1, 0);
    } else if (b->overlong == OVERLONG_SPLIT) {
        split_row(b, job, row);
    } else if (b->overlong == OVERLONG_TRUNCATE) {
        add_document(job, row, 0, max, -1, 0);
        if (job->n_docs) job->docs[0].dropped = (int32_t)(row->n - max);
        why = ": its prompt alone fills max_length";
    } else {
        return err_set(err, E_INPUT,
                       "%s:%lld: the document has %lld tokens, max_length is %lld; raise "
                       "it, or set overlong to truncate or split",
                       b->file, (long long)job->at.line, (long long)row->n, (long long)max);
    }
    job->untrained = job->n_docs == 0;
    if (job->untrained && !b->opts->allow_untrained)
        return err_set(err, E_INPUT,
                       "%s:%lld: the row trains on nothing%s; leave it out, or skip such "
                       "rows with allow_untrained",
                       b->file, (long long)job->at.line, why);
    job->empty_answer = job->n_docs == 1 && job->docs[0].n_trained == 1 && row->n > 0 &&
                        row->labels[row->n - 1] == b->format->eos && !too_long;
    return OK;
}

/* An object over several lines is the usual mistake. */
static const char *cut_hint(const Build *b, const Job *job)
{
    size_t n = job->len;
    while (n > 0 && strchr(" \t\r", job->text[n - 1]) && job->text[n - 1])
        n--;
    if (!b->lines || (n > 0 && job->text[n - 1] == '}')) return "";
    return "; each line must be one whole object (or the file one array of objects)";
}

static void run_task(void *ud, int64_t task)
{
    Build *b = ud;
    FormatScratch *scratch = &b->scratch[task];
    TokenRow row = {0};
    int from = (int)(task * b->n_jobs / b->n_tasks),
        to = (int)((task + 1) * b->n_jobs / b->n_tasks);
    for (int i = from; i < to; i++) {
        Job *job = &b->jobs[i];
        Err err = {0};
        Json *json = NULL;
        row.n = 0;
        Status s = json_parse(&json, job->text, job->len, b->file, (int)job->at.line,
                              JSON_REFUSE_DUPLICATES, &err);
        if (s == OK) {
            scratch->spells = false;
            s = format_row(b->format, json, scratch, &row, &err);
            job->spells = scratch->spells;
            if (s != OK) s = err_wrap(&err, s, "%s:%lld", b->file, (long long)job->at.line);
        }
        json_free(json);
        const char *hint = s == OK ? "" : cut_hint(b, job);
        if (s == OK) s = finish_row(b, job, &row, &err);
        if (s == OK) continue;
        row_error(&err, s, b->file, job->at.number);
        job->problem = str_format("%s%s", err.line, hint);
    }
    token_row_clear(&row);
}

/* --- joining ------------------------------------------------------------------------------- */

static void append_job(Build *b, Job *job)
{
    TokenStore *s = b->store;
    int64_t row = s->stats.rows++;
    if (job->problem) {
        problems_add_row(b->problems, "%s", job->problem);
        return;
    }
    if (job->untrained) {
        if (s->stats.untrained++ == 0) s->stats.first_untrained = job->at;
        return;
    }
    s->stats.empty_answers += job->empty_answer;
    if (job->spells && s->stats.spelled++ == 0) s->stats.first_spelled = job->at;
    int64_t n = job->out.n;
    if (s->n_tokens + n > b->cap_tokens) {
        b->cap_tokens = 2 * (s->n_tokens + n);
        s->ids = xrealloc(s->ids, (size_t)b->cap_tokens * sizeof *s->ids);
        s->labels = xrealloc(s->labels, (size_t)b->cap_tokens * sizeof *s->labels);
    }
    if (s->n_docs + job->n_docs > b->cap_docs) {
        b->cap_docs = 2 * (s->n_docs + job->n_docs);
        s->docs = xrealloc(s->docs, (size_t)b->cap_docs * sizeof *s->docs);
    }
    memcpy(s->ids + s->n_tokens, job->out.ids, (size_t)n * sizeof *s->ids);
    memcpy(s->labels + s->n_tokens, job->out.labels, (size_t)n * sizeof *s->labels);
    for (int i = 0; i < job->n_docs; i++) {
        DocEntry d = job->docs[i];
        d.start += s->n_tokens;
        d.row = row;
        s->docs[s->n_docs++] = d;
    }
    s->n_tokens += n;
}

static void run_batch(Build *b, Pool *pool)
{
    pool_run(pool, b->n_tasks, run_task, b);
    for (int i = 0; i < b->n_jobs; i++) {
        Job *job = &b->jobs[i];
        append_job(b, job);
        token_row_clear(&job->out);
        free(job->docs);
        free(job->text);
        free(job->problem);
    }
    b->n_jobs = 0;
}

static Status read_file(Build *b, int file, Pool *pool, Err *err)
{
    RowReader *r;
    TRY(rows_open(&r, b->file, err));
    b->lines = !rows_are_array(r);
    Status status;
    const char *text;
    size_t len, bytes = 0;
    int64_t line;
    while ((status = rows_next(r, &text, &len, &line, err)) == OK && text) {
        if (b->format->src->limit > 0 && b->n_rows == b->format->src->limit) break;
        b->n_rows++;
        char *copy = xmalloc(len + 1); /* a row may hold NUL bytes */
        memcpy(copy, text, len);
        b->jobs[b->n_jobs++] = (Job){.text = copy, .len = len, .at = {file, line, rows_number(r)}};
        bytes += len;
        if (b->n_jobs == BATCH_ROWS || bytes > BATCH_BYTES) {
            run_batch(b, pool);
            bytes = 0;
        }
    }
    run_batch(b, pool);
    rows_close(r);
    return status;
}

static void build(TokenStore *store, const RowFormat *format, const DataOpts *opts, Pool *pool,
                  Problems *problems)
{
    Build b = {.opts = opts,
               .format = format,
               .overlong = opts->overlong,
               .any_length = opts->packing == PACK_CONCAT,
               .store = store,
               .problems = problems};
    b.jobs = xmalloc(BATCH_ROWS * sizeof *b.jobs);
    b.n_tasks = TASKS_PER_THREAD * (pool ? pool_size(pool) : 1);
    b.scratch = xcalloc((size_t)b.n_tasks, sizeof *b.scratch);
    int64_t limit = format->src->limit;
    for (int i = 0; i < store->n_files && (limit == 0 || b.n_rows < limit); i++) {
        Err err = {0};
        b.file = store->files[i];
        int64_t rows = store->stats.rows;
        Status s = read_file(&b, i, pool, &err);
        if (s != OK)
            problems_add(problems, "%s", err.line);
        else if (store->stats.rows == rows)
            problems_add(problems, "%s: no rows", b.file);
    }
    for (int i = 0; i < b.n_tasks; i++)
        format_scratch_clear(&b.scratch[i]);
    free(b.scratch);
    free(b.jobs);
}

/* --- files and settings -------------------------------------------------------------------- */

static bool is_data_file(const char *name)
{
    static const char *const ends[] = {".json", ".jsonl", ".json.gz", ".jsonl.gz"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (str_ends(name, ends[i])) return true;
    return false;
}

Status source_files(char ***files, int *n, const char *path, Err *err)
{
    if (!path_is_dir(path)) {
        *files = xmalloc(sizeof **files);
        (*files)[0] = xstrdup(path);
        *n = 1;
        return OK;
    }
    char **names;
    int n_names, kept = 0;
    TRY(dir_list(&names, &n_names, path, err));
    for (int i = 0; i < n_names; i++) {
        char *full = path_join(path, names[i]);
        bool take = is_data_file(names[i]) && !path_is_dir(full);
        free(names[i]);
        if (take)
            names[kept++] = full;
        else
            free(full);
    }
    if (kept == 0) {
        free(names);
        return err_set(err, E_INPUT,
                       "%s: the folder has no .json, .jsonl, .json.gz or .jsonl.gz file", path);
    }
    *files = names;
    *n = kept;
    return OK;
}

static void add_text(StrBuf *b, const char *key, const char *value)
{
    strbuf_printf(b, "%s %zu %s\n", key, value ? strlen(value) + 1 : 0, value ? value : "");
}

/* All that decides the tokens besides the files' bytes. */
static void settings_text(StrBuf *b, const DataSource *src, const DataOpts *o, const Tokenizer *t)
{
    strbuf_printf(b, "format %d template %d train_on %d untrained %d length %lld overlong %d\n",
                  (int)src->format, (int)src->chat, (int)o->train_on, o->allow_untrained,
                  o->packing == PACK_CONCAT ? 0LL : (long long)o->max_length,
                  o->packing == PACK_CONCAT ? -1 : (int)o->overlong);
    add_text(b, "prompt", src->prompt);
    add_text(b, "system", src->system);
    for (int i = 0; i < src->n_fields; i++) {
        add_text(b, "from", src->fields[i].from);
        add_text(b, "to", src->fields[i].to);
    }
    if (src->limit > 0) strbuf_printf(b, "limit %lld\n", (long long)src->limit);
    if (!t) return;
    strbuf_printf(b, "tokenizer %016llx\n", (unsigned long long)tokenizer_hash(t));
    add_text(b, "model template", tokenizer_chat_template(t)); /* may bring a default system text */
}

/* A pipe can be read once, and not for its key. */
static bool are_regular(const TokenStore *s)
{
    struct stat st;
    for (int i = 0; i < s->n_files; i++)
        if (stat(s->files[i], &st) == 0 && !S_ISREG(st.st_mode)) return false;
    return true;
}

static Status cache_key(CacheKey *key, const TokenStore *s, const DataSource *src,
                        const DataOpts *opts, const Tokenizer *t, Err *err)
{
    StrBuf b = {0};
    settings_text(&b, src, opts, t);
    for (int i = 0; i < s->n_files; i++) {
        FileMap m;
        Status status = file_map(&m, s->files[i], err);
        if (status != OK) {
            strbuf_clear(&b);
            return status;
        }
        strbuf_printf(&b, "file %zu %016llx %016llx\n", m.len,
                      (unsigned long long)hash64(m.data, m.len, 1),
                      (unsigned long long)hash64(m.data, m.len, 2));
        file_unmap(&m);
    }
    key->v[0] = hash64(b.data, b.len, 1);
    key->v[1] = hash64(b.data, b.len, 2);
    strbuf_clear(&b);
    return OK;
}

static void warn_template(const RowFormat *f, Log *log)
{
    if (!f->t) return;
    ChatTemplate own = chat_template_guess(f->t);
    if (f->as_chat && own != TEMPLATE_DEFAULT && own != f->src->chat)
        log_warn(log, "%s: the template is %s, the model's own looks like %s", f->src->path,
                 chat_template_name(f->src->chat), chat_template_name(own));
    if (f->as_chat && own == TEMPLATE_DEFAULT && tokenizer_chat_template(f->t))
        log_warn(
            log,
            "%s: the model's own template is none that lorac knows: conversations are written as "
            "%s, which may differ from it",
            f->src->path, chat_template_name(f->src->chat));
    if (f->chat.default_system[0] && !f->src->system)
        log_verbose(log, "%s: conversations without a system message get the model's own: \"%s\"",
                    f->src->path, f->chat.default_system);
    if (f->eos < 0 && !f->as_chat && f->src->format != DATA_TOKENS)
        log_warn(log, "%s: the tokenizer has no EOS: answers will not end", f->src->path);
}

static void source_problem(Problems *p, const DataSource *src, const char *line)
{
    if (src->line > 0)
        problems_add(p, "%s (data set at line %d of the config): %s", src->path, src->line, line);
    else
        problems_add(p, "%s: %s", src->path, line);
}

Status store_open(TokenStore *out, const DataSource *src, const DataOpts *opts, const Tokenizer *t,
                  Pool *pool, Log *log, Problems *problems)
{
    Err err = {0};
    TokenStore s = {0};
    RowFormat format;
    if (format_open(&format, src, opts->train_on, t, &err) != OK) {
        source_problem(problems, src, err.line);
        return E_INPUT;
    }
    CacheKey key = {{0, 0}};
    bool cached = opts->cache_dir != NULL;
    Status status = source_files(&s.files, &s.n_files, src->path, &err);
    cached = cached && are_regular(&s);
    if (status == OK && cached) status = cache_key(&key, &s, src, opts, t, &err);
    int before = problems->n + problems->n_dropped;
    if (status != OK) {
        problems_add(problems, "%s", err.line);
    } else {
        warn_template(&format, log);
        if (!cached || !cache_load(&s, opts->cache_dir, key, format_vocab_size(t), log)) {
            build(&s, &format, opts, pool, problems);
            cached = cached && problems->n + problems->n_dropped == before;
            if (cached) cache_save(&s, opts->cache_dir, key, log);
        }
    }
    format_close(&format);
    if (problems->n + problems->n_dropped > before) {
        store_clear(&s);
        return E_INPUT;
    }
    *out = s;
    return OK;
}

void store_clear(TokenStore *s)
{
    if (s->from_cache) {
        file_unmap(&s->map);
    } else {
        free(s->docs);
        free(s->ids);
        free(s->labels);
    }
    if (s->files) dir_list_free(s->files, s->n_files);
    memset(s, 0, sizeof *s);
}
