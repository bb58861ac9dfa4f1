/* What ranks send each other around the passes of a step, without a model: parameters are there when a segment needs them
 * and gradients of all ranks and passes are added up, however they travel. */
#include "base/str.h"
#include "dist/comm_plan.h"
#include "dist/shard.h"
#include "kernels/kernels.h"
#include "kernels/plan/plan.h"
#include "tests/support/ranks.h"

#include <criterion/criterion.h>
#include <stdlib.h>

enum { N_UNITS = 4, N_PARAMS = 5, PASSES = 2 };

static const int units[N_PARAMS] = {0, 1, 1, 2, 3};
static const int64_t rows[N_PARAMS] = {700, 5, 131, 400, 3};

typedef struct Case {
    ShardOpts opts;
    int group; /* ranks that share what is split; 0: all */
} Case;

/* A set of parameters in a row of segments, one a unit. */
typedef struct Bed {
    Device *dev;
    Param p[N_PARAMS];
    ParamSet params;
    Comm run, across;
    ShardSet shards;
    Segment segments[N_UNITS];
} Bed;

static void bed_open(Bed *b, Device *d, Comm *c, const Case *k)
{
    *b = (Bed){.dev = d};
    for (int i = 0; i < N_PARAMS; i++) {
        char name[2] = {(char)('a' + i), 0};
        param_init(&b->p[i], name, d->compute, rows[i], 0, units[i]);
        paramset_add(&b->params, &b->p[i]);
        param_set_trained(&b->p[i], true);
    }
    ShardOpts opts = k->opts;
    Err err = {0};
    if (k->group > 0) {
        cr_assert_eq(comm_run(&b->run, c, k->group, &err), OK, "%s", err.line);
        cr_assert_eq(comm_across(&b->across, c, k->group, &err), OK, "%s", err.line);
        opts.run = &b->run;
        opts.across = &b->across;
    }
    shards_init(&b->shards, d, c, &b->params, &opts);
    Segment *segments[N_UNITS];
    ShardUse uses[N_UNITS];
    for (int i = 0; i < N_UNITS; i++) {
        b->segments[i] = (Segment){.trained = true};
        segments[i] = &b->segments[i];
        uses[i] = (ShardUse){.units = {i}, .n_units = 1, .name = "unit"};
    }
    uses[0].blind = true;
    uses[N_UNITS - 1].hold = true;
    shards_watch(&b->shards, segments, uses, N_UNITS);
}

static void bed_close(Bed *b)
{
    shards_clear(&b->shards);
    if (b->run.ops) comm_close(&b->run);
    if (b->across.ops) comm_close(&b->across);
    for (int i = 0; i < N_PARAMS; i++)
        param_clear(&b->p[i]);
    paramset_clear(&b->params);
}

static float value_of(int param, int64_t i)
{
    return (float)(param * 1000 + i);
}

static float gradient_of(int rank, int pass, int param, int64_t i)
{
    return (float)((rank + 1) * (pass + 2) + (param + i) % 11);
}

static void fill(Bed *b, int param, Tensor *t, int rank, int pass)
{
    float *host = xmalloc((size_t)rows[param] * sizeof *host);
    for (int64_t i = 0; i < rows[param]; i++)
        host[i] = rank < 0 ? value_of(param, i) : gradient_of(rank, pass, param, i);
    tensor_write_f32(b->dev, t, host);
    free(host);
}

/* This rank's parts of the parameters' values, as a checkpoint is read. */
static void set_values(Bed *b)
{
    for (int i = 0; i < N_PARAMS; i++) {
        param_open(&b->p[i]);
        fill(b, i, &b->p[i].t, -1, 0);
        param_close(&b->p[i], true);
    }
    shards_end_pass(&b->shards);
}

