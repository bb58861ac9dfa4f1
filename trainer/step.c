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
    AdamwArray *arrays;
    int n_arrays;
    Tensor **grads; /* the shards' flat gradients */
    Tensor scalars; /* (STEP_N) f32 */
    Tensor loss_sum, sum_squares, count;
};

static Tensor scalar(Device *d)
{
    int64_t one = 1;
    return tensor_alloc(d, DT_F32, 1, &one, MEM_OPTIMIZER);
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
    int64_t n = STEP_N;
    s->scalars = tensor_alloc(s->dev, DT_F32, 1, &n, MEM_OPTIMIZER);
    s->loss_sum = scalar(s->dev);
    s->sum_squares = scalar(s->dev);
    s->count = scalar(s->dev);
    s->grads = xcalloc((size_t)shards->n, sizeof *s->grads);
    for (int i = 0; i < shards->n; i++) {
        add_arrays(s, &shards->items[i]);
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
    for (int i = 0; i < s->n_arrays; i++)
        adamw_update(d, &s->arrays[i], &s->scalars);
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
            Tensor view = param_slice_view(p, k);
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
