/* Steps, the same without communication, and floors in turns, so that all see the same warm card. */
#include "trainer/bench.h"

#include "base/clock.h"
#include "base/str.h"
#include "dist/launch.h"
#include "tensor/region.h"
#include "trainer/bench_impl.h"
#include "trainer/floor.h"
#include "trainer/when_full.h"

#include <stdlib.h>
#include <string.h>

enum { TURNS = 5, KERNEL_REPEATS = 20 };

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

/* All ranks begin together: what came before may have taken one of them longer. */
static double run_step(Bench *b, BenchLine *line)
{
    size_t sent = b->comm.sent_bytes, moved[MOVED_N];
    memcpy(moved, b->dev.moved, sizeof moved);
    comm_barrier(&b->comm);
    double began = seconds_monotonic();
    StepResult r = bench_step(b);
    double took = seconds_monotonic() - began;
    if (b->comm.mute) {
        line->mute_odd |= !r.finite;
    } else {
        line->loss = r.loss;
        line->sent_bytes = (double)(b->comm.sent_bytes - sent);
        for (int i = 0; i < MOVED_N; i++)
            line->moved[i] = (double)(b->dev.moved[i] - moved[i]);
    }
    return slowest(b, took);
}

static void run_steps(Bench *b, BenchLine *line, Times *t, double until, int64_t n)
{
    while (t->sum < until || t->n < n)
        times_add(t, run_step(b, line));
}

/* The same while nothing moves: what the others take longer is communication left exposed.  What ranks have in common they
 * have no more after it. */
static void run_mute(Bench *b, BenchLine *line, Times *t, double until, int64_t n)
{
    b->comm.mute = true;
    run_steps(b, line, t, until, n);
    b->comm.mute = false;
}

