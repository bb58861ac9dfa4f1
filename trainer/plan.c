/* Planning: the shapes that a run will meet, the largest of them through the step, and what to change when that
 * is too much. */
#include "trainer/plan.h"

#include "base/meminfo.h"
#include "base/str.h"
#include "infer/perplexity.h"
#include "tensor/region.h"
#include "trainer/step.h"

#include <stdlib.h>
#include <string.h>

/* Documents looked at over all epochs, and shapes run: plenty for any fine-tuning set, and seconds at most. */
enum { MAX_DOCS_SEEN = 20 << 20, MAX_FRONT = 512, MAX_TRIED = 128 };

/* train.recompute auto leaves this part of the device free: blocks may lie a little worse in the run than in its plan. */
enum { ROOM_FOR_AUTO = 100 };

static const double GIB = 1024.0 * 1024.0 * 1024.0;

/* ---- the shapes of a run ---------------------------------------------------------------------- */

typedef struct Shape {
    int64_t epoch, row, n_rows; /* where the micro-batch is */
    int64_t tokens, trained, docs;
} Shape;

/* Those that no other one exceeds in everything. */
typedef struct Front {
    Shape items[MAX_FRONT];
    int n;
    int64_t seen;
} Front;

static bool covers(const Shape *a, const Shape *b)
{
    return a->tokens >= b->tokens && a->trained >= b->trained && a->docs >= b->docs;
}

static void front_add(Front *f, const Shape *s)
{
    f->seen++;
    for (int i = 0; i < f->n; i++)
        if (covers(&f->items[i], s)) return;
    int n = 0;
    for (int i = 0; i < f->n; i++)
        if (!covers(s, &f->items[i])) f->items[n++] = f->items[i];
    f->n = n;
    if (f->n < MAX_FRONT) f->items[f->n++] = *s;
}

static int by_tokens(const void *a, const void *b)
{
    const Shape *x = a, *y = b;
    if (x->tokens != y->tokens) return x->tokens < y->tokens ? 1 : -1;
    return (x->trained < y->trained) - (x->trained > y->trained);
}

static void add_epoch(Front *f, Loader *l, const TrainConfig *c, int64_t epoch, int ranks)
{
    for (int64_t step = 0; step < loader_steps(l, epoch); step++) {
        StepInfo info = loader_step(l, epoch, step);
        for (int rank = 0; rank < ranks; rank++) {
            int64_t row, left = step_rows(&info, rank, ranks, &row);
            for (; left > 0; row += c->batch_micro, left -= c->batch_micro) {
                int64_t n = left < c->batch_micro ? left : c->batch_micro;
                StepInfo m = loader_rows_info(l, epoch, row, n);
                if (m.n_trained == 0) continue;
                Shape s = {epoch, row, n, m.n_tokens, m.n_trained, m.n_docs};
                front_add(f, &s);
            }
        }
    }
}

static int64_t epochs_of(Loader *l, const TrainConfig *c)
{
    if (c->max_steps == 0) return c->epochs;
    int64_t steps = loader_steps(l, 0); /* other epochs have nearly as many */
    return steps > 0 ? (c->max_steps + steps - 1) / steps : 1;
}

/* ---- running ---------------------------------------------------------------------------------- */

typedef struct Planner {
    TrainConfig *cfg;
    const Dataset *train, *eval; /* or NULL */
    const PlanTarget *target;
    const GpuSpec *gpu;
    Loader *loader;
    Front *front; /* of the loader's epochs; the same for every mix */
    int64_t epochs_seen;
    Session session; /* of one run */
    Stepper *stepper;
    RunPlan *out;
} Planner;

static double optimizer_floor(const Meter *m)
{
    double sum = 0;
    for (int i = 0; i < N_KERNELS; i++)
        if (str_eq(kernel_name(i), "adamw") || str_eq(kernel_name(i), "sum_squares"))
            sum += m->kernels[i].floor;
    return sum;
}

