/* Loss and perplexity of a model over a data set, and ROUGE of its answers. */
#include "cli/answers.h"
#include "cli/eval_job.h"
#include "infer/perplexity.h"

#include <stdlib.h>

typedef struct Work {
    EvalJob *job;
    LlamaConfig cfg;
    Tokenizer *t;
    Pool *pool;
    Dataset *train, *eval; /* train: only beside a share taken out of it */
    Questions questions;
    GenerateOpts gen;
    OpenModel open;
} Work;

/* Rows that are tokens already need no tokenizer, and many folders with such rows have none. */
static bool needs_tokenizer(const EvalJob *job)
{
    bool all = job->sources != NULL && !job->rouge && !job->model.tokenizer;
    for (int i = 0; i < job->n_sources; i++)
        all &= job->sources[i].format == DATA_TOKENS;
    return !all;
}

/* A tokenizer's ids are the model's; without one nobody has looked. */
static Status check_ids(const Work *w, Err *err)
{
    for (int64_t i = 0; !w->t && i < dataset_size(w->eval); i++) {
        Document d = dataset_document(w->eval, i);
        for (int64_t k = 0; k < d.n; k++) {
            const bool bad_id = d.ids[k] >= w->cfg.vocab_size;
            if (!bad_id && d.labels[k] < w->cfg.vocab_size) continue;
            Status s = err_set(
                err, E_INPUT, "%s:%lld: %s[%lld]: %d is outside the model's vocabulary of %lld",
                d.at.file, (long long)d.at.line, bad_id ? "input_ids" : "labels", (long long)k,
                bad_id ? d.ids[k] : d.labels[k], (long long)w->cfg.vocab_size);
            return row_error(err, s, d.at.file, d.at.number);
        }
    }
    return OK;
}

static Status read_data(Work *w, Err *err)
{
    EvalJob *job = w->job;
    if (!job->sources) {
        TRY(dataset_open(&w->train, &w->eval, &job->opts, w->t, w->pool, &job->log,
                         &job->problems));
        if (w->eval) return OK;
        return err_set(err, E_INPUT,
                       "%s: data.eval: the config has no validation data; give --data",
                       job->config);
    }
    TRY(dataset_open_sources(&w->eval, job->sources, job->n_sources, &job->opts, w->t, w->pool,
                             &job->log, &job->problems));
    TRY(check_ids(w, err));
    if (!job->rouge) return OK;
    TRY(questions_open(&w->questions, job->sources, job->n_sources, w->t, w->pool, &job->problems));
    for (int64_t i = 0; i < w->questions.n; i++) {
        const Question *q = &w->questions.items[i];
        if (q->answer) continue;
        Status s = err_set(err, E_INPUT, "%s:%lld: has no answer to compare with", q->at.file,
                           (long long)q->at.line);
        return row_error(err, s, q->at.file, q->at.number);
    }
    return OK;
}

static bool on_progress(void *ud, int64_t done, int64_t total)
{
    Log *log = ud;
    if (!log_on_terminal(log)) return true;
    fprintf(log->to, "\r\033[Kloss: %lld/%lld", (long long)done, (long long)total);
    if (done == total) fputs("\r\033[K", log->to);
    fflush(log->to);
    log->line_open = done < total;
    return true;
}

static Status measure_loss(Work *w, Err *err)
{
    EvalJob *job = w->job;
    EvalResult *r = &job->result;
    PerplexityOpts opts = {.progress = on_progress, .ud = &job->log};
    if (job->has_cfg) opts.tokens_per_pass = job->cfg.eval_tokens;
    Perplexity p;
    Status s = perplexity_of(&p, &w->open.llama, w->eval, &job->opts, &opts, err);
    TRY(model_blame(&w->open, &job->model, s, err));
    r->has_loss = true;
    r->loss = p.loss;
    r->perplexity = p.perplexity;
    r->tokens = p.n_tokens;
    r->trained = p.n_trained;
    /* A split row is several documents; a row that trains on nothing is none, so that the rows that
     * --rouge lists may be more. */
    r->row_loss = dataset_report(w->eval)->split == 0 &&
                  (!job->rouge || w->questions.n == dataset_size(w->eval));
    for (int64_t i = 0; i < dataset_size(w->eval); i++) {
        Document d = dataset_document(w->eval, i);
        if (!job->rouge) eval_result_add(r, &d.at);
        if (!r->row_loss || i >= r->n) continue;
        r->rows[i].trained = p.doc_trained[i];
        r->rows[i].loss = p.doc_loss[i] / (double)(p.doc_trained[i] ? p.doc_trained[i] : 1);
    }
    perplexity_clear(&p);
    return OK;
}

