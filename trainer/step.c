/* The optimizer step.  All memory of a micro-batch belongs to its scope and tape; nothing outlives it but
 * the gradients in the shards' flat arrays.
 *
 * Each rank takes a run of the step's rows, in micro-batches of its own.  Where ranks meet inside of a pass (stages 2 and 3)
 * all make as many passes as the one with the most rows. */
#include "trainer/step.h"

#include "base/str.h"
#include "trainer/apply.h"

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
    Update *update;
    Operands *operands;           /* NULL: no matrix is quantised, or there is one scratch */
    Tensor sums;                  /* (SUM_N) f32, over all ranks at the end of a step */
    Tensor loss_sum, sum_squares; /* its elements */
    Tensor count;
};

enum { SUM_LOSS, SUM_SQUARES, SUM_N };

static Tensor vector(Device *d, int64_t n)
{
    return tensor_alloc(d, DT_F32, 1, &n, MEM_OPTIMIZER);
}

static Tensor element(const Tensor *t, int64_t i)
{
    return shard_view(t, &(ShardRange){.offset = i, .numel = 1});
}

StepOpts step_opts(const TrainConfig *c)
{
    return (StepOpts){.update = {.adamw = {.beta1 = c->beta1,
                                           .beta2 = c->beta2,
                                           .eps = c->eps,
                                           .weight_decay = c->weight_decay},
                                 .clip = c->clip,
                                 .clip_by = (ClipBy)c->clip_by,
                                 .in_backward = c->update == UPDATE_IN_BACKWARD},
                      .micro_rows = c->batch_micro,
                      .seed = (uint64_t)c->seed,
                      .scratches = (int)c->scratches,
                      .decode_ahead = c->decode_ahead};
}

ShardOpts step_shards(const TrainConfig *c)
{
    enum { LARGE = 16 << 20 }; /* elements: 64 MiB of f32 */
    DType grads = c->gradients == PRECISION_BF16 ? DT_BF16 : DT_F32;
    return (ShardOpts){.zero = (int)c->zero,
                       .least = c->method == METHOD_FULL ? 0 : LARGE,
                       .grads = grads,
                       .reduce = c->reduce == PRECISION_BF16 ? DT_BF16 : DT_F32,
                       .exact = grads == DT_BF16 && c->reduce != PRECISION_BF16,
                       .ahead = (int)c->prefetch,
                       .states = (StatesFormat)c->states,
                       .in_backward = c->update == UPDATE_IN_BACKWARD};
}

/* A block of P parameters in bf16 is 2 P bytes, of which 1/ranks is here, and its forward product with T tokens 2 P T
 * operations: T says how fast it must come.  Backward has twice the products, and gradients beside the parameters.  Rates of an
 * H200: 650 TFLOP/s, and about 17 GB/s a block of NCCL's.  Measured on two: where gradients go beside products, 4 blocks are
 * better than what NCCL takes and 8 no worse; more cost the products more than they hide, and so does any cap where
 * parameters are only gathered. */
int step_ctas(const ShardOpts *shards, int ranks, bool full, int64_t tokens)
{
    const double FLOPS = 650e12, BYTES = 17e9, MARGIN = 1.5;
    enum { STEP = 4, MOST = 8 };
    bool beside = full && (shards->zero >= 2 || shards->in_backward);
    if (!beside || ranks < 2 || tokens < 1) return 0;
    double need = MARGIN * FLOPS / (double)tokens / BYTES * (ranks - 1) / ranks;
    return need <= MOST ? STEP * (int)ceil(need / STEP) : 0;
}

int step_ctas_of(const TrainConfig *c, int ranks)
{
    ShardOpts shards = step_shards(c);
    if (c->ctas >= 0) return (int)c->ctas;
    int64_t of_a_rank = (c->batch_global + ranks - 1) / ranks;
    int64_t rows = c->batch_micro < of_a_rank ? c->batch_micro : of_a_rank;
    if (c->shard_group > 0 && c->shard_group < ranks) ranks = (int)c->shard_group;
    return step_ctas(&shards, ranks, c->method == METHOD_FULL, rows * c->data.max_length);
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
    s->sums = vector(s->dev, SUM_N);
    s->loss_sum = element(&s->sums, SUM_LOSS);
    s->sum_squares = element(&s->sums, SUM_SQUARES);
    s->count = vector(s->dev, 1);
    s->update = update_new(shards, &opts->update, &s->loss_sum);
    if (opts->scratches > 1 && llama_quant_part(m)) {
        s->operands = operands_new(s->dev, opts->scratches, opts->decode_ahead);
        apply_operands(m, s->operands);
    }
    return s;
}

void stepper_free(Stepper *s)
{
    if (!s) return;
    update_free(s->update);
    operands_free(s->operands);
    tensor_clear(&s->sums);
    tensor_clear(&s->count);
    host_batch_clear(&s->host);
    batch_scratch_clear(&s->scratch);
    arena_free(s->arena);
    free(s);
}