static int ranks_of(const Planner *p)
{
    return p->target->ranks > 1 ? p->target->ranks : 1;
}

/* Counts what the first step asks of the device and of its host. */
typedef struct Counts {
    Meter meter, host;
    size_t moved[MOVED_N]; /* before it */
} Counts;

static void begin_counts(Planner *p, Counts *c)
{
    Session *s = &p->session;
    s->comm.sent_bytes = 0;
    memcpy(c->moved, s->dev.moved, sizeof c->moved);
    meter_attach(&c->meter, &s->dev, p->gpu, false);
    if (s->home.open) meter_attach(&c->host, &s->home.states, NULL, false);
}

static void end_counts(Planner *p, Counts *c)
{
    Session *s = &p->session;
    meter_detach(&c->meter, &s->dev);
    for (int i = 0; i < MOVED_N; i++)
        p->out->moved[i] = (double)(s->dev.moved[i] - c->moved[i]);
    if (!s->home.open) return;
    meter_detach(&c->host, &s->home.states);
    p->out->host_bytes = meter_sum(&c->host, METER_CLASSES).bytes;
}

static void keep_counts(const Planner *p, const Meter *m, const StepResult *r)
{
    RunPlan *out = p->out;
    out->ranks = ranks_of(p);
    /* this first step fetched its own first unit, too */
    out->sent_bytes = (double)(p->session.comm.sent_bytes - p->session.shards.sent_ahead);
    out->sent_uncovered = (double)p->session.shards.sent_uncovered;
    out->n_tokens = r->info.n_tokens;
    out->n_trained = r->info.n_trained;
    out->n_docs = r->info.n_docs;
    out->products = meter_sum(m, METER_PRODUCTS);
    out->attention = meter_sum(m, METER_ATTENTION);
    out->other = meter_sum(m, METER_OTHER);
    out->optimizer_floor = optimizer_floor(m);
}

static void run_eval(Planner *p)
{
    const TrainConfig *c = p->session.cfg;
    if (!p->eval || (c->eval_every == 0 && !c->eval_at_end && !c->eval_at_start)) return;
    PerplexityOpts opts = {.tokens_per_pass = c->eval_tokens};
    Perplexity result;
    Err err = {0};
    if (perplexity_of(&result, &p->session.model, p->eval, &c->data, &opts, &err) == OK)
        perplexity_clear(&result);
}

/* The most that any takes of a step. */
static int64_t rows_of_a_rank(const Planner *p, int64_t rows)
{
    return (rows + ranks_of(p) - 1) / ranks_of(p);
}

/* Full rows in place of data: each row of a step one document. */
static void run_assumed(Planner *p)
{
    const TrainConfig *c = p->session.cfg;
    Counts counts;
    int64_t rows = rows_of_a_rank(p, c->batch_global);
    int64_t micro = c->batch_micro < rows ? c->batch_micro : rows;
    int n = (int)((rows + micro - 1) / micro);
    HostBatch *batches = xcalloc((size_t)n, sizeof *batches);
    HostBatch one = {0};
    int32_t *lens = xmalloc((size_t)micro * sizeof *lens);
    for (int64_t i = 0; i < micro; i++)
        lens[i] = (int32_t)c->data.max_length;
    host_batch_random(&one, micro, lens, p->session.shape.vocab_size, 1);
    free(lens);
    for (int i = 0; i < n; i++)
        batches[i] = one;
    begin_counts(p, &counts);
    StepResult r = stepper_run_batches(p->stepper, batches, n, 0, 1);
    end_counts(p, &counts);
    keep_counts(p, &counts.meter, &r);
    p->out->n_micro = n;
    p->out->assumed = true;
    p->out->n_tried = 1;
    host_batch_clear(&one);
    free(batches);
}

