/* The optimizer step.  All memory of a micro-batch belongs to its scope and tape; nothing outlives it but
 * the gradients in the shards' flat arrays.
 *
 * Each rank takes a run of the step's rows, in micro-batches of its own.  Where ranks meet inside of a pass (stages 2 and 3)
 * all make as many passes as the one with the most rows. */
#include "trainer/step.h"

#include "base/str.h"
#include "optim/clip.h"
#include "trainer/stop.h"

#include <math.h>
#include <stdlib.h>

struct Stepper {
    Device *dev;
    Llama *model;
    ShardSet *shards;
    Loader *loader;
    StepOpts opts;
    Trace *trace;
    Arena *arena;
    HostBatch host;
    BatchScratch scratch;
    AdamwArray *arrays;
    int n_arrays;
    Tensor **grads; /* the flat gradients that this rank counts */
    int n_grads;
    Tensor scalars;               /* (STEP_N) f32 */
    Tensor sums;                  /* (SUM_N) f32, over all ranks at the end of a step */
    Tensor loss_sum, sum_squares; /* its elements */
    Tensor count;
};

enum { SUM_LOSS, SUM_SQUARES, SUM_STOP, SUM_N };

static Tensor vector(Device *d, int64_t n)
{
    return tensor_alloc(d, DT_F32, 1, &n, MEM_OPTIMIZER);
}

static Tensor flat_part(const Tensor *flat, int64_t begin, int64_t end)
{
    if (!flat->storage) return (Tensor){0};
    return shard_view(flat, &(ShardRange){.offset = begin, .numel = end - begin});
}

static void add_array(Stepper *s, const ParamShard *sh, const AdamwArgs *args, int64_t begin,
                      int64_t end)
{
    s->arrays = xrealloc(s->arrays, (size_t)(s->n_arrays + 1) * sizeof *s->arrays);
    s->arrays[s->n_arrays++] = (AdamwArray){.weights = flat_part(&sh->weights, begin, end),
                                            .low = flat_part(&sh->low, begin, end),
                                            .grad = flat_part(&sh->grad, begin, end),
                                            .m = flat_part(&sh->m, begin, end),
                                            .v = flat_part(&sh->v, begin, end),
                                            .args = *args};
}

/* A unit is one array, or several where a table of ranges is full.  The gap behind a parameter goes with it: it holds
 * zeros, which stay. */
static void add_arrays(Stepper *s, const ParamShard *sh)
{
    const AdamwOpts *opts = &s->opts.adamw;
    AdamwArgs args = adamw_args(opts);
    int64_t begin = 0, at = 0;
    for (int i = 0; i < sh->n_ranges; i++) {
        const ShardRange *r = &sh->ranges[i];
        int64_t end = i + 1 < sh->n_ranges ? r[1].offset : sh->numel;
        if (!adamw_add_range(&args, opts, end - at, r->lr_scale, r->decay)) {
            add_array(s, sh, &args, begin, at);
            args = adamw_args(opts);
            begin = at;
            adamw_add_range(&args, opts, end - at, r->lr_scale, r->decay);
        }
        at = end;
    }
    add_array(s, sh, &args, begin, at);
}

Stepper *stepper_new(Llama *m, ShardSet *shards, Loader *loader, const StepOpts *opts, Trace *trace)
{
    Stepper *s = xcalloc(1, sizeof *s);
    *s = (Stepper){.dev = m->dev,
                   .model = m,
                   .shards = shards,
                   .loader = loader,
                   .opts = *opts,
                   .trace = trace,
                   .arena = arena_new(1 << 18)};
    s->scalars = vector(s->dev, STEP_N);
    s->sums = vector(s->dev, SUM_N);
    s->loss_sum = flat_part(&s->sums, SUM_LOSS, SUM_LOSS + 1);
    s->sum_squares = flat_part(&s->sums, SUM_SQUARES, SUM_SQUARES + 1);
    s->count = vector(s->dev, 1);
    s->grads = xcalloc((size_t)shards->n, sizeof *s->grads);
    for (int i = 0; i < shards->n; i++) {
        ParamShard *sh = &shards->items[i];
        if (!sh->trained) continue;
        add_arrays(s, sh);
        if (shard_counts(shards, sh)) s->grads[s->n_grads++] = &sh->grad;
    }
    return s;
}