/* False: its buffers do not fit beside what is there. */
static bool run_floors(Bench *b, Times *t, double until, int64_t n)
{
    Floor f;
    if (t->sum >= until && t->n >= n) return true;
    if (!floor_open(&f, &b->dev, &b->opts->shape, b->opts->method == METHOD_FULL, b->batch))
        return false;
    int spare = b->dev.spare_sms; /* it has the device to itself */
    b->dev.spare_sms = 0;
    floor_run(&f); /* its first products choose their algorithms; the caches are another's */
    b->dev.backend->sync(&b->dev);
    while (t->sum < until || t->n < n) {
        double began = seconds_monotonic();
        floor_run(&f);
        b->dev.backend->sync(&b->dev);
        times_add(t, seconds_monotonic() - began);
    }
    b->dev.spare_sms = spare;
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

static bool several(const Bench *b)
{
    return b->comm.size > 1 && !b->opts->steps_only;
}

/* Steps of one batch, in turns with what they are compared with. */
static void measure(Bench *b, BenchLine *line)
{
    const BenchOpts *o = b->opts;
    Times steps = {0}, mute = {0}, floors = {0};
    for (int i = 1; i < BENCH_WARM_UP; i++)
        run_step(b, line);
    device_reset_peak(&b->dev);
    bool room = !o->no_floor;
    double loss = 0;
    for (int turn = 1; turn <= TURNS; turn++) {
        double until = o->seconds * turn / TURNS;
        int64_t n = (o->steps * turn + TURNS - 1) / TURNS;
        if (n < 1) n = 1;
        run_steps(b, line, &steps, until, n);
        if (turn == 1 || !several(b)) loss = line->loss;
        if (turn == 1) line->mem = fullest(b);
        if (several(b)) run_mute(b, line, &mute, until / 2, n);
        if (room) room = run_floors(b, &floors, until, n);
    }
    line->loss = loss; /* of the last step before what is mute came between */
    line->step_s = times_median(&steps);
    line->step_min_s = steps.s[0];
    line->step_max_s = steps.s[steps.n - 1];
    line->n_steps = steps.n;
    line->mute_s = times_median(&mute);
    line->floor_apart = !room && !o->no_floor;
    b->dev.backend->info(&b->dev, &line->info);
    free(steps.s);
    free(mute.s);
    keep_floor(line, &floors);
}

/* Every rank by itself and all at once, with all of the model: what they would do if they need not know of each other.  Not
 * measured where that has no room: with offload the host's is one rank's of several. */
static Status measure_alone(Bench *b, BenchResult *out, Err *err)
{
    Comm alone = comm_self();
    BenchOpts opts = *b->opts;
    opts.recompute = (int)b->mix.level;
    BenchResult *r = xcalloc(1, sizeof *r);
    r->copy_bandwidth = 1;
    bool fits = b->mix.n_more == 0 && opts.offload == OFFLOAD_NONE &&
                bench_plan(r, &opts, &b->dev, 1, err) == OK;
    free(r);
    err->line[0] = 0;
    if (slowest(b, fits ? 0 : 1) > 0) return OK;
    int ctas = b->dev.spare_sms;
    bench_close_model(b);
    b->dev.spare_sms = 0;
    Status s = bench_open_model(b, &alone, err);
    for (int i = 0; i < out->n_lines && s == OK; i++) {
        BenchLine ignored = {0};
        Times steps = {0};
        b->batch = &b->batches[i];
        for (int k = 0; k < BENCH_WARM_UP; k++)
            run_step(b, &ignored);
        run_steps(b, &ignored, &steps, b->opts->seconds / 2, b->opts->steps);
        out->lines[i].alone_s = times_median(&steps);
        free(steps.s);
    }
    bench_close_model(b);
    b->dev.spare_sms = ctas;
    return s;
}

/* Floors that found no room beside the model have the device to themselves. */
static void measure_apart(Bench *b, BenchResult *out)
{
    bench_close_model(b);
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

double bench_copy_bandwidth(Device *d)
{
    bool host = d->pool; /* which has no caches of this size, and less patience */
    size_t most = (size_t)(host ? 32 : 512) << 20, half = region_largest_free(d->region) / 2;
    int64_t n = (int64_t)(half < most ? half : most) / 256 * 64; /* whole blocks of the region */
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

static void count_parameters(const Bench *b, BenchResult *out)
{
    for (int i = 0; i < b->model.params.n; i++)
        out->n_params += tensor_numel(&b->model.params.items[i]->t);
    out->n_trained = shards_numel(&b->shards);
}

static Status run_lines(Bench *b, BenchResult *out, double began, Err *err)
{
    bench_make_batches(b, out);
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
    Status s = several(b) ? measure_alone(b, out, err) : OK;
    if (apart && s == OK) measure_apart(b, out);
    return s;
}

/* The least of what ranks say. */
static int64_t least(Comm *hosts, int64_t n)
{
    int64_t *all = xmalloc((size_t)hosts->size * sizeof *all);
    comm_exchange(hosts, all, &n, sizeof n);
    for (int i = 0; i < hosts->size; i++)
        if (all[i] < n) n = all[i];
    free(all);
    return n;
}

/* What every rank's device has room for. */
static Status fit_bench(BenchResult *out, BenchOpts *o, Comm *hosts, const Device *d, Err *err)
{
    if (o->largest) {
        o->micro = least(hosts, bench_largest(o, d, hosts->size));
        if (o->micro == 0) o->micro = 1; /* which is then told not to fit */
    }
    out->micro = o->micro;
    Status s = bench_plan(out, o, d, hosts->size, err);
    out->too_large = least(hosts, s == OK || out->planned_extent == 0) == 0;
    return comm_agree(hosts, s, err);
}

/* Blocks for NCCL: given, or chosen for these steps. */
static int ctas_of(const BenchOpts *o, int ranks)
{
    ShardOpts shards = bench_shards(o, ranks);
    if (o->ctas >= 0) return o->ctas;
    return step_ctas(&shards, ranks, o->method == METHOD_FULL, o->micro * o->seq);
}

Status bench_run(BenchResult *out, const BenchOpts *opts, Err *err)
{
    *out = (BenchResult){0};
    BenchOpts fitted = *opts;
    Bench b = {.opts = &fitted};
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
    if (status != OK) err_wrap(err, status, "--device");
    status = comm_agree(hosts, status, err);
    if (status != OK) {
        bench_close(&b);
        return status;
    }
    DeviceInfo info;
    backend->info(&b.dev, &info);
    out->gpu = info.n_sms > 0 ? gpu_match(info.name) : NULL;
    out->region_bytes = b.dev.region_bytes;
    out->copy_bandwidth = bench_copy_bandwidth(&b.dev);
    status = fit_bench(out, &fitted, hosts, &b.dev, err);
    b.mix = out->mix;
    if (status == OK && opts->exact) {
        device_close(&b.dev);
        out->region_bytes = device.region_bytes = out->planned_extent;
        status = comm_agree(hosts, device_open(&b.dev, backend, &device, opts->compute, err), err);
    }
    char settings[ADVICE_MAX];
    if (status == OK) device_when_full(&b.dev, when_full_bench(settings, &fitted, b.mix.level));
    if (status == OK)
        status = comm_agree(
            hosts, host_home_open(&b.home, &b.dev, opts->offload, &out->host, opts->threads, err),
            err);
    if (status == OK)
        status = launch_comm(&b.comm, hosts, &b.dev, ctas_of(&fitted, hosts->size), err);
    out->ctas = b.dev.spare_sms;
    if (out->ctas > 0 && opts->spare >= 0) b.dev.spare_sms = opts->spare;
    if (status == OK) status = comm_agree(hosts, bench_open_model(&b, &b.comm, err), err);
    if (status == OK) status = run_lines(&b, out, began, err);
    bench_close_model(&b);
    launch_comm_close(&b.comm, hosts);
    bench_close(&b);
    return status;
}