/* For the loss.  A shorter row makes a pass smaller where one is longer than what goes together. */
static const char *loss_when_full(char *out, const Work *w)
{
    const EvalJob *job = w->job;
    const bool by_config = job->has_cfg;
    const int64_t longest = job->opts.max_length,
                  together = by_config ? job->cfg.eval_tokens : PERPLEXITY_TOKENS;
    const Advice all[] = {
        {by_config && together > longest, "a smaller eval.tokens"},
        {by_config, "a smaller data.max_length"},
        {!by_config && longest > together, "a smaller --max-length"},
        {!model_is_quantised(&job->model, &w->cfg), "--quantize nf4"},
        {true, "a device with more memory"},
    };
    return ADVICE_TEXT(out, all);
}

static Status measure_rouge(Work *w, Err *err)
{
    const Questions *q = &w->questions;
    char settings[ADVICE_MAX];
    bool quantised = model_is_quantised(&w->job->model, &w->cfg);
    device_when_full(&w->open.dev, gen_flags_when_full(settings, &w->gen, w->gen.batch, quantised));
    Generation *answers = xcalloc((size_t)q->n, sizeof *answers);
    Status s =
        answers_generate(answers, q, &w->open.llama, w->t, &w->gen, NULL, NULL, &w->job->log, err);
    s = model_blame(&w->open, &w->job->model, s, err);
    for (int64_t i = 0; i < q->n; i++) {
        EvalRow *row = &w->job->result.rows[i];
        if (s == OK) row->prediction = xstrdup(answers[i].text);
        generation_clear(&answers[i]);
    }
    free(answers);
    if (s == OK) eval_result_score(&w->job->result);
    return s;
}

static Status run(Work *w, Err *err)
{
    EvalJob *job = w->job;
    TRY(model_read_config(&w->cfg, needs_tokenizer(job) ? &w->t : NULL, &job->model, err));
    int64_t context = model_context(&w->cfg), longest = 0;
    const char *setting = job->has_cfg ? "data.max_length" : "--max-length";
    if (job->opts.max_length > context && w->cfg.sliding_window > 0)
        return err_set(err, E_INPUT, "%s: %lld tokens are more than the model's window of %lld",
                       setting, (long long)job->opts.max_length, (long long)context);
    if (job->opts.max_length > context)
        log_warn(&job->log, "%s: %lld tokens are more than the %lld positions of the model",
                 setting, (long long)job->opts.max_length, (long long)context);
    if (job->opts.max_length == 0) job->opts.max_length = context < 4096 ? context : 4096;
    w->pool = pool_new((int)job->model.threads);
    TRY(read_data(w, err));
    int64_t positions = job->opts.max_length;
    if (job->rouge) {
        TRY(gen_flags_apply(&w->gen, &job->gen, err));
        TRY(generate_load_eos(&w->gen, job->model.model, &w->cfg, w->t, err));
        generate_add_eos(&w->gen, w->questions.turn_end);
        TRY(answers_check(&w->questions, context, &longest, err));
        int64_t most = longest + w->gen.max_new_tokens;
        if (most > context) most = context;
        if (most > positions) positions = most;
        for (int64_t i = 0; i < w->questions.n; i++) {
            const Question *q = &w->questions.items[i];
            eval_result_add(&job->result, &q->at)->reference = xstrdup(q->answer);
        }
    }
    char settings[ADVICE_MAX];
    TRY(model_open(&w->open, &job->model, &w->cfg, positions, loss_when_full(settings, w),
                   &job->log, err));
    TRY(measure_loss(w, err));
    return job->rouge ? measure_rouge(w, err) : OK;
}

Status eval_model(EvalJob *job, Err *err)
{
    Work w = {.job = job};
    Status s = run(&w, err);
    model_close(&w.open);
    questions_clear(&w.questions);
    dataset_free(w.train);
    dataset_free(w.eval);
    pool_free(w.pool);
    tokenizer_free(w.t);
    return s;
}