void stepper_free(Stepper *s)
{
    if (!s) return;
    tensor_clear(&s->scalars);
    tensor_clear(&s->sums);
    tensor_clear(&s->count);
    host_batch_clear(&s->host);
    batch_scratch_clear(&s->scratch);
    arena_free(s->arena);
    free(s->arrays);
    free(s->grads);
    free(s);
}

static void micro_batch(Stepper *s, const HostBatch *host, int64_t epoch, int64_t n_trained)
{
    Ctx c = {.dev = s->dev,
             .arena = s->arena,
             .scope = scope_new(s->dev, s->arena),
             .tape = tape_new(s->arena),
             .key = rng_mix(s->opts.seed, (uint64_t)epoch),
             .trace = s->trace};
    TrainBatch b;
    batch_upload(&b, &c, host, &s->scratch);

    shards_begin_pass(s->shards, true);
    scope_push(c.scope);
    Tensor *h = llama_forward(&c, s->model, &b.batch);
    h = op_gather_rows(&c, h, b.rows);
    Tensor *loss = op_linear_xent(&c, h, llama_head(s->model), b.targets, 1.0f / (float)n_trained,
                                  &s->loss_sum, NULL, 0);
    scope_pop(c.scope, loss);

    if (loss->needs_grad) {
        tensor_seed_grad(&c, loss, 1.0f);
        tape_backward(&c);
    }
    shards_end_pass(s->shards);
    tape_free(c.tape);
    scope_free(c.scope);
    arena_reset(s->arena);
}

static void begin_step(Stepper *s, double lr, int64_t t)
{
    float zero[SUM_N] = {[SUM_STOP] = stop_requested() ? 1.0f : 0.0f};
    s->shards->comm->step = t;
    adamw_begin(s->dev, &s->scalars, &s->opts.adamw, lr, t);
    tensor_write(s->dev, &s->sums, zero);
    shards_begin_step(s->shards);
}

/* After the last micro-batch: the update, and what the host wants to know. */
static StepResult end_step(Stepper *s, StepInfo info)
{
    Device *d = s->dev;
    StepResult r = {.info = info};
    Comm *ranks = s->shards->comm;
    shards_finish_grads(s->shards);
    clip_sum_squares(d, &s->sum_squares, s->grads, s->n_grads);
    ranks->of = "loss and norm";
    comm_wait(ranks, d, comm_all_reduce(ranks, d, &s->sums));
    clip_by_global_norm(d, &s->scalars, &s->sum_squares, &s->loss_sum, s->opts.clip);
    for (int i = 0; i < s->n_arrays; i++)
        adamw_update(d, &s->arrays[i], &s->scalars);
    shards_changed(s->shards);

    float scalars[STEP_N], sums[SUM_N];
    tensor_read(d, &s->scalars, scalars);
    tensor_read(d, &s->sums, sums);
    double n_trained = r.info.n_trained > 0 ? (double)r.info.n_trained : 1.0;
    r.loss = (double)sums[SUM_LOSS] / n_trained;
    r.grad_norm = sqrt((double)sums[SUM_SQUARES]);
    r.stop = sums[SUM_STOP] != 0.0f;
    r.finite = scalars[STEP_SKIP] == 0.0f;
    return r;
}

int64_t step_rows(const StepInfo *info, int rank, int size, int64_t *first)
{
    int64_t from = info->n_rows * rank / size, to = info->n_rows * (rank + 1) / size;
    *first = info->first_row + from;
    return to - from;
}

