/* A benchmark planned: whether it fits, and with which recompute or how many rows it does. */
#include "base/meminfo.h"
#include "base/str.h"
#include "dist/comm_plan.h"
#include "tensor/region.h"
#include "trainer/bench_impl.h"

#include <stdlib.h>

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
    for (int k = b->t == 0 ? 0 : 1; k < BENCH_WARM_UP; k++)
        bench_step(b);
    device_reset_peak(&b->dev);
    meter_attach(&meter, &b->dev, NULL, false);
    bench_step(b);
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
    if (status == OK) status = host_home_open(&b.home, &b.dev, p->opts->offload, NULL, 1, p->err);
    if (status == OK) status = bench_open_model(&b, &b.comm, p->err);
    if (status == OK) {
        bench_make_batches(&b, p->out);
        for (int i = 0; i < p->out->n_lines; i++) {
            b.batch = &b.batches[i];
            plan_line(p, &b, &p->out->lines[i]);
        }
        need = region_extent(b.dev.region);
        p->out->host = host_home_need(&b.home);
    }
    bench_close(&b);
    return need;
}

static Status check_host(const BenchResult *out, const BenchOpts *o, const Device *real, Err *err)
{
    int ranks = o->hosts && o->hosts->local_size > 1 ? o->hosts->local_size : 1;
    size_t also = real->pool ? out->planned_extent : 0; /* a CPU's region is host memory itself */
    if (o->offload == OFFLOAD_NONE) return OK;
    Status s = host_home_check(&out->host, also, ranks, meminfo_available(""), err);
    return s == OK ? OK : err_wrap(err, s, "--offload");
}

Status bench_plan(BenchResult *out, const BenchOpts *o, const Device *real, int ranks, Err *err)
{
    Planned p = {o, plan_target_of(real), out, err};
    p.target.ranks = ranks;
    bool automatic = o->recompute == RECOMPUTE_AUTO;
    if (!automatic) out->mix.level = (Recompute)o->recompute;
    size_t need = plan_steps(&p, out->mix), bytes = real->region_bytes;
    if (need == SIZE_MAX) return E_INPUT;
    if (need > bytes && automatic) {
        out->mix = recompute_fit(&need, o->shape.n_layers, bytes, plan_steps, &p);
        plan_steps(&p, out->mix);
    }
    out->planned_extent = need;
    if (need <= bytes) return check_host(out, o, real, err);
    return err_set(err, E_INPUT,
                   "the step needs %.2f GiB and there are %.2f; take a smaller --micro%s",
                   (double)need / (double)(1 << 30), (double)bytes / (double)(1 << 30),
                   automatic ? "" : ", or --recompute auto");
}

int64_t bench_largest(const BenchOpts *o, const Device *real, int ranks)
{
    enum { MOST = 1024 };
    int64_t fits = 0, beyond = MOST + 1;
    BenchResult *r = xcalloc(1, sizeof *r);
    while (beyond - fits > 1) {
        BenchOpts tried = *o;
        Err ignored = {0};
        *r = (BenchResult){.copy_bandwidth = 1};
        /* doubled until it is too much, then halved */
        tried.micro =
            beyond > MOST && 2 * fits <= MOST ? (fits ? 2 * fits : 1) : (fits + beyond) / 2;
        if (bench_plan(r, &tried, real, ranks, &ignored) == OK)
            fits = tried.micro;
        else
            beyond = tried.micro;
    }
    free(r);
    return fits;
}
