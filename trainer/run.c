/* The run: resume, steps, evaluations, checkpoints, the result.  After step n the order is: metrics,
 * evaluation, checkpoint; so a checkpoint knows of everything that metrics.jsonl tells up to its step. */
#include "trainer/run.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/str.h"
#include "infer/perplexity.h"
#include "kernels/meter.h"
#include "trainer/final.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"
#include "trainer/run_lock.h"
#include "trainer/saving.h"
#include "trainer/step.h"
#include "trainer/stop.h"

#include <math.h>
#include <stdlib.h>

enum { PROFILED_STEP = 3 }; /* the first ones choose algorithms */

typedef struct Run {
    Session *s;
    const TrainConfig *c;
    Loader *loader;
    Stepper *stepper;
    Metrics *metrics;
    Schedule schedule;
    RunState state;
    int64_t total;
    Saving *saving;
    int64_t saved;      /* step of the newest checkpoint, be it under way; -1: none */
    int64_t to_profile; /* steps until the one that is timed, when asked for */
    int lock;
    const char *request; /* to stop, of this rank or another; or NULL */
    bool save_goes_on;   /* all ranks can take the next part of the save under way */
} Run;

/* ---- before the first step -------------------------------------------------------------------- */

static int64_t count_steps(Loader *l, const TrainConfig *c)
{
    if (c->max_steps > 0) return c->max_steps;
    int64_t n = 0;
    for (int64_t e = 0; e < c->epochs; e++)
        n += loader_steps(l, e);
    return n;
}

static int64_t share_of(double ratio, int64_t total)
{
    return (int64_t)ceil(ratio * (double)total);
}

static Schedule make_schedule(const TrainConfig *c, int64_t total)
{
    return (Schedule){.kind = (ScheduleKind)c->schedule,
                      .lr = c->lr,
                      .warmup_steps =
                          c->warmup_ratio > 0 ? share_of(c->warmup_ratio, total) : c->warmup_steps,
                      .min_ratio = c->min_lr_ratio,
                      .decay_steps = share_of(c->decay_ratio, total),
                      .decay = (DecayShape)c->decay_shape,
                      .total_steps = total,
                      .gamma = c->gamma};
}

/* Err's line as one about the key. */
static Status of_resume(const TrainConfig *c, Status s, Err *err)
{
    if (s != E_INPUT) return s;
    char *where = config_where(c, "resume");
    err_wrap(err, s, "%s: resume", where);
    free(where);
    return s;
}

/* The checkpoint to begin with, or NULL. */
static Status choose_start(Run *r, char **path, Err *err)
{
    *path = NULL;
    Status s = session_leads(r->s) ? checkpoint_clean(r->c, err) : OK;
    TRY(comm_agree(r->s->hosts, s, err));
    return of_resume(r->c, checkpoint_choose(path, r->s, err), err);
}

/* Not before the one to go on from fits the config: a run that is refused leaves everything where it was. */
static Status set_aside(Run *r, Err *err)
{
    Session *s = r->s;
    Status status = session_leads(s) ? checkpoint_set_aside(r->c, r->state.step, s->log, err) : OK;
    return comm_agree(s->hosts, status, err);
}

static Status check_length(const TrainConfig *c, int64_t total, int64_t step, const char *path,
                           Problems *p)
{
    if (step <= total) return OK;
    config_problem(c, p, c->max_steps > 0 ? "train.max_steps" : "train.epochs",
                   "%lld steps, and %s is of step %lld; give as many or more, or another output",
                   (long long)total, path, (long long)step);
    return E_INPUT;
}

Status trainer_check_length(const Session *s, int64_t step, const char *path, Problems *problems)
{
    Loader *l = loader_new(s->train, &s->cfg->data, (uint64_t)s->cfg->seed, s->cfg->batch_global);
    int64_t total = count_steps(l, s->cfg);
    loader_free(l);
    return check_length(s->cfg, total, step, path, problems);
}

static bool out_of_patience(const Run *r)
{
    return r->c->early_stop_patience > 0 && r->state.evals_since_best >= r->c->early_stop_patience;
}