static void micro_batch(Stepper *s, const HostBatch *host, int64_t epoch, int64_t n_trained)
{
    Ctx c = {.dev = s->dev,
             .arena = s->arena,
             .scope = scope_new(s->dev, s->arena),
             .tape = tape_new(s->arena),
             .key = rng_mix(s->opts.seed, (uint64_t)epoch),
             .trace = s->trace,
             .operands = s->operands};
    TrainBatch b;
    llama_stage(s->model, host->ids, host->n_tokens); /* while the device is busy still */
    batch_upload(&b, &c, host, &s->scratch);

    shards_begin_pass(s->shards, true);
    operands_begin(s->operands);
    scope_push(c.scope);
    device_range(s->dev, "forward");
    Tensor *all = llama_forward(&c, s->model, &b.batch);
    c.module = "head and loss";
    Tensor *h = op_gather_rows(&c, all, b.rows);
    scope_drop(c.scope, all); /* before the logits */
    Tensor *loss = op_linear_xent(&c, h, llama_head(s->model), b.targets, 1.0f / (float)n_trained,
                                  &s->loss_sum, NULL, 0);
    scope_pop(c.scope, loss);
    device_range(s->dev, NULL);

    device_range(s->dev, "backward");
    if (loss->needs_grad) {
        tensor_seed_grad(&c, loss, 1.0f);
        tape_backward(&c);
    }
    device_range(s->dev, NULL);
    operands_end(s->operands);
    shards_end_pass(s->shards);
    tape_free(c.tape);
    scope_free(c.scope);
    arena_reset(s->arena);
}

static void begin_step(Stepper *s, double lr, int64_t t)
{
    s->shards->comm->step = t;
    tensor_zero(s->dev, &s->sums);
    update_begin(s->update, lr, t);
}

/* After the last micro-batch: the update, and what the host wants to know. */
static StepResult end_step(Stepper *s, StepInfo info)
{
    Device *d = s->dev;
    StepResult r = {.info = info};
    Comm *ranks = s->shards->comm;
    device_range(d, "optimizer");
    update_measure(s->update, &s->sum_squares);
    ranks->of = "loss and norm";
    comm_wait(ranks, d, comm_all_reduce(ranks, d, &s->sums));
    update_apply(s->update, &s->sum_squares);
    device_range(d, NULL);

    float sums[SUM_N];
    tensor_read(d, &s->sums, sums);
    double n_trained = r.info.n_trained > 0 ? (double)r.info.n_trained : 1.0;
    r.loss = (double)sums[SUM_LOSS] / n_trained;
    r.grad_norm = sqrt((double)sums[SUM_SQUARES]);
    r.finite = update_finite(s->update) && isfinite(r.loss) && isfinite(r.grad_norm);
    r.changed = r.finite || s->opts.update.in_backward;
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

static int64_t count_dense(Stepper *s, const Tensor *t)
{
    float n;
    s->dev->k->count_nonfinite(s->dev, &s->count, 0.0f, t);
    tensor_read(s->dev, &s->count, &n);
    return (int64_t)n;
}

/* Of a matrix with a pitch (an adapter lies beside its rows) first what it spans, at once: mostly there is nothing. */
static int64_t count_nonfinite(Stepper *s, const Tensor *t)
{
    if (tensor_is_dense(t)) return count_dense(s, t);
    int64_t rows = t->shape[0], cols = t->shape[1];
    Tensor span = *t;
    span.n_dims = 1;
    span.shape[0] = span.ld = (rows - 1) * t->ld + cols;
    if (count_dense(s, &span) == 0) return 0;
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        Tensor row = tensor_slice_rows(t, i, 1);
        row.ld = cols;
        n += count_dense(s, &row);
    }
    return n;
}

static int64_t count_in_slice(Stepper *s, Param *p, int slice)
{
    Tensor view = param_slice_view(p, slice);
    if (!p->on_host) return count_nonfinite(s, &view);
    int64_t n = param_slice_numel(p, slice), bad = 0;
    float *host = xmalloc((size_t)n * sizeof *host);
    param_read(s->dev, p, slice, host);
    for (int64_t i = 0; i < n; i++)
        bad += !isfinite(host[i]);
    free(host);
    return bad;
}

bool stepper_blame_weights(Stepper *s, char *buf, size_t n)
{
    const ParamSet *ps = &s->model->params;
    bool found = false;
    for (int i = 0; i < ps->n && !found; i++) {
        Param *p = ps->items[i];
        param_open(p);
        bool coded = p->t.quant; /* no code is not finite */
        bool look = p->on_host || (!coded && count_nonfinite(s, &p->t) > 0);
        for (int k = 0; look && k < p->n_slices && !found; k++) {
            int64_t bad = count_in_slice(s, p, k);
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
    if (s->opts.update.in_backward) { /* they are gone */
        int unit = update_bad_unit(s->update);
        if (unit < 0) return false;
        snprintf(buf, n, "the gradient of the %s is not finite",
                 llama_segment(s->model, unit)->name);
        return true;
    }
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

/* printf shows the sign of a NaN, which says nothing: it depends on the operation that made it. */
static double without_sign_of_nan(double x)
{
    return isnan(x) ? fabs(x) : x;
}

/* A weight is seen by every rank, a gradient perhaps by one alone: the lowest rank that found something speaks for
 * all. */
const char *stepper_blame(Stepper *s, const StepResult *r, char *buf, size_t n)
{
    Comm *ranks = s->shards->comm;
    Err found = {0};
    if (!stepper_blame_weights(s, found.line, sizeof found.line) && isfinite(r->loss))
        blame_gradients(s, found.line, sizeof found.line);
    Err *all = xcalloc((size_t)ranks->size, sizeof *all);
    comm_exchange(ranks, all, &found, sizeof found);
    if (isfinite(r->loss))
        snprintf(buf, n, "the gradient's norm is %g", without_sign_of_nan(r->grad_norm));
    else
        snprintf(buf, n, "the loss is %g", without_sign_of_nan(r->loss));
    for (int i = ranks->size - 1; i >= 0; i--)
        if (all[i].line[0]) snprintf(buf, n, "%s", all[i].line);
    free(all);
    return buf;
}
