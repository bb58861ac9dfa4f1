/* Steps and floors in turns, so that both see the same warm card. */
#include "trainer/bench.h"

#include "base/clock.h"
#include "base/str.h"
#include "dist/comm_plan.h"
#include "dist/launch.h"
#include "model/hf_files.h"
#include "tensor/region.h"
#include "trainer/apply.h"
#include "trainer/bench_batch.h"
#include "trainer/floor.h"
#include "trainer/plan.h"
#include "trainer/step.h"

#include <stdlib.h>

enum { WARM_UP = 2, TURNS = 5, KERNEL_REPEATS = 20, MAX_TIMES = 100000 };

typedef struct Times {
    double *s;
    int64_t n, cap;
    double sum;
} Times;

static void times_add(Times *t, double s)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->s = xrealloc(t->s, (size_t)t->cap * sizeof *t->s);
    }
    t->s[t->n++] = s;
    t->sum += s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double times_median(Times *t)
{
    if (t->n == 0) return 0;
    qsort(t->s, (size_t)t->n, sizeof *t->s, by_value);
    return t->n % 2 ? t->s[t->n / 2] : 0.5 * (t->s[t->n / 2 - 1] + t->s[t->n / 2]);
}

typedef struct Bench {
    const BenchOpts *opts;
    RecomputeMix mix;
    Device dev;
    Llama model;
    LoraSet lora;
    Comm comm;
    ShardSet shards;
    Stepper *stepper;
    HostBatch batches[BENCH_MAX_LINES], *batch; /* of the line that runs */
    int64_t t;                                  /* steps so far */
    bool has_model, has_lora;
} Bench;

static const uint64_t SEED = 1;

static Status open_model(Bench *b, Err *err)
{
    const BenchOpts *o = b->opts;
    llama_init(&b->model, &o->shape, &b->dev, o->seq);
    b->has_model = true;
    llama_quantize(&b->model, &o->quant);
    if (o->method != METHOD_FULL) {
        TRY(lora_attach(&b->lora, &b->model, &o->lora, err));
        b->has_lora = true;
    } else {
        apply_full(&b->model);
    }
    recompute_apply(&b->model, b->mix);
    ShardOpts shards = {
        .zero = o->zero, .grads = o->gradients, .reduce = o->reduce, .in_backward = o->in_backward};
    shards_init(&b->shards, &b->dev, &b->comm, &b->model.params, &shards);
    apply_shards(&b->model, &b->shards);
    model_init_random(&b->model, SEED);
    if (b->has_lora) lora_init_weights(&b->lora, &b->dev, SEED);
    StepOpts step = {.update = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
                                .clip = 1,
                                .clip_by = o->in_backward ? CLIP_BLOCK : CLIP_GLOBAL,
                                .in_backward = o->in_backward},
                     .micro_rows = o->micro,
                     .seed = SEED};
    b->stepper = stepper_new(&b->model, &b->shards, NULL, &step, NULL);
    return OK;
}

static void close_model(Bench *b)
{
    stepper_free(b->stepper);
    b->stepper = NULL;
    shards_clear(&b->shards);
    if (b->has_lora) lora_detach(&b->lora, &b->model);
    if (b->has_model) llama_clear(&b->model);
    b->has_lora = b->has_model = false;
}

static void close_bench(Bench *b)
{
    close_model(b);
    for (int i = 0; i < BENCH_MAX_LINES; i++)
        host_batch_clear(&b->batches[i]);
    if (b->dev.backend) device_close(&b->dev);
}

static void make_batches(Bench *b, BenchResult *out)
{
    const BenchOpts *o = b->opts;
    int64_t V = o->shape.vocab_size;
    out->n_lines = 0;
    if (o->full) {
        bench_batch_full(&b->batches[out->n_lines], o->micro, o->seq, V, SEED);
        out->lines[out->n_lines++].packed = false;
    }
    if (o->packed) {
        bench_batch_packed(&b->batches[out->n_lines], o->micro, o->seq, o->lens, o->n_lens, V,
                           SEED);
        out->lines[out->n_lines++].packed = true;
    }
    b->batch = &b->batches[0];
}

/* The slowest rank's, on every rank: so that all go on or stop together. */
static double slowest(Bench *b, double seconds)
{
    double *all = xmalloc((size_t)b->comm.size * sizeof *all);
    comm_exchange(&b->comm, all, &seconds, sizeof seconds);
    for (int i = 0; i < b->comm.size; i++)
        if (all[i] > seconds) seconds = all[i];
    free(all);
    return seconds;
}