static int wrong_values(Bed *b, int unit)
{
    int wrong = 0;
    for (int i = 0; i < N_PARAMS; i++) {
        if (units[i] != unit) continue;
        float *got = xmalloc((size_t)rows[i] * sizeof *got);
        tensor_read_f32(b->dev, &b->p[i].t, got);
        for (int64_t k = 0; k < rows[i]; k++)
            wrong += got[k] != value_of(i, k);
        free(got);
    }
    return wrong;
}

/* Added to what earlier passes left, where that is still there. */
static void write_gradient(Bed *b, int param, int rank, int n)
{
    Tensor *grad = b->p[param].t.grad,
           mine = tensor_alloc(b->dev, grad->dtype, 1, &rows[param], MEM_ACTIVATION);
    fill(b, param, &mine, rank, n);
    if (!b->p[param].t.grad_written) tensor_zero(b->dev, grad);
    b->dev->k->axpy(b->dev, grad, 1, &mine);
    b->p[param].t.grad_written = true;
    tensor_clear(&mine);
}

static int pass(Bed *b, int rank, int n)
{
    int wrong = 0;
    shards_begin_pass(&b->shards, true);
    for (int i = 0; i < N_UNITS; i++) {
        const Segment *s = &b->segments[i];
        if (s->hooks) s->hooks->enter_forward(s->hooks_ud);
        wrong += wrong_values(b, i);
        if (s->hooks) s->hooks->leave_forward(s->hooks_ud);
    }
    for (int i = N_UNITS - 1; i >= 0; i--) {
        const Segment *s = &b->segments[i];
        if (s->hooks) s->hooks->enter_backward(s->hooks_ud);
        if (i > 0) wrong += wrong_values(b, i);
        for (int k = 0; k < N_PARAMS; k++)
            if (units[k] == i) write_gradient(b, k, rank, n);
        if (s->hooks) s->hooks->leave_backward(s->hooks_ud);
    }
    shards_end_pass(&b->shards);
    return wrong;
}

static int wrong_sums(Bed *b, int n_ranks)
{
    int wrong = 0;
    for (int i = 0; i < b->shards.n; i++) {
        const ParamShard *sh = &b->shards.items[i];
        for (int k = 0; k < sh->n_ranges; k++) {
            const ShardRange *r = &sh->ranges[k];
            Tensor view = shard_view(&sh->grad, r);
            float *got = xmalloc((size_t)r->numel * sizeof *got);
            tensor_read_f32(b->dev, &view, got);
            for (int64_t j = 0; j < r->numel; j++) {
                float want = 0;
                for (int rank = 0; rank < n_ranks; rank++)
                    for (int n = 0; n < PASSES; n++)
                        want += gradient_of(rank, n, (int)(r->param - b->p), r->first + j);
                wrong += got[j] != want;
            }
            free(got);
        }
    }
    return wrong;
}

static void on_rank(Comm *c, void *ud)
{
    const Case *k = ud;
    Device d;
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s", err.line);
    Bed b;
    bed_open(&b, &d, c, k);
    set_values(&b);
    for (int step = 0; step < 2; step++) {
        int wrong = 0;
        shards_begin_step(&b.shards);
        for (int n = 0; n < PASSES; n++)
            wrong += pass(&b, c->rank, n);
        shards_finish_grads(&b.shards);
        cr_expect_eq(wrong, 0, "stage %d, %d ranks: %d values not there", k->opts.zero, c->size,
                     wrong);
        wrong = wrong_sums(&b, c->size);
        cr_expect_eq(wrong, 0, "stage %d, %d ranks, exact %d, groups of %d: %d sums are wrong",
                     k->opts.zero, c->size, k->opts.exact, k->group, wrong);
        cr_expect_eq(d.mem.live[MEM_COMM], 0, "buffers are left after the step");
        shards_updated(&b.shards);
        /* the first unit is on its way to the next step */
        bool early = k->opts.zero == 3 && k->opts.ahead > 0 && c->size > 1;
        cr_expect_eq(b.shards.items[0].whole.storage != NULL && k->opts.zero == 3 && c->size > 1,
                     early);
    }
    bed_close(&b);
    device_close(&d); /* dies when something is left */
}