static Status resume(Run *r, Problems *problems, Err *err)
{
    char *path;
    TRY(choose_start(r, &path, err));
    if (!path) return OK;
    Status s = checkpoint_load(r->s, &r->state, path, problems);
    if (s == OK) s = check_length(r->c, r->total, r->state.step, path, problems);
    if (s == OK && str_eq(r->c->resume, "auto")) s = set_aside(r, err);
    if (s == OK) {
        RunState *st = &r->state;
        r->saved = st->step;
        st->stopped = st->stopped && out_of_patience(r);
        if (st->stopped)
            log_info(r->s->log,
                     "stopped early at step %lld: no better evaluation since step %lld; "
                     "a larger eval.patience goes on",
                     (long long)st->step, (long long)st->best_step);
        log_info(r->s->log, "continuing from %s, step %lld of %lld", path, (long long)r->state.step,
                 (long long)r->total);
    }
    free(path);
    return s;
}

static Status write_config(const TrainConfig *c, Err *err)
{
    StrBuf b = {0};
    config_write(&b, c);
    char *path = path_join(c->output, "config.yaml");
    Status s = file_write_atomic(path, b.data, b.len, err);
    free(path);
    strbuf_clear(&b);
    return s;
}

static Status take_output(Run *r, Err *err)
{
    TRY(dir_make(r->c->output, err));
    return run_lock_take(&r->lock, r->c->output, err);
}

static void tell_saved(void *ud, const SaveRecord *saved)
{
    Run *r = ud;
    if (r->metrics) metrics_save(r->metrics, saved);
}

static Status run_open(Run *r, Session *s, bool terminal, Problems *problems, Err *err)
{
    const TrainConfig *c = s->cfg;
    *r = (Run){.s = s, .c = c, .saved = -1, .lock = -1};
    r->loader = loader_new(s->train, &c->data, (uint64_t)c->seed, c->batch_global);
    r->total = count_steps(r->loader, c);
    r->schedule = make_schedule(c, r->total);
    TRY(comm_agree(s->hosts, session_leads(s) ? take_output(r, err) : OK, err));
    TRY(resume(r, problems, err));
    TRY(comm_agree(s->hosts, saving_new(&r->saving, s, tell_saved, r, err), err));
    TRY(comm_agree(s->hosts, session_leads(s) ? write_config(c, err) : OK, err));
    int64_t left = r->total - r->state.step;
    r->to_profile = left < PROFILED_STEP ? left : PROFILED_STEP;
    StepOpts opts = step_opts(c);
    if (c->method == METHOD_FULL && c->precision == PRECISION_BF16)
        log_info(s->log, "gradients in %s, AdamW %s",
                 c->gradients == PRECISION_BF16 ? "bf16" : "fp32",
                 opts.update.in_backward ? "within backward" : "after it");
    r->stepper = stepper_new(&s->model, &s->shards, r->loader, &opts, s->trace);
    Status status = OK;
    if (session_leads(s))
        status = metrics_open(&r->metrics, c, r->saved, r->total, s->log, terminal, err);
    return comm_agree(s->hosts, status, err);
}

static Status run_close(Run *r, Status s, Err *err)
{
    Err closing = {0};
    Status saved = r->saving ? saving_finish(r->saving, &closing) : OK;
    if (s == OK && saved != OK) s = err_set(err, saved, "%s", closing.line);
    saving_free(r->saving);
    Status closed = metrics_close(r->metrics, &closing);
    stepper_free(r->stepper);
    loader_free(r->loader);
    run_lock_give(r->lock);
    if (s == OK && closed != OK) s = err_set(err, closed, "%s", closing.line);
    return comm_agree(r->s->hosts, s, err);
}

/* ---- a step ----------------------------------------------------------------------------------- */

static double epoch_now(Run *r)
{
    int64_t n = loader_steps(r->loader, r->state.epoch);
    return (double)r->state.epoch + (n > 0 ? (double)r->state.epoch_step / (double)n : 0.0);
}