static double run_step(Bench *b, BenchLine *line)
{
    size_t sent = b->comm.sent_bytes;
    double began = seconds_monotonic();
    StepResult r = stepper_run_batches(b->stepper, b->batch, 1, 1e-5, ++b->t);
    line->loss = r.loss;
    line->sent_bytes = (double)(b->comm.sent_bytes - sent);
    return slowest(b, seconds_monotonic() - began);
}

static void run_steps(Bench *b, BenchLine *line, Times *t, double until, int64_t n)
{
    while (t->sum < until || t->n < n)
        times_add(t, run_step(b, line));
}

/* False: its buffers do not fit beside what is there. */
static bool run_floors(Bench *b, Times *t, double until, int64_t n)
{
    Floor f;
    if (t->sum >= until && t->n >= n) return true;
    if (!floor_open(&f, &b->dev, &b->opts->shape, b->opts->method == METHOD_FULL, b->batch))
        return false;
    floor_run(&f); /* its first products choose their algorithms; the caches are another's */
    b->dev.backend->sync(&b->dev);
    while (t->sum < until || t->n < n) {
        double began = seconds_monotonic();
        floor_run(&f);
        b->dev.backend->sync(&b->dev);
        times_add(t, seconds_monotonic() - began);
    }
    floor_close(&f);
    return true;
}

static void keep_floor(BenchLine *line, Times *t)
{
    line->n_floors = t->n;
    if (t->n > 0) line->floor_s = times_median(t) + line->floor_adamw_s;
    free(t->s);
}

/* Of the rank with the highest peak. */
static MemStats fullest(Bench *b)
{
    MemStats *all = xmalloc((size_t)b->comm.size * sizeof *all), most;
    comm_exchange(&b->comm, all, &b->dev.mem, sizeof *all);
    most = all[0];
    for (int i = 1; i < b->comm.size; i++)
        if (all[i].peak_total > most.peak_total) most = all[i];
    free(all);
    return most;
}

/* The same steps while nothing moves: what the others take longer is communication left exposed.  The last thing that is
 * measured, for no weight is right after it. */
static void measure_mute(Bench *b, BenchLine *line)
{
    Times steps = {0};
    double loss = line->loss, sent = line->sent_bytes;
    b->comm.mute = true;
    run_step(b, line);
    run_steps(b, line, &steps, b->opts->seconds / 2, b->opts->steps);
    b->comm.mute = false;
    line->mute_s = times_median(&steps);
    line->loss = loss;
    line->sent_bytes = sent;
    free(steps.s);
}

/* Steps of one batch, in turns with its floor. */
static void measure(Bench *b, BenchLine *line)
{
    const BenchOpts *o = b->opts;
    Times steps = {0}, floors = {0};
    for (int i = 1; i < WARM_UP; i++)
        run_step(b, line);
    device_reset_peak(&b->dev);
    bool room = !o->no_floor;
    for (int turn = 1; turn <= TURNS; turn++) {
        double until = o->seconds * turn / TURNS;
        int64_t n = (o->steps * turn + TURNS - 1) / TURNS;
        run_steps(b, line, &steps, until, n > 0 ? n : 1);
        if (turn == 1) line->mem = fullest(b);
        if (room) room = run_floors(b, &floors, until, n > 0 ? n : 1);
    }
    line->step_s = times_median(&steps);
    line->step_min_s = steps.s[0];
    line->step_max_s = steps.s[steps.n - 1];
    line->n_steps = steps.n;
    line->floor_apart = !room && !o->no_floor;
    b->dev.backend->info(&b->dev, &line->info);
    free(steps.s);
    keep_floor(line, &floors);
}

/* Floors that found no room beside the model have the device to themselves. */
static void measure_apart(Bench *b, BenchResult *out)
{
    close_model(b);
    for (int i = 0; i < out->n_lines; i++) {
        BenchLine *line = &out->lines[i];
        Times floors = {0};
        b->batch = &b->batches[i];
        if (!line->floor_apart) continue;
        run_floors(b, &floors, b->opts->seconds, b->opts->steps);
        keep_floor(line, &floors);
    }
}

