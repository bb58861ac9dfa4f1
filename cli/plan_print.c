#include "cli/plan_print.h"

#include "base/json.h"
#include "trainer/step.h"

#include <string.h>

static const double GIB = 1024.0 * 1024.0 * 1024.0, TERA = 1e12;

static double gib(size_t bytes)
{
    return (double)bytes / GIB;
}

static double step_floor(const RunPlan *p)
{
    return p->products.floor + p->attention.floor + p->other.floor;
}

static void print_memory(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    if (p->base[0]) strbuf_printf(b, "base: %s; embedding, head and norms as they are\n", p->base);
    strbuf_puts(b, "recompute: ");
    if (r->config->recompute == RECOMPUTE_AUTO) strbuf_puts(b, "auto takes ");
    recompute_mix_text(b, r->config->mix, p->n_layers);
    if (r->config->n_recompute_layers > 0)
        strbuf_printf(b, " in %d layers", r->config->n_recompute_layers);
    if (r->config->embed_on_host)
        strbuf_printf(b, "\nembedding: %son the host",
                      r->config->embedding == EMBEDDING_AUTO ? "auto keeps it " : "");
    strbuf_puts(b, "\nmemory at the peak, GiB\n");
    for (int c = 0; c < MEM_N; c++)
        if (p->mem.at_peak[c] > 0)
            strbuf_printf(b, "  %-12s %9.3f\n", mem_category_name((MemCategory)c),
                          gib(p->mem.at_peak[c]));
    strbuf_printf(b, "  %-12s %9.3f   (with what lies idle between blocks: %.3f)\n", "total",
                  gib(p->mem.peak_total), gib(p->extent));
    if (r->device->gpu)
        strbuf_printf(b,
                      "  %s has %.2f GiB; %.2f go to driver and libraries (assumed), %.2f stay "
                      "free\n",
                      r->device->name, gib(r->device->gpu->memory), gib(GPU_CONTEXT_BYTES),
                      gib(GPU_KEEP_FREE));
}

static void print_host(StrBuf *b, const PlanReport *r)
{
    const Staging *g = &r->plan->staging;
    double needs = (double)g->slot_bytes * g->n_needed / GIB;
    strbuf_printf(b, "host memory for saving (save.staging): %.3f GiB%s", gib(staging_bytes(g)),
                  r->plan->ranks > 1 ? " a rank" : "");
    if (g->n_slots < g->n_needed)
        strbuf_printf(b, " of the %.3f that a checkpoint needs: training waits while it is written",
                      needs);
    strbuf_putc(b, '\n');
}

static void print_verdict(StrBuf *b, const PlanReport *r)
{
    if (r->fits) {
        strbuf_printf(b, "fits %s: %.2f of %.2f GiB\n", r->device->name, gib(r->plan->extent),
                      gib(r->device->bytes));
        return;
    }
    strbuf_printf(b, "does not fit %s: needs %.2f of %.2f GiB\n", r->device->name,
                  gib(r->plan->extent), gib(r->device->bytes));
    for (int i = 0; i < r->n_advice; i++) {
        strbuf_puts(b, "  would fit with ");
        plan_advice_text(b, &r->advice[i], r->config, r->plan->n_layers);
        strbuf_putc(b, '\n');
    }
    if (r->n_advice == 0) {
        strbuf_puts(b, "  no setting would do; the least is ");
        plan_advice_text(b, &r->advice[0], r->config, r->plan->n_layers);
        strbuf_putc(b, '\n');
    }
}

