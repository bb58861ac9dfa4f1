/* The optimizer step.  All memory of a micro-batch belongs to its scope and tape; nothing outlives it but
 * the gradients in the shards' flat arrays. */
#include "trainer/step.h"

#include "base/str.h"
#include "optim/clip.h"

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
    AdamwRange *ranges;
    int n_ranges;
    Tensor **grads; /* the shards' flat gradients */
    Tensor scalars; /* (STEP_N) f32 */
    Tensor loss_sum, sum_squares, count;
};

static Tensor scalar(Device *d)
{
    int64_t one = 1;
    return tensor_alloc(d, DT_F32, 1, &one, MEM_OPTIMIZER);
}

/* Neighbours that are updated alike go as one range: gaps hold zeros and stay zero. */
static void add_ranges(Stepper *s, ParamShard *sh)
{
    bool separate = s->dev->compute != DT_F32; /* working copies are not one array */
    for (int i = 0; i < sh->n_ranges;) {
        const ShardRange *first = &sh->ranges[i];
        ShardRange r = *first;
        int k = i + 1;
        while (!separate && k < sh->n_ranges && sh->ranges[k].decay == first->decay &&
               sh->ranges[k].lr_scale == first->lr_scale)
            k++;
        int64_t end = k < sh->n_ranges ? sh->ranges[k].offset : sh->numel;
        if (!separate) r.numel = end - first->offset;
        s->ranges[s->n_ranges++] = (AdamwRange){
            .master = shard_view(&sh->master, &r),
            .grad = shard_view(&sh->grad, &r),
            .m = shard_view(&sh->m, &r),
            .v = shard_view(&sh->v, &r),
            .working = separate ? shard_working_view(&r) : (Tensor){0},
            .lr_scale = first->lr_scale,
            .decay = first->decay,
        };
        i = k;
    }
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
    int64_t n = STEP_N;
    s->scalars = tensor_alloc(s->dev, DT_F32, 1, &n, MEM_OPTIMIZER);
    s->loss_sum = scalar(s->dev);
    s->sum_squares = scalar(s->dev);
    s->count = scalar(s->dev);
    int total = 0;
    for (int i = 0; i < shards->n; i++)
        total += shards->items[i].n_ranges;
    s->ranges = xcalloc((size_t)total, sizeof *s->ranges);
    s->grads = xcalloc((size_t)shards->n, sizeof *s->grads);
    for (int i = 0; i < shards->n; i++) {
        add_ranges(s, &shards->items[i]);
        s->grads[i] = &shards->items[i].grad;
    }
    return s;
}

void stepper_free(Stepper *s)
{
    if (!s) return;
    tensor_clear(&s->scalars);
    tensor_clear(&s->loss_sum);
    tensor_clear(&s->sum_squares);
    tensor_clear(&s->count);
    host_batch_clear(&s->host);
    batch_scratch_clear(&s->scratch);
    arena_free(s->arena);
    free(s->ranges);
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
    tape_free(c.tape);
    scope_free(c.scope);
    arena_reset(s->arena);
}

static float read_scalar(Stepper *s, const Tensor *t)
{
    float v;
    tensor_read(s->dev, t, &v);
    return v;
}

static void begin_step(Stepper *s, double lr, int64_t t)
{
    adamw_begin(s->dev, &s->scalars, &s->opts.adamw, lr, t);
    tensor_zero(s->dev, &s->loss_sum);
    shards_begin_step(s->shards);
}

/* After the last micro-batch: the update, and what the host wants to know. */
static StepResult end_step(Stepper *s, StepInfo info)
{
    Device *d = s->dev;
    StepResult r = {.info = info};
    shards_finish_grads(s->shards);
    clip_by_global_norm(d, &s->scalars, &s->sum_squares, s->grads, s->shards->n, &s->loss_sum,
                        s->opts.clip);
    adamw_update(d, s->ranges, s->n_ranges, &s->scalars, &s->opts.adamw);
    shards_changed(s->shards);

    float scalars[STEP_N];
    tensor_read(d, &s->scalars, scalars);
    double n_trained = r.info.n_trained > 0 ? (double)r.info.n_trained : 1.0;
    r.loss = (double)read_scalar(s, &s->loss_sum) / n_trained;
    r.grad_norm = sqrt((double)read_scalar(s, &s->sum_squares));
    r.finite = scalars[STEP_SKIP] == 0.0f;
    return r;
}

StepResult stepper_run(Stepper *s, int64_t epoch, int64_t step, double lr, int64_t t)
{
    StepInfo info = loader_step(s->loader, epoch, step);
    begin_step(s, lr, t);
    int64_t end = info.first_row + info.n_rows;
    for (int64_t row = info.first_row; row < end; row += s->opts.micro_rows) {
        int64_t n = end - row < s->opts.micro_rows ? end - row : s->opts.micro_rows;
        loader_rows_fill(s->loader, epoch, row, n, &s->host);
        if (s->host.n_trained > 0) micro_batch(s, &s->host, epoch, info.n_trained);
    }
    return end_step(s, info);
}

StepResult stepper_run_batches(Stepper *s, const HostBatch *batches, int n, double lr, int64_t t)
{
    StepInfo info = {.n_rows = n};
    for (int i = 0; i < n; i++) {
        info.n_tokens += batches[i].n_real;
        info.n_trained += batches[i].n_trained;
        info.n_docs += batches[i].n_docs;
    }
    begin_step(s, lr, t);
    for (int i = 0; i < n; i++)
        if (batches[i].n_trained > 0) micro_batch(s, &batches[i], 0, info.n_trained);
    return end_step(s, info);
}

static int64_t count_nonfinite(Stepper *s, const Tensor *t)
{
    s->dev->k->count_nonfinite(s->dev, &s->count, 0.0f, t);
    return (int64_t)read_scalar(s, &s->count);
}

static bool blame_weights(Stepper *s, char *buf, size_t n)
{
    const ParamSet *ps = &s->model->params;
    for (int i = 0; i < ps->n; i++) {
        const Param *p = ps->items[i];
        for (int k = 0; count_nonfinite(s, &p->t) > 0 && k < p->n_slices; k++) {
            ShardRange r = {.param = (Param *)p, .slice = k};
            r.numel = p->slices[k].rows * (p->t.n_dims == 1 ? 1 : tensor_cols(&p->t));
            Tensor view = shard_working_view(&r);
            int64_t bad = count_nonfinite(s, &view);
            if (bad == 0) continue;
            snprintf(buf, n, "weight %s holds %lld values that are not finite", p->slices[k].name,
                     (long long)bad);
            return true;
        }
    }
    return false;
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

const char *stepper_blame(Stepper *s, const StepResult *r, char *buf, size_t n)
{
    if (blame_weights(s, buf, n)) return buf;
    if (!isfinite(r->loss))
        snprintf(buf, n, "the loss is %g", r->loss);
    else if (!blame_gradients(s, buf, n))
        snprintf(buf, n, "the gradient's norm is %g", r->grad_norm);
    return buf;
}