static void count_work(Bench *b, BenchLine *line)
{
    const BenchOpts *o = b->opts;
    const LlamaConfig *c = &o->shape;
    double C = (double)c->hidden_size, q = (double)(c->n_heads * c->head_dim);
    double kv = (double)(c->n_kv_heads * c->head_dim), F = (double)c->intermediate_size;
    double layers = (double)c->n_layers, squares = 0;
    double n = layers * (C * (2 * q + 2 * kv) + 3 * C * F) + (double)c->vocab_size * C;
    for (int i = 0; i < b->batch->n_docs; i++) {
        double len = b->batch->cu_docs[i + 1] - b->batch->cu_docs[i];
        squares += len * len;
    }
    line->n_tokens = b->batch->n_tokens * b->comm.size;
    line->n_docs = (int64_t)b->batch->n_docs * b->comm.size;
    line->flops_plain = (o->method == METHOD_FULL ? 6 : 4) * n * (double)b->batch->n_tokens;
    line->flops_attention = 6 * squares * q * layers;
}

/* Bytes a second of a copy on the device, read and written. */
static double copy_bandwidth(Device *d)
{
    bool host = d->pool; /* which has no caches of this size, and less patience */
    size_t most = (size_t)(host ? 32 : 512) << 20, half = region_largest_free(d->region) / 2;
    int64_t n = (int64_t)(half < most ? half : most) / 4;
    Tensor x = tensor_alloc(d, DT_F32, 1, &n, MEM_WORKSPACE);
    Tensor y = tensor_alloc(d, DT_F32, 1, &n, MEM_WORKSPACE);
    double best = 0;
    for (int i = 0, runs = host ? 2 : 10; i < 5; i++) {
        d->backend->sync(d);
        double began = seconds_monotonic();
        for (int k = 0; k < runs; k++)
            d->backend->copy(d, tensor_data(&y), tensor_data(&x), (size_t)n * 4, COPY_ON_DEVICE);
        d->backend->sync(d);
        double rate = runs * 8 * (double)n / (seconds_monotonic() - began);
        if (rate > best) best = rate;
    }
    tensor_clear(&x);
    tensor_clear(&y);
    return best;
}

static void look_inside(Bench *b, BenchResult *out)
{
    BenchLine ignored = {0};
    b->batch = &b->batches[0];
    if (b->opts->profile) {
        meter_attach(&out->meter, &b->dev, out->gpu, true);
        run_step(b, &ignored);
        meter_detach(&out->meter, &b->dev);
    }
    if (!b->opts->kernels) return;
    meter_attach(&out->repeated, &b->dev, out->gpu, true);
    out->repeated.repeats = KERNEL_REPEATS;
    stepper_run_batches(b->stepper, b->batch, 1, 0, ++b->t);
    meter_detach(&out->repeated, &b->dev);
}

static double bytes_of(const Meter *m, const char *kernel)
{
    for (int i = 0; i < N_KERNELS; i++)
        if (str_eq(kernel_name(i), kernel)) return m->kernels[i].bytes;
    return 0;
}

/* The same steps on a plan device: what they need, what the peaks will be, what AdamW moves. */
typedef struct Planned {
    const BenchOpts *opts;
    PlanTarget target;
    BenchResult *out;
    Err *err;
} Planned;

static void plan_line(Planned *p, Bench *b, BenchLine *line)
{
    Meter meter;
    for (int k = b->t == 0 ? 0 : 1; k < WARM_UP; k++)
        run_step(b, line);
    device_reset_peak(&b->dev);
    meter_attach(&meter, &b->dev, NULL, false);
    run_step(b, line);
    meter_detach(&meter, &b->dev);
    line->planned_peak = b->dev.mem.peak_total;
    if (p->opts->method == METHOD_FULL)
        line->floor_adamw_s = bytes_of(&meter, "adamw") / p->out->copy_bandwidth;
}

static size_t plan_steps(void *ud, RecomputeMix mix)
{
    Planned *p = ud;
    Bench b = {.opts = p->opts, .mix = mix};
    b.comm = p->target.ranks > 1 ? comm_plan(p->target.ranks) : comm_self();
    size_t need = SIZE_MAX;
    Status status = device_open(&b.dev, backend_find("plan"), &(DeviceOpts){.target = &p->target},
                                p->opts->compute, p->err);
    if (status == OK) status = open_model(&b, p->err);
    if (status == OK) {
        make_batches(&b, p->out);
        for (int i = 0; i < p->out->n_lines; i++) {
            b.batch = &b.batches[i];
            plan_line(p, &b, &p->out->lines[i]);
        }
        need = region_extent(b.dev.region);
    }
    close_bench(&b);
    return need;
}