static Front *look_at_epochs(Planner *p)
{
    if (p->front) return p->front;
    Front *f = p->front = xcalloc(1, sizeof *f);
    int64_t epochs = epochs_of(p->loader, p->cfg);
    for (int64_t docs = 0; p->epochs_seen < epochs && docs < MAX_DOCS_SEEN;
         docs += dataset_size(p->train))
        add_epoch(f, p->loader, p->cfg, p->epochs_seen++, ranks_of(p));
    qsort(f->items, (size_t)f->n, sizeof *f->items, by_tokens);
    return f;
}

static void run_data(Planner *p)
{
    const TrainConfig *c = p->session.cfg;
    RunPlan *out = p->out;
    Counts counts;
    begin_counts(p, &counts);
    StepResult r = stepper_run(p->stepper, 0, 0, 0, 1);
    end_counts(p, &counts);
    keep_counts(p, &counts.meter, &r);
    out->n_micro = (rows_of_a_rank(p, r.info.n_rows) + c->batch_micro - 1) / c->batch_micro;

    Front *f = look_at_epochs(p);
    out->epochs = epochs_of(p->loader, c);
    out->epochs_seen = p->epochs_seen;
    HostBatch host = {0};
    bool again = out->n_micro > 1 && shards_meet(&p->session.shards); /* a sum is added to one */
    for (int i = 0; i < f->n && i < MAX_TRIED; i++, out->n_tried++) {
        const Shape *s = &f->items[i];
        loader_rows_fill(p->loader, s->epoch, s->row, s->n_rows, &host);
        stepper_run_batches(p->stepper, (HostBatch[]){host, host}, again ? 2 : 1, 0, 1);
    }
    out->n_seen = f->seen;
    host_batch_clear(&host);
}

/* The run as cfg->mix and cfg->embed_on_host have it. */
static Status run_once(Planner *p, RunPlan *out, Log *log, Problems *problems)
{
    const TrainConfig *cfg = p->cfg;
    *out = (RunPlan){0};
    p->out = out;
    Status status = session_open_plan(&p->session, p->cfg, p->target, log, problems);
    if (status == OK) {
        StepOpts opts = step_opts(cfg);
        p->stepper = stepper_new(&p->session.model, &p->session.shards, p->loader, &opts, NULL);
        run_eval(p);
        if (p->loader && loader_rows(p->loader, 0) > 0)
            run_data(p);
        else
            run_assumed(p);
        out->mem = p->session.dev.mem;
        out->extent = region_extent(p->session.dev.region);
        out->staging = staging_of(cfg, &p->session.shards);
        out->host = host_home_need(&p->session.home);
        out->n_layers = p->session.shape.n_layers;
        StrBuf base = {0};
        quant_base_text(&base, &p->session.model);
        snprintf(out->base, sizeof out->base, "%s", base.len ? base.data : "");
        strbuf_clear(&base);
    }
    stepper_free(p->stepper);
    p->stepper = NULL;
    session_close(&p->session);
    return status;
}

static size_t need_with(void *ud, RecomputeMix mix)
{
    Planner *p = ud;
    RunPlan plan;
    Problems ignored = {0};
    p->cfg->mix = mix;
    Status s = run_once(p, &plan, NULL, &ignored);
    problems_clear(&ignored);
    return s == OK ? plan.extent : SIZE_MAX;
}