StepResult stepper_run(Stepper *s, int64_t epoch, int64_t step, double lr, int64_t t)
{
    const Comm *ranks = s->shards->comm;
    StepInfo info = loader_step(s->loader, epoch, step);
    begin_step(s, lr, t);
    int64_t row, micro = s->opts.micro_rows;
    int64_t left = step_rows(&info, ranks->rank, ranks->size, &row);
    int64_t most = (info.n_rows + ranks->size - 1) / ranks->size;
    for (int64_t done = 0; done < most; done += micro, row += micro, left -= micro) {
        int64_t n = left < 0 ? 0 : left < micro ? left : micro;
        loader_rows_fill(s->loader, epoch, n > 0 ? row : info.first_row, n, &s->host);
        if (s->host.n_trained > 0)
            micro_batch(s, &s->host, epoch, info.n_trained);
        else if (info.n_trained > 0 && shards_meet(s->shards))
            shards_idle_pass(s->shards);
    }
    return end_step(s, info);
}

StepResult stepper_run_batches(Stepper *s, const HostBatch *batches, int n, double lr, int64_t t)
{
    const int size = s->shards->comm->size;
    StepInfo info = {.n_rows = (int64_t)n * size};
    for (int i = 0; i < n; i++) {
        info.n_tokens += batches[i].n_real * size;
        info.n_trained += batches[i].n_trained * size;
        info.n_docs += (int64_t)batches[i].n_docs * size;
    }
    begin_step(s, lr, t);
    for (int i = 0; i < n; i++)
        if (batches[i].n_trained > 0) micro_batch(s, &batches[i], 0, info.n_trained);
    return end_step(s, info);
}

static int64_t count_nonfinite(Stepper *s, const Tensor *t)
{
    float n;
    s->dev->k->count_nonfinite(s->dev, &s->count, 0.0f, t);
    tensor_read(s->dev, &s->count, &n);
    return (int64_t)n;
}

static bool blame_weights(Stepper *s, char *buf, size_t n)
{
    const ParamSet *ps = &s->model->params;
    bool found = false;
    for (int i = 0; i < ps->n && !found; i++) {
        Param *p = ps->items[i];
        param_open(p);
        for (int k = 0; count_nonfinite(s, &p->t) > 0 && k < p->n_slices && !found; k++) {
            Tensor view = param_slice_view(p, k);
            int64_t bad = count_nonfinite(s, &view);
            if (bad > 0)
                snprintf(buf, n, "weight %s holds %lld values that are not finite",
                         p->slices[k].name, (long long)bad);
            found = bad > 0;
        }
        param_close(p, false);
    }
    shards_end_pass(s->shards);
    return found;
}

static bool blame_gradients(Stepper *s, char *buf, size_t n)
{
    for (int i = 0; i < s->shards->n; i++) {
        const ParamShard *sh = &s->shards->items[i];
        for (int k = 0; k < sh->n_ranges; k++) {
            Tensor view = shard_view(&sh->grad, &sh->ranges[k]);
            int64_t bad = count_nonfinite(s, &view);
            if (bad == 0) continue;
            snprintf(buf, n, "gradient of %s holds %lld of %lld values that are not finite",
                     shard_range_name(&sh->ranges[k]), (long long)bad,
                     (long long)sh->ranges[k].numel);
            return true;
        }
    }
    return false;
}

/* A weight is seen by every rank, a gradient perhaps by one alone: the lowest rank that found something speaks for
 * all. */
const char *stepper_blame(Stepper *s, const StepResult *r, char *buf, size_t n)
{
    Comm *ranks = s->shards->comm;
    Err found = {0};
    if (!blame_weights(s, found.line, sizeof found.line) && isfinite(r->loss))
        blame_gradients(s, found.line, sizeof found.line);
    Err *all = xcalloc((size_t)ranks->size, sizeof *all);
    comm_exchange(ranks, all, &found, sizeof found);
    if (isfinite(r->loss))
        snprintf(buf, n, "the gradient's norm is %g", r->grad_norm);
    else
        snprintf(buf, n, "the loss is %g", r->loss);
    for (int i = ranks->size - 1; i >= 0; i--)
        if (all[i].line[0]) snprintf(buf, n, "%s", all[i].line);
    free(all);
    return buf;
}
