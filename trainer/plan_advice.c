/* What to change when a run does not fit: settings tried by planning them, the least change first. */
#include "trainer/config_schema.h"
#include "trainer/plan.h"
#include "trainer/update.h"

/* The config as `a` would change it; it borrows cfg's lists.  False: it would be refused. */
static bool change(TrainConfig *changed, const TrainConfig *cfg, const PlanAdvice *a)
{
    *changed = *cfg;
    changed->batch_micro = a->micro;
    if (a->eval_tokens > 0) changed->eval_tokens = a->eval_tokens;
    if (a->embed_host) {
        changed->embedding = EMBEDDING_HOST;
        changed->embed_on_host = true;
    }
    if (a->qlora) changed->method = METHOD_QLORA;
    if (a->zero > 0) changed->zero = a->zero;
    if (a->offload != OFFLOAD_NONE) changed->offload = a->offload;
    if (a->recompute) {
        changed->recompute = RECOMPUTE_AUTO;
        changed->n_recompute_layers = 0;
    }
    if (!config_is_set(cfg, "train.gradients")) changed->gradients = PRECISION_AUTO;
    if (a->bf16_gradients) changed->gradients = PRECISION_BF16;
    if (!config_is_set(cfg, "train.update")) changed->update = UPDATE_AUTO;
    if (a->in_backward) {
        changed->update = UPDATE_IN_BACKWARD;
        changed->clip_by = CLIP_BLOCK;
    }
    Problems p = {0};
    config_settle_update(changed, &p);
    bool valid = p.n == 0;
    problems_clear(&p);
    return valid;
}

typedef struct Adviser {
    const TrainConfig *cfg;
    const Dataset *train, *eval;
    const PlanTarget *target;
    size_t bytes;
    PlanAdvice *out;
    PlanAdvice least; /* of all that were tried */
    int n;
} Adviser;

/* True when it fits; it is then among the answers. */
static bool try(Adviser *v, PlanAdvice a)
{
    TrainConfig changed;
    RunPlan plan;
    Problems ignored = {0};
    if (!change(&changed, v->cfg, &a)) return false;
    Status s =
        plan_run(&plan, &changed, v->train, v->eval, v->target, v->bytes, NULL, NULL, &ignored);
    problems_clear(&ignored);
    if (s != OK) return false;
    a.mix = changed.mix;
    a.extent = plan.extent;
    a.host = plan.host;
    if (v->least.extent == 0 || a.extent < v->least.extent) v->least = a;
    if (a.extent > v->bytes) return false;
    v->out[v->n++] = a;
    return true;
}

/* As little of it as does; full tuning as it updates, else in backward.  Adapters have no states to speak of. */
static void try_offload(Adviser *v)
{
    const TrainConfig *c = v->cfg;
    bool full = c->method == METHOD_FULL, more = full && c->update == UPDATE_AFTER;
    for (int in_backward = 0; in_backward <= more; in_backward++)
        for (int how = full ? OFFLOAD_OPTIMIZER : OFFLOAD_PARAMS; how <= OFFLOAD_PARAMS; how++)
            if (try(v, (PlanAdvice){.micro = in_backward ? c->batch_global : c->batch_micro,
                                    .recompute = c->recompute != RECOMPUTE_AUTO,
                                    .in_backward = in_backward,
                                    .offload = (Offload)how}))
                return;
}

/* ---- several together ---------------------------------------------------------------------------- */

/* What can be changed, from what costs the least time to what costs the most, and behind these what changes numbers. */
typedef enum Step {
    STEP_EVAL_TOKENS,
    STEP_EMBEDDING,
    STEP_GRADIENTS,
    STEP_RECOMPUTE,
    STEP_ZERO,
    STEP_MICRO,
    STEP_OFFLOAD,
    STEP_QLORA,
    STEPS
} Step;

/* Takes the step in `a`, as far as it goes, or back.  False: there is none such here. */
static bool take(PlanAdvice *a, Step step, const Adviser *v, bool back)
{
    const TrainConfig *c = v->cfg;
    const bool full = c->method == METHOD_FULL, forward = !back;
    switch (step) {
    case STEP_EVAL_TOKENS: /* a row at least is taken */
        a->eval_tokens = forward ? 1 : 0;
        return v->eval && c->eval_tokens > 1;
    case STEP_EMBEDDING:
        a->embed_host = forward;
        return !full && c->embedding == EMBEDDING_DEVICE;
    case STEP_GRADIENTS: /* said even where auto has it, which would no longer with a smaller batch.micro */
        a->bf16_gradients = forward;
        return full && c->precision == PRECISION_BF16 && !config_is_set(c, "train.gradients");
    case STEP_RECOMPUTE:
        a->recompute = forward;
        return c->recompute != RECOMPUTE_AUTO;
    case STEP_ZERO:
        a->zero = forward ? 3 : 0;
        return v->target->ranks > 1 && c->zero < 3;
    case STEP_MICRO:
        a->micro = forward ? 1 : c->batch_micro;
        return c->batch_micro > 1;
    case STEP_OFFLOAD:
        a->offload = forward ? OFFLOAD_PARAMS : OFFLOAD_NONE;
        return c->offload != OFFLOAD_PARAMS;
    case STEP_QLORA:
        a->qlora = forward;
        return c->method == METHOD_LORA && !c->lora.pissa;
    case STEPS:
        break;
    }
    return false;
}