static void print_work(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    double products = p->products.flops / TERA, attention = p->attention.flops / TERA;
    strbuf_printf(b,
                  "a step: %lld tokens, %lld trained, %lld documents, %lld micro-batch%s of %lld "
                  "row%s\n",
                  (long long)p->n_tokens, (long long)p->n_trained, (long long)p->n_docs,
                  (long long)p->n_micro, p->n_micro == 1 ? "" : "es",
                  (long long)r->config->batch_micro, r->config->batch_micro == 1 ? "" : "s");
    if (r->config->method == METHOD_FULL)
        strbuf_printf(b, "  gradients in %s, AdamW %s (train.gradients, train.update)\n",
                      r->config->gradients == PRECISION_BF16 ? "bf16" : "fp32",
                      r->config->update == UPDATE_IN_BACKWARD ? "within backward" : "after it");
    if (r->config->states == STATES_INT8)
        strbuf_puts(b, "  AdamW's states in 8 bits (optim.states)\n");
    strbuf_printf(b, "  TFLOP without attention %.4g, attention %.4g, together %.4g\n", products,
                  attention, products + attention);
    if (!r->device->gpu) return;
    double floor = step_floor(p);
    strbuf_printf(b,
                  "  least time on %s: %.4g s (products %.4g, attention %.4g, memory-bound "
                  "kernels %.4g, of which AdamW and the norm %.4g): %.0f tokens/s\n",
                  r->device->name, floor, p->products.floor, p->attention.floor, p->other.floor,
                  p->optimizer_floor, (double)p->n_tokens / floor);
    strbuf_printf(b, "  at %.1f %% of %.0f TFLOP/s and %.0f %% of %.2f TB/s (%s)\n",
                  100 * r->device->gpu->sustained, r->device->gpu->bf16_flops / TERA,
                  100 * r->device->gpu->copy, r->device->gpu->bandwidth / TERA,
                  r->device->gpu->measured ? "measured" : "shares taken over from the H200");
}

/* What all but the slowest fabrics reach inside a host: 310 GB/s were measured between 8 H200. */
static const double LINK = 300e9;

static void print_ranks(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    if (p->ranks == 1) return;
    strbuf_printf(b,
                  "%d ranks, parallel.zero %lld: each sends %.3f GB a step, %.3f of it when "
                  "nothing computes\n",
                  p->ranks, (long long)r->config->zero, p->sent_bytes / 1e9,
                  p->sent_uncovered / 1e9);
    int ctas = step_ctas_of(r->config, p->ranks);
    if (!r->device->gpu) return;
    if (ctas > 0)
        strbuf_printf(b, "  beside products NCCL takes %d of a GPU's multiprocessors\n", ctas);
    double covered = (p->sent_bytes - p->sent_uncovered) / LINK, floor = step_floor(p);
    double exposed = p->sent_uncovered / LINK + (covered > floor ? covered - floor : 0);
    strbuf_printf(
        b, "  at %.0f GB/s between GPUs (NVLink): %.4g s, of which at least %.4g s are exposed\n",
        LINK / 1e9, p->sent_bytes / LINK, exposed);
}

/* The ranks of a host, and what its memory does for all of them together: two sockets of eight channels of DDR5 read and
 * write 300 to 500 GB/s. */
enum { RANKS_A_HOST = 8 };
static const double HOST_BANDWIDTH = 300e9;

static int ranks_of_host(const RunPlan *p)
{
    return p->ranks < RANKS_A_HOST ? p->ranks : RANKS_A_HOST;
}

/* Seconds of a step: copies each way, AdamW on the host's cores, and what of these nothing covers. */
typedef struct HostTime {
    double up, down, adamw, exposed;
} HostTime;

/* The cores share the memory with the copies.  AdamW, its gradients and, where they do not come and go, its weights are
 * covered by the backward pass when that updates, about two thirds of the step; parameters by all of it. */
static HostTime host_time(const PlanReport *r)
{
    const RunPlan *p = r->plan;
    double pcie = r->device->gpu->pcie, floor = step_floor(p);
    double share = HOST_BANDWIDTH / ranks_of_host(p);
    HostTime t = {.up = p->moved[MOVED_UP] / pcie, .down = p->moved[MOVED_DOWN] / pcie};
    t.adamw = (p->host_bytes + p->moved[MOVED_UP] + p->moved[MOVED_DOWN]) / share;
    bool params = r->config->offload == OFFLOAD_PARAMS;
    double update = t.down > t.adamw ? t.down : t.adamw;
    if (!params && t.up > update) update = t.up;
    double covered = r->config->update == UPDATE_IN_BACKWARD ? floor * 2 / 3 : 0;
    t.exposed = (update > covered ? update - covered : 0);
    if (params && t.up > floor) t.exposed += t.up - floor;
    return t;
}