static Status not_finite(Run *r, const StepResult *res, Err *err)
{
    char blame[512];
    stepper_blame(r->stepper, res, blame, sizeof blame);
    Err ignored = {0};
    Status saved = saving_finish(r->saving, &ignored);
    (void)saved; /* what is there tells what became of it */
    int64_t newest = checkpoint_highest(r->c);
    char *last = newest >= 0 ? checkpoint_path(r->c, newest) : NULL;
    Status s = err_set(
        err, E_FAILED, "step %lld: %s; %s; %s%s", (long long)r->state.step + 1, blame,
        res->changed ? "stopped in the middle of the update, the next start continues from the "
                       "last checkpoint"
                     : "stopped before the optimizer, nothing was changed",
        last ? "the last checkpoint is " : "there is no checkpoint", last ? last : "");
    free(last);
    return s;
}

static Status step(Run *r, Err *err)
{
    RunState *st = &r->state;
    while (st->epoch_step >= loader_steps(r->loader, st->epoch)) {
        st->epoch++;
        st->epoch_step = 0;
    }
    double lr = schedule_rate(&r->schedule, st->step, st->epoch), began = seconds_monotonic();
    Meter *profile = r->to_profile-- == 1 ? r->s->profile : NULL;
    if (profile) meter_attach(profile, &r->s->dev, NULL, true);
    StepResult res = stepper_run(r->stepper, st->epoch, st->epoch_step, lr, st->step + 1);
    if (profile) meter_detach(profile, &r->s->dev);
    if (!res.finite) return not_finite(r, &res, err);
    st->recent[st->step % RECENT_LOSSES] = res.loss;
    st->step++;
    st->epoch_step++;
    st->samples += res.info.n_docs;
    if (r->metrics)
        metrics_step(r->metrics, &(StepRecord){.step = st->step,
                                               .epoch = epoch_now(r),
                                               .loss = res.loss,
                                               .grad_norm = res.grad_norm,
                                               .lr = lr,
                                               .tokens = res.info.n_tokens,
                                               .step_time = seconds_monotonic() - began,
                                               .consumed_samples = st->samples,
                                               .peak_bytes = r->s->dev.mem.peak_total,
                                               .allocated_bytes = r->s->dev.mem.live_total});
    return OK;
}

/* ---- evaluation and checkpoints --------------------------------------------------------------- */

/* What a rank tells the others at a step boundary. */
typedef struct Word {
    char stop, saving;
} Word;

/* Whether some rank was asked to stop: all stop at the same place. */
static bool stop_asked(Run *r)
{
    Comm *ranks = r->s->hosts;
    const char *here = stop_requested();
    if (here) r->request = here;
    Word mine = {here != NULL, (char)saving_stage(r->saving)};
    Word *all = xmalloc((size_t)ranks->size * sizeof *all);
    char *stages = xmalloc((size_t)ranks->size);
    comm_exchange(ranks, all, &mine, sizeof mine);
    for (int i = 0; i < ranks->size; i++) {
        if (all[i].stop && !r->request) r->request = "a request to another rank";
        stages[i] = all[i].saving;
    }
    r->save_goes_on = saving_can_go_on(stages, ranks->size);
    free(all);
    free(stages);
    return r->request != NULL;
}

static bool unless_stopped(void *ud, int64_t done, int64_t total)
{
    (void)done, (void)total;
    return !stop_asked(ud);
}