Status plan_run(RunPlan *out, TrainConfig *cfg, const Dataset *train, const Dataset *eval,
                const PlanTarget *target, size_t bytes, const GpuSpec *gpu, Log *log,
                Problems *problems)
{
    Planner p = {.cfg = cfg, .train = train, .eval = eval, .target = target, .gpu = gpu};
    if (train) p.loader = loader_new(train, &cfg->data, (uint64_t)cfg->seed, cfg->batch_global);
    if (cfg->recompute == RECOMPUTE_AUTO) cfg->mix = (RecomputeMix){RECOMPUTE_NONE, 0};
    if (cfg->embedding == EMBEDDING_AUTO) cfg->embed_on_host = false;
    Status status = run_once(&p, out, log, problems);
    bytes -= bytes / ROOM_FOR_AUTO;
    bool frozen = cfg->method != METHOD_FULL;
    if (status == OK && frozen && cfg->embedding == EMBEDDING_AUTO && out->extent > bytes) {
        cfg->embed_on_host = true; /* costs less time than making anything again */
        status = run_once(&p, out, NULL, problems);
    }
    if (status == OK && cfg->recompute == RECOMPUTE_AUTO && out->extent > bytes) {
        size_t need;
        cfg->mix = recompute_fit(&need, out->n_layers, bytes, need_with, &p);
        if (cfg->embed_on_host && cfg->embedding == EMBEDDING_AUTO) { /* for nothing, perhaps */
            cfg->embed_on_host = false;
            cfg->embed_on_host = need_with(&p, cfg->mix) > bytes;
        }
        status = run_once(&p, out, NULL, problems);
    }
    loader_free(p.loader);
    free(p.front);
    return status;
}

/* ---- for an opened device ---------------------------------------------------------------------- */

PlanTarget plan_target_of(const Device *d)
{
    DeviceInfo info;
    d->backend->info(d, &info);
    return (PlanTarget){.cuda = !str_eq(d->backend->name, "cpu"),
                        .n_sms = info.n_sms,
                        .flash_attention = info.flash_attention};
}

/* The CPU's region is host memory itself. */
static Status check_host(Session *s, const RunPlan *plan, Problems *problems)
{
    Err err = {0};
    if (s->cfg->offload == OFFLOAD_NONE) return OK;
    size_t also = str_eq(s->dev.backend->name, "cpu") ? plan->extent : 0;
    int ranks = s->hosts && s->hosts->local_size > 1 ? s->hosts->local_size : 1;
    Status status = host_home_check(&plan->host, also, ranks, meminfo_available(""), &err);
    if (status != OK) config_problem(s->cfg, problems, "parallel.offload", "%s", err.line);
    return status;
}

/* The memory of the rank that has the least. */
static size_t least_region(Session *s)
{
    size_t mine = s->dev.region_bytes, least = mine;
    if (!s->hosts || s->hosts->size == 1) return mine;
    size_t *all = xcalloc((size_t)s->hosts->size, sizeof *all);
    comm_exchange(s->hosts, all, &mine, sizeof mine);
    for (int i = 0; i < s->hosts->size; i++)
        least = all[i] < least ? all[i] : least;
    free(all);
    return least;
}

Status plan_for_device(Session *s, Problems *problems)
{
    TrainConfig *c = s->cfg;
    PlanTarget target = plan_target_of(&s->dev);
    target.ranks = s->hosts ? s->hosts->size : 1;
    RunPlan plan;
    size_t bytes = least_region(s); /* what `auto` stands for must be the same on all ranks */
    TRY(plan_run(&plan, c, s->train, s->eval, &target, bytes, NULL, s->log, problems));
    s->planned_bytes = plan.extent;
    s->planned_peak = plan.mem.peak_total;
    s->planned_host = plan.host;
    if (plan.extent <= bytes) return check_host(s, &plan, problems);
    PlanAdvice advice[PLAN_MAX_ADVICE];
    int n = plan_advise(advice, c, s->train, s->eval, &target, bytes);
    StrBuf b = {0};
    for (int i = 0; i < n; i++) {
        strbuf_puts(&b, i ? ", or " : "; set ");
        plan_advice_text(&b, &advice[i], c, plan.n_layers);
    }
    if (n == 0) {
        strbuf_puts(&b, "; the least that the config can be made to take is ");
        plan_advice_text(&b, &advice[0], c, plan.n_layers);
    }
    const char *key = config_is_set(c, "runtime.memory") ? "runtime.memory" : "runtime.device";
    config_problem(c, problems, key, "the run needs %.2f GiB and %s has %.2f GiB%s",
                   (double)plan.extent / GIB, c->device, (double)bytes / GIB, b.data);
    strbuf_clear(&b);
    return E_INPUT;
}