/* Chooses the mix and refuses what does not fit. */
static Status plan_bench(BenchResult *out, const BenchOpts *o, const Device *real, Err *err)
{
    Planned p = {o, plan_target_of(real), out, err};
    p.target.ranks = o->hosts ? o->hosts->size : 1;
    bool automatic = o->recompute == RECOMPUTE_AUTO;
    if (!automatic) out->mix.level = (Recompute)o->recompute;
    size_t need = plan_steps(&p, out->mix), bytes = real->region_bytes;
    if (need == SIZE_MAX) return E_INPUT;
    if (need > bytes && automatic) {
        out->mix = recompute_fit(&need, o->shape.n_layers, bytes, plan_steps, &p);
        plan_steps(&p, out->mix);
    }
    out->planned_extent = need;
    if (need <= bytes) return OK;
    return err_set(err, E_INPUT,
                   "the step needs %.2f GiB and there are %.2f; take a smaller --micro%s",
                   (double)need / (double)(1 << 30), (double)bytes / (double)(1 << 30),
                   automatic ? "" : ", or --recompute auto");
}

static void count_parameters(const Bench *b, BenchResult *out)
{
    for (int i = 0; i < b->model.params.n; i++)
        out->n_params += tensor_numel(&b->model.params.items[i]->t);
    out->n_trained = shards_numel(&b->shards);
}

static void run_lines(Bench *b, BenchResult *out, double began)
{
    make_batches(b, out);
    count_parameters(b, out);
    bool apart = false;
    for (int i = 0; i < out->n_lines; i++) {
        BenchLine *line = &out->lines[i];
        b->batch = &b->batches[i];
        count_work(b, line);
        if (i == 0) {
            run_step(b, line);
            out->first_step_s = seconds_monotonic() - began;
        }
        measure(b, line);
        apart |= line->floor_apart;
    }
    look_inside(b, out);
    for (int i = 0; i < out->n_lines && b->comm.size > 1; i++) {
        b->batch = &b->batches[i];
        measure_mute(b, &out->lines[i]);
    }
    if (apart) measure_apart(b, out);
}

Status bench_run(BenchResult *out, const BenchOpts *opts, Err *err)
{
    *out = (BenchResult){0};
    Bench b = {.opts = opts};
    double began = seconds_monotonic();
    const Backend *backend = backend_find(opts->device);
    if (!backend || str_eq(opts->device, "plan"))
        return err_set(err, E_INPUT, "--device: '%s' is not built in; there is %s", opts->device,
                       backend_names());
    DeviceOpts device = {.threads = opts->threads,
                         .region_bytes = (size_t)(opts->memory_gib * 1024 * 1024 * 1024),
                         .own_attention = opts->own_attention,
                         .deterministic = opts->deterministic};
    Comm alone = comm_self(), *hosts = opts->hosts ? opts->hosts : &alone;
    device.keep_bytes = launch_keep_bytes(hosts);
    Status status = launch_ordinal(&device.ordinal, hosts, backend, err);
    if (status == OK) status = device_open(&b.dev, backend, &device, opts->compute, err);
    status = comm_agree(hosts, status, err);
    if (status != OK) {
        close_bench(&b);
        return status;
    }
    DeviceInfo info;
    backend->info(&b.dev, &info);
    out->gpu = info.n_sms > 0 ? gpu_match(info.name) : NULL;
    out->region_bytes = b.dev.region_bytes;
    out->copy_bandwidth = copy_bandwidth(&b.dev);
    status = comm_agree(hosts, plan_bench(out, opts, &b.dev, err), err);
    b.mix = out->mix;
    if (status == OK && opts->exact) {
        device_close(&b.dev);
        out->region_bytes = device.region_bytes = out->planned_extent;
        status = comm_agree(hosts, device_open(&b.dev, backend, &device, opts->compute, err), err);
    }
    if (status == OK) status = launch_comm(&b.comm, hosts, &b.dev, 0, err);
    if (status == OK) status = comm_agree(hosts, open_model(&b, err), err);
    if (status == OK) run_lines(&b, out, began);
    close_model(&b);
    launch_comm_close(&b.comm, hosts);
    close_bench(&b);
    return status;
}