/* *improved: the lowest loss so far.  A request to stop ends it without a trace: the next start evaluates anew. */
static Status evaluate(Run *r, bool *improved, Err *err)
{
    RunState *st = &r->state;
    double began = seconds_monotonic();
    PerplexityOpts opts = {.tokens_per_pass = r->c->eval_tokens,
                           .progress = unless_stopped,
                           .ud = r,
                           .ranks = &r->s->comm};
    Perplexity p;
    shards_begin_pass(&r->s->shards, false);
    Status s = perplexity_of(&p, &r->s->model, r->s->eval, &r->c->data, &opts, err);
    shards_end_pass(&r->s->shards);
    char blame[512];
    if (s == E_FAILED && stepper_blame_weights(r->stepper, blame, sizeof blame))
        err_set(err, s, "%s", blame);
    if (s != OK) return err_wrap(err, s, "evaluation after step %lld", (long long)st->step);
    if (p.given_up) {
        *improved = false;
        perplexity_clear(&p);
        return OK;
    }
    st->evaluated = st->step;
    *improved = st->best_step == 0 || p.loss < st->best_loss;
    if (st->step == 0) {
        *improved = false; /* nothing is trained yet: a point to compare with */
    } else if (*improved) {
        st->best_loss = p.loss;
        st->best_step = st->step;
        st->evals_since_best = 0;
    } else {
        st->evals_since_best++;
    }
    if (r->metrics)
        metrics_eval(r->metrics, &(EvalRecord){.step = st->step,
                                               .epoch = epoch_now(r),
                                               .loss = p.loss,
                                               .tokens = p.n_trained,
                                               .time = seconds_monotonic() - began});
    perplexity_clear(&p);
    return OK;
}

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static bool evaluation_due(const Run *r)
{
    const RunState *st = &r->state;
    return r->s->eval && st->evaluated < st->step &&
           (due(r->c->eval_every, st->step) || (st->step >= r->total && r->c->eval_at_end));
}

static Status save(Run *r, Err *err)
{
    r->saved = r->state.step;
    return saving_start(r->saving, &r->state, err);
}

static Status after_step(Run *r, Err *err)
{
    const TrainConfig *c = r->c;
    RunState *st = &r->state;
    bool last = st->step >= r->total, improved = false;
    if (evaluation_due(r)) {
        TRY(evaluate(r, &improved, err));
        st->stopped = !last && out_of_patience(r);
        if (st->stopped)
            log_info(r->s->log, "no better evaluation since step %lld: stopping early",
                     (long long)st->best_step);
    }
    bool wanted = due(c->save_every, st->step) || (c->save_every > 0 && (last || st->stopped)) ||
                  (c->save_best && improved);
    return wanted ? save(r, err) : OK;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static Status finish(Run *r, RunResult *out, Err *err)
{
    RunState *st = &r->state;
    if (r->c->save_final == FINAL_BEST && st->best_step > 0 && st->best_step != st->step) {
        char *best = checkpoint_path(r->c, st->best_step);
        Status s = checkpoint_load_weights(r->s, best, err);
        free(best);
        TRY(s);
    }
    TRY(final_write(r->s, saving_saver(r->saving), err));
    out->steps = st->step;
    out->n_mean = st->step < RECENT_LOSSES ? (int)st->step : RECENT_LOSSES;
    out->mean_loss = 0;
    for (int i = 0; i < out->n_mean; i++)
        out->mean_loss += st->recent[i] / out->n_mean;
    out->hash = shards_hash(&r->s->shards);
    out->stopped_early = st->stopped;
    out->best_step = st->best_step;
    out->best_loss = st->best_loss;
    return OK;
}

static bool at_end(const Run *r)
{
    return (r->state.step >= r->total || r->state.stopped) && !evaluation_due(r);
}

/* To the last step, or to *request (NULL otherwise) with a checkpoint of where the run stands. */
static Status train(Run *r, const char **request, Err *err)
{
    bool ignored;
    *request = NULL;
    if (r->state.step == 0 && r->c->eval_at_start && r->s->eval) TRY(evaluate(r, &ignored, err));
    if (evaluation_due(r)) TRY(after_step(r, err)); /* that a request to stop cut short */
    while (!at_end(r) && !stop_asked(r)) {
        if (r->save_goes_on) TRY(saving_go_on(r->saving, err));
        TRY(step(r, err));
        TRY(after_step(r, err));
    }
    if (!at_end(r)) *request = r->request;
    if (*request && r->saved != r->state.step) TRY(save(r, err));
    return saving_finish(r->saving, err);
}

Status trainer_run(Session *s, bool terminal, RunResult *out, Problems *problems, Err *err)
{
    Run r;
    *out = (RunResult){0};
    Status status = run_open(&r, s, terminal, problems, err);
    out->resumed_from = r.state.step;
    stop_listen_terminal();
    if (status == OK) status = train(&r, &out->stop_request, err);
    if (status == OK && out->stop_request)
        out->steps = r.state.step;
    else if (status == OK)
        status = finish(&r, out, err);
    return run_close(&r, status, err);
}