static void print_offload(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    if (r->config->offload == OFFLOAD_NONE) return;
    size_t each = p->host.states + p->host.pinned;
    strbuf_printf(b, "parallel.offload %s: %.2f GiB of host memory a rank, %.2f of them pinned",
                  offload_name((Offload)r->config->offload), gib(each), gib(p->host.pinned));
    if (p->ranks > 1)
        strbuf_printf(b, "; %.2f for %d ranks of a host", gib(each) * ranks_of_host(p),
                      ranks_of_host(p));
    strbuf_printf(
        b, "\n  a step brings %.3f GB up and %.3f GB down; AdamW reads and writes %.3f GB there\n",
        p->moved[MOVED_UP] / 1e9, p->moved[MOVED_DOWN] / 1e9, p->host_bytes / 1e9);
    if (!r->device->gpu) return;
    HostTime t = host_time(r);
    strbuf_printf(
        b,
        "  at %.0f GB/s each way: %.4g s up, %.4g down; at %.0f GB/s of a host's memory AdamW "
        "takes %.4g s; at least %.4g s are exposed\n",
        r->device->gpu->pcie / 1e9, t.up, t.down, HOST_BANDWIDTH / 1e9, t.adamw, t.exposed);
}

static void print_basis(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    if (p->assumed) {
        strbuf_printf(b, "data: %s%sfull rows of %lld tokens assumed, every token trained\n",
                      r->missing ? r->missing : "none", r->missing ? " is not there; " : "; ",
                      (long long)r->config->data.max_length);
        return;
    }
    strbuf_printf(b, "data: %lld micro-batch%s of %lld epoch%s compared, the largest %d run\n",
                  (long long)p->n_seen, p->n_seen == 1 ? "" : "es", (long long)p->epochs_seen,
                  p->epochs_seen == 1 ? "" : "s", p->n_tried);
    if (p->epochs_seen < p->epochs)
        strbuf_printf(b, "  the run has %lld epochs; the others are packed alike, not equally\n",
                      (long long)p->epochs);
}

void plan_print(StrBuf *b, const PlanReport *r)
{
    print_basis(b, r);
    print_work(b, r);
    print_ranks(b, r);
    print_offload(b, r);
    print_memory(b, r);
    print_host(b, r);
    print_verdict(b, r);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static void number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, "\"%s\": ", key);
    json_write_number(b, v);
    strbuf_puts(b, ", ");
}

static void bytes(StrBuf *b, const char *key, size_t v)
{
    strbuf_printf(b, "\"%s\": %zu, ", key, v);
}

static void end_object(StrBuf *b)
{
    b->len -= 2; /* the last ", " */
    b->data[b->len] = '\0';
    strbuf_putc(b, '}');
}

static void work_json(StrBuf *b, const char *key, const MeterCount *c, bool floor)
{
    strbuf_printf(b, "\"%s\": {", key);
    number(b, "flops", c->flops);
    number(b, "bytes", c->bytes);
    if (floor) number(b, "floor_s", c->floor);
    end_object(b);
    strbuf_puts(b, ", ");
}