Test(shard_ranks, parameters_come_and_gradients_add_up, .timeout = 100)
{
    for (int n = 1; n <= 4; n++)
        for (int zero = 0; zero < 4; zero++)
            for (int exact = 0; exact < 2; exact++) {
                Case k = {.opts = {.zero = zero, .exact = exact, .ahead = (n + zero + exact) % 4}};
                ranks_run(n, on_rank, &k);
                k.group = 2;
                if (n == 4) ranks_run(n, on_rank, &k);
            }
}

/* Steps of four ranks on a device that computes nothing: bytes that each sends, the last one's for the next apart, and the most
 * memory that buffers take. */
static void plan_steps(ShardOpts opts, int n, size_t *sent, size_t *ahead, size_t *peak)
{
    PlanTarget target = {.cuda = true, .ranks = 4, .n_sms = 132};
    Device d;
    Err err = {0};
    Comm c = comm_plan(4);
    Bed b;
    cr_assert_eq(
        device_open(&d, backend_find("plan"), &(DeviceOpts){.target = &target}, DT_BF16, &err), OK,
        "%s", err.line);
    bed_open(&b, &d, &c, &(Case){.opts = opts});
    device_reset_peak(&d);
    for (int step = 0; step < n; step++) {
        c.sent_bytes = 0;
        shards_begin_step(&b.shards);
        shards_begin_pass(&b.shards, true);
        for (int i = 0; i < N_UNITS; i++) {
            b.segments[i].hooks->enter_forward(b.segments[i].hooks_ud);
            b.segments[i].hooks->leave_forward(b.segments[i].hooks_ud);
        }
        for (int i = N_UNITS - 1; i >= 0; i--) {
            b.segments[i].hooks->enter_backward(b.segments[i].hooks_ud);
            b.segments[i].hooks->leave_backward(b.segments[i].hooks_ud);
        }
        shards_end_pass(&b.shards);
        shards_finish_grads(&b.shards);
        if (opts.zero == 3) shards_updated(&b.shards);
        sent[step] = c.sent_bytes;
        ahead[step] = b.shards.sent_ahead;
    }
    *peak = d.mem.peak[MEM_COMM];
    bed_close(&b);
    device_close(&d);
}

/* bf16 gradients that are added up in f32 cost the bytes of bf16, on the wire and in memory. */
Test(shard_ranks, exact_sums_send_half)
{
    size_t exact, wide, narrow, exact_peak, wide_peak, narrow_peak, ahead;
    ShardOpts opts = {.zero = 2, .grads = DT_BF16, .reduce = DT_F32};
    plan_steps(opts, 1, &wide, &ahead, &wide_peak);
    opts.exact = true;
    plan_steps(opts, 1, &exact, &ahead, &exact_peak);
    opts.exact = false;
    opts.reduce = DT_BF16;
    plan_steps(opts, 1, &narrow, &ahead, &narrow_peak);
    cr_expect_eq(exact, narrow);
    cr_expect_eq(2 * exact, wide);
    cr_expect_lt(exact_peak, wide_peak);
}

/* A first step gathers its own first unit and the next step's; what it sends without that is what any other step sends. */
Test(shard_ranks, a_first_steps_bytes_tell_all_steps)
{
    size_t sent[3], ahead[3], peak, late[3], late_peak;
    ShardOpts opts = {.zero = 3, .grads = DT_BF16, .reduce = DT_F32, .exact = true, .ahead = 1};
    plan_steps(opts, 3, sent, ahead, &peak);
    cr_expect_gt(ahead[0], 0);
    cr_expect_eq(sent[0] - ahead[0], sent[1]);
    cr_expect_eq(sent[1], sent[2]);
    opts.ahead = 0;
    plan_steps(opts, 3, late, ahead, &late_peak);
    cr_expect_eq(ahead[0], 0);
    cr_expect_eq(late[0], sent[1]);
    cr_expect_lt(late_peak, peak);
}
