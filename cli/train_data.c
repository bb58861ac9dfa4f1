#include "cli/train_data.h"

#include "data/report.h"

static const double GIB = 1024.0 * 1024.0 * 1024.0;

void print_data(const Session *s, const TrainConfig *c)
{
    if (s->log->level < LOG_INFO) return;
    dataset_report_print(stdout, "train", dataset_report(s->train), &c->data);
    if (s->eval) dataset_report_print(stdout, "eval", dataset_report(s->eval), &c->data);
    if (s->log->level >= LOG_VERBOSE && dataset_size(s->train) > 0) {
        Document first = dataset_document(s->train, 0);
        document_print(stdout, &first, s->tokenizer, 0);
    }
}

/* What the run will take, of what was reserved, and what the driver counts besides. */
static void print_plan(const Session *s)
{
    const TrainConfig *c = s->cfg;
    DeviceInfo info;
    StrBuf b = {0};
    recompute_mix_text(&b, c->mix, s->shape.n_layers);
    if (c->n_recompute_layers > 0) strbuf_printf(&b, " in %d layers", c->n_recompute_layers);
    s->dev.backend->info(&s->dev, &info);
    printf("memory: %.2f of %.2f GiB planned, recompute %s%s", (double)s->planned_bytes / GIB,
           (double)s->dev.region_bytes / GIB, c->recompute == RECOMPUTE_AUTO ? "auto: " : "",
           b.data);
    if (c->embed_on_host) printf(", embedding on the host");
    if (info.context_bytes > 0)
        printf("; driver and libraries took %.2f GiB before", (double)info.context_bytes / GIB);
    printf("\n");
    if (c->offload != OFFLOAD_NONE)
        printf("offload: %s: %.2f GiB of host memory a rank, %.2f of them pinned\n",
               offload_name(c->offload),
               (double)(s->planned_host.states + s->planned_host.pinned) / GIB,
               (double)s->planned_host.pinned / GIB);
    strbuf_clear(&b);
}

void print_model(const Session *s)
{
    if (s->log->level < LOG_INFO) return;
    int64_t all = 0;
    for (int i = 0; i < s->model.params.n; i++)
        all += tensor_numel(&s->model.params.items[i]->t);
    if (s->comm.size > 1)
        printf("ranks: %d, %d on this host, by %s; parallel.zero %lld\n", s->comm.size,
               s->comm.local_size, s->comm.ops->name, (long long)s->cfg->zero);
    int64_t trained = shards_numel(&s->shards);
    printf("model: %lld parameters, %lld trained (%.2f%%), %.1f MiB on %s\n", (long long)all,
           (long long)trained, 100.0 * (double)trained / (double)(all > 0 ? all : 1),
           (double)s->dev.mem.live_total / (1 << 20), s->dev.backend->name);
    if (s->planned_bytes > 0) print_plan(s);
}

void print_memory(const Session *s)
{
    if (s->log->level < LOG_INFO) return;
    size_t peak = s->dev.mem.peak_total;
    DeviceInfo info;
    s->dev.backend->info(&s->dev, &info);
    printf("memory: peak %.3f GiB", (double)peak / GIB);
    if (peak == s->planned_peak)
        printf(", as planned");
    else
        printf(", planned %.3f", (double)s->planned_peak / GIB);
    if (info.driver_bytes > 0)
        printf("; %.2f GiB reserved and %.2f before that, the driver counts %.2f",
               (double)s->dev.region_bytes / GIB, (double)info.context_bytes / GIB,
               (double)info.driver_bytes / GIB);
    printf("\n");
}