void plan_print_json(StrBuf *b, const PlanReport *r)
{
    const RunPlan *p = r->plan;
    bool floor = r->device->gpu;
    strbuf_puts(b, "{\"device\": ");
    json_write_string(b, r->device->name, strlen(r->device->name));
    strbuf_printf(b, ", \"fits\": %s, \"assumed_data\": %s, ", r->fits ? "true" : "false",
                  p->assumed ? "true" : "false");
    StrBuf mix = {0};
    recompute_mix_text(&mix, r->config->mix, p->n_layers);
    strbuf_puts(b, "\"recompute\": ");
    json_write_string(b, mix.data, mix.len);
    strbuf_puts(b, ", ");
    strbuf_clear(&mix);
    bytes(b, "device_bytes", r->device->bytes);
    bytes(b, "peak_bytes", p->mem.peak_total);
    bytes(b, "extent_bytes", p->extent);
    bytes(b, "staging_bytes", staging_bytes(&p->staging));
    bytes(b, "staging_needed_bytes", p->staging.slot_bytes * (size_t)p->staging.n_needed);
    strbuf_puts(b, "\"at_peak\": {");
    for (int c = 0; c < MEM_N; c++)
        bytes(b, mem_category_name((MemCategory)c), p->mem.at_peak[c]);
    end_object(b);
    strbuf_printf(b, ", \"gradients\": \"%s\", \"update\": \"%s\", \"states\": \"%s\"",
                  r->config->gradients == PRECISION_BF16 ? "bf16" : "fp32",
                  r->config->update == UPDATE_IN_BACKWARD ? "in_backward" : "after",
                  r->config->states == STATES_INT8 ? "int8" : "fp32");
    strbuf_printf(b,
                  ", \"step\": {\"tokens\": %lld, \"trained\": %lld, \"documents\": %lld, "
                  "\"micro_batches\": %lld, ",
                  (long long)p->n_tokens, (long long)p->n_trained, (long long)p->n_docs,
                  (long long)p->n_micro);
    work_json(b, "products", &p->products, floor);
    work_json(b, "attention", &p->attention, floor);
    work_json(b, "other", &p->other, floor);
    if (floor) number(b, "floor_s", step_floor(p));
    if (r->config->offload != OFFLOAD_NONE) {
        number(b, "up_bytes", p->moved[MOVED_UP]);
        number(b, "down_bytes", p->moved[MOVED_DOWN]);
        number(b, "host_adamw_bytes", p->host_bytes);
        if (floor) number(b, "host_exposed_s", host_time(r).exposed);
    }
    if (p->ranks > 1) {
        number(b, "sent_bytes", p->sent_bytes);
        number(b, "sent_uncovered_bytes", p->sent_uncovered);
        number(b, "ctas", step_ctas_of(r->config, p->ranks));
    }
    end_object(b);
    strbuf_printf(b, ", \"offload\": \"%s\", \"host_bytes\": %zu, \"pinned_bytes\": %zu",
                  offload_name((Offload)r->config->offload), p->host.states + p->host.pinned,
                  p->host.pinned);
    if (p->ranks > 1)
        strbuf_printf(b, ", \"ranks\": %d, \"zero\": %lld", p->ranks, (long long)r->config->zero);
    strbuf_puts(b, ", \"advice\": [");
    for (int i = 0; i < r->n_advice; i++) {
        const PlanAdvice *a = &r->advice[i];
        const TrainConfig *c = r->config;
        strbuf_printf(b,
                      "%s{\"batch.micro\": %lld, \"train.recompute\": \"%s\", \"in_backward\": %s, "
                      "\"parallel.zero\": %lld, \"parallel.offload\": \"%s\"",
                      i ? ", " : "", (long long)a->micro,
                      recompute_name(a->recompute ? RECOMPUTE_AUTO : c->recompute),
                      a->in_backward ? "true" : "false",
                      (long long)(a->zero > 0 ? a->zero : c->zero),
                      offload_name(a->offload != OFFLOAD_NONE ? a->offload : (Offload)c->offload));
        if (a->qlora) strbuf_puts(b, ", \"method\": \"qlora\"");
        if (a->eval_tokens > 0)
            strbuf_printf(b, ", \"eval.tokens\": %lld", (long long)a->eval_tokens);
        if (a->embed_host) strbuf_puts(b, ", \"model.embedding\": \"host\"");
        if (a->bf16_gradients) strbuf_puts(b, ", \"train.gradients\": \"bf16\"");
        strbuf_printf(b, ", \"bytes\": %zu}", a->extent);
    }
    strbuf_puts(b, "]}\n");
}