/* Whether it fits; then it is the best so far.  It becomes no answer yet. */
static bool try_better(Adviser *v, PlanAdvice *best, PlanAdvice a)
{
    int n = v->n;
    if (!try(v, a)) return false;
    *best = v->out[n];
    v->n = n;
    return true;
}

/* Steps until it fits; then back what it does not need, the dearest first, and batch.micro as high as it goes. */
static void try_together(Adviser *v)
{
    PlanAdvice best = {.micro = v->cfg->batch_micro};
    bool fits = false;
    int taken = 0;
    for (; taken < STEPS && !fits; taken++) {
        PlanAdvice a = best;
        TrainConfig ignored;
        if (!take(&a, (Step)taken, v, false) || !change(&ignored, v->cfg, &a)) continue;
        best = a;
        fits = try_better(v, &best, a);
    }
    if (!fits) return;
    for (int step = taken - 2; step >= 0; step--) {
        PlanAdvice a = best;
        if (take(&a, (Step)step, v, true)) try_better(v, &best, a);
    }
    for (int64_t micro = best.micro + 1; micro < v->cfg->batch_micro; micro++) {
        PlanAdvice a = best;
        a.micro = micro;
        if (v->cfg->batch_global % micro == 0 && !try_better(v, &best, a)) break;
    }
    v->out[v->n++] = best;
}

int plan_advise(PlanAdvice out[PLAN_MAX_ADVICE], const TrainConfig *cfg, const Dataset *train,
                const Dataset *eval, const PlanTarget *target, size_t bytes)
{
    Adviser v = {
        .cfg = cfg, .train = train, .eval = eval, .target = target, .bytes = bytes, .out = out};
    const PlanAdvice as_it_is = {.micro = cfg->batch_micro};
    bool automatic = cfg->recompute == RECOMPUTE_AUTO;
    for (int step = STEP_EVAL_TOKENS; step <= STEP_EMBEDDING; step++) {
        PlanAdvice a = as_it_is;
        if (take(&a, (Step)step, &v, false)) try(&v, a);
    }
    for (int zero = (int)cfg->zero + 1, found = 0; target->ranks > 1 && zero <= 3 && !found; zero++)
        found = try(&v, (PlanAdvice){.micro = cfg->batch_micro, .zero = zero});
    for (int recompute = 0; recompute <= !automatic; recompute++) {
        /* with recompute the same batch may do; without, it is known not to */
        int64_t micro = recompute ? cfg->batch_micro : cfg->batch_micro - 1;
        for (bool found = false; micro >= 1 && !found; micro--)
            if (cfg->batch_global % micro == 0)
                found = try(&v, (PlanAdvice){.micro = micro, .recompute = recompute});
    }
    if (cfg->method == METHOD_FULL && cfg->update == UPDATE_AFTER)
        try(&v,
            (PlanAdvice){.micro = cfg->batch_global, .recompute = !automatic, .in_backward = true});
    if (cfg->offload == OFFLOAD_NONE) try_offload(&v);
    if (v.n == 0) try_together(&v);
    if (v.n > 0) return v.n;
    try(&v, as_it_is);
    out[0] = v.least;
    return 0;
}

static void setting(StrBuf *b, int *n, const char *text)
{
    strbuf_printf(b, "%s%s", (*n)++ ? ", " : "", text);
}

void plan_advice_text(StrBuf *b, const PlanAdvice *a, const TrainConfig *cfg, int64_t n_layers)
{
    int n = 0;
    char micro[40];
    snprintf(micro, sizeof micro, "batch.micro: %lld", (long long)a->micro);
    char zero[40];
    snprintf(zero, sizeof zero, "parallel.zero: %d", a->zero);
    if (a->qlora) setting(b, &n, "method: qlora");
    char eval_tokens[40];
    snprintf(eval_tokens, sizeof eval_tokens, "eval.tokens: %lld", (long long)a->eval_tokens);
    if (a->eval_tokens > 0) setting(b, &n, eval_tokens);
    if (a->embed_host) setting(b, &n, "model.embedding: host");
    if (a->bf16_gradients) setting(b, &n, "train.gradients: bf16");
    if (a->zero > 0) setting(b, &n, zero);
    if (a->micro != cfg->batch_micro) setting(b, &n, micro);
    if (a->recompute) setting(b, &n, "train.recompute: auto");
    if (a->recompute && cfg->n_recompute_layers > 0)
        strbuf_puts(b, " without train.recompute_layers");
    if (a->in_backward) setting(b, &n, "train.update: in_backward");
    if (a->in_backward && cfg->clip > 0 && cfg->clip_by == CLIP_GLOBAL)
        setting(b, &n, "optim.clip_by: block");
    if (a->offload == OFFLOAD_OPTIMIZER) setting(b, &n, "parallel.offload: optimizer");
    if (a->offload == OFFLOAD_PARAMS) setting(b, &n, "parallel.offload: optimizer+params");
    if (n == 0) strbuf_puts(b, "the config as it is");
    const double gib = 1024.0 * 1024.0 * 1024.0;
    strbuf_printf(b, " (%.2f GiB", (double)a->extent / gib);
    if (a->offload != OFFLOAD_NONE)
        strbuf_printf(b, ", %.2f of host memory",
                      ((double)a->host.states + (double)a->host.pinned) / gib);
    if (a->recompute || cfg->recompute == RECOMPUTE_AUTO) {
        strbuf_puts(b, ", recompute ");
        recompute_mix_text(b, a->mix, n_layers);
    }
    strbuf_putc(b, ')');
}
