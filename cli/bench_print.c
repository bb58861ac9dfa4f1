#include "cli/bench_print.h"

#include "base/json.h"

#include <string.h>

static const double GIB = 1024.0 * 1024.0 * 1024.0, TERA = 1e12, GIGA = 1e9;

/* The share of the peak, in percent; 0 where no peak is known. */
static double mfu(const BenchOpts *o, const BenchResult *r, const BenchLine *l, double flops)
{
    if (!r->gpu || o->compute != DT_BF16) return 0;
    return 100 * flops / l->step_s / r->gpu->bf16_flops;
}

static void print_floor(StrBuf *b, const BenchOpts *o, const BenchLine *l)
{
    if (o->no_floor) return;
    if (l->floor_s <= 0) {
        strbuf_puts(b, "  floor             none: no room for its buffers\n");
        return;
    }
    strbuf_printf(b, "  floor      %10.4f s  median of %lld: base products and attention alone",
                  l->floor_s, (long long)l->n_floors);
    if (l->floor_adamw_s > 0)
        strbuf_printf(b, ", and %.4f for AdamW's bytes at copy bandwidth", l->floor_adamw_s);
    strbuf_printf(b, "%s; step / floor %.3f\n",
                  l->floor_apart ? " (after the steps: beside them it has no room)" : "",
                  l->step_s / l->floor_s);
}

static int ranks_of(const BenchOpts *o)
{
    return o->hosts ? o->hosts->size : 1;
}

static void print_ranks(StrBuf *b, const BenchOpts *o, const BenchResult *r, const BenchLine *l)
{
    strbuf_printf(b, "  ranks      %10d  stage %d; each sends %.3f GB a step", ranks_of(o), o->zero,
                  l->sent_bytes / GIGA);
    if (r->ctas > 0) strbuf_printf(b, " by %d of its multiprocessors", r->ctas);
    strbuf_putc(b, '\n');
    if (o->steps_only) return;
    strbuf_printf(
        b,
        "  exposed    %10.4f s  of communication, %.1f %% of the step, which takes %.4f s "
        "when nothing is sent\n",
        l->step_s - l->mute_s, 100 * (l->step_s - l->mute_s) / l->step_s, l->mute_s);
    if (l->mute_odd)
        strbuf_puts(b, "                    at most: those met numbers that are not finite\n");
    if (l->alone_s > 0)
        strbuf_printf(b,
                      "  unsharded  %10.4f s  every rank by itself, all at once: scaling %.1f %%\n",
                      l->alone_s, 100 * l->alone_s / l->step_s);
    else
        strbuf_puts(b, "  unsharded        none: one rank has no room for all of the model\n");
}

static void print_speed(StrBuf *b, const BenchOpts *o, const BenchResult *r, const BenchLine *l)
{
    double both = l->flops_plain + l->flops_attention;
    strbuf_printf(b,
                  "  step       %10.4f s  median of %lld (%.4f to %.4f), %lld tokens, %lld "
                  "documents\n",
                  l->step_s, (long long)l->n_steps, l->step_min_s, l->step_max_s,
                  (long long)l->n_tokens, (long long)l->n_docs);
    strbuf_printf(b, "  speed      %10.0f tokens/s%s\n", (double)l->n_tokens / l->step_s,
                  ranks_of(o) > 1 ? " in all" : "");
    if (ranks_of(o) > 1) print_ranks(b, o, r, l);
    strbuf_printf(b, "  work       %10.4g TFLOP/s with attention, %.4g without (%s a token)\n",
                  both / l->step_s / TERA, l->flops_plain / l->step_s / TERA,
                  o->method == METHOD_FULL ? "6 N" : "4 N");
    if (mfu(o, r, l, both) > 0)
        strbuf_printf(b,
                      "  MFU        %10.1f %% with attention, %.1f %% without, of %.0f TFLOP/s\n",
                      mfu(o, r, l, both), mfu(o, r, l, l->flops_plain), r->gpu->bf16_flops / TERA);
    print_floor(b, o, l);
}

static void print_host(StrBuf *b, const BenchOpts *o, const BenchResult *r, const BenchLine *l)
{
    if (o->offload == OFFLOAD_NONE) return;
    strbuf_printf(
        b,
        "  host       %10.3f GiB a rank, %.3f of them pinned; a step brings %.3f GB up and "
        "%.3f GB down\n",
        (double)(r->host.states + r->host.pinned) / GIB, (double)r->host.pinned / GIB,
        l->moved[MOVED_UP] / GIGA, l->moved[MOVED_DOWN] / GIGA);
}

static void print_memory(StrBuf *b, const BenchResult *r, const BenchLine *l)
{
    strbuf_printf(b, "  peak       %10.3f GiB live:", (double)l->mem.peak_total / GIB);
    for (int c = 0; c < MEM_N; c++)
        if (l->mem.at_peak[c] > 0)
            strbuf_printf(b, " %s %.3f", mem_category_name((MemCategory)c),
                          (double)l->mem.at_peak[c] / GIB);
    strbuf_printf(b, "\n  planned    %10.3f GiB: %s; with what lies idle between blocks %.3f",
                  (double)l->planned_peak / GIB,
                  l->planned_peak == l->mem.peak_total ? "the same to the byte" : "it differs",
                  (double)r->planned_extent / GIB);
    strbuf_printf(b, "\n  reserved   %10.3f GiB", (double)r->region_bytes / GIB);
    if (l->info.n_sms > 0)
        strbuf_printf(b, "; the driver counts %.3f, of which %.3f before the reservation",
                      (double)l->info.driver_bytes / GIB, (double)l->info.context_bytes / GIB);
    strbuf_putc(b, '\n');
}

static void print_kernels(StrBuf *b, const BenchResult *r)
{
    strbuf_printf(b, "memory-bound kernels at these shapes; a copy on the device moves %.0f GB/s\n",
                  r->copy_bandwidth / GIGA);
    strbuf_printf(b, "  %-18s %7s %11s %10s %7s\n", "kernel", "calls", "us a call", "GB/s",
                  "of copy");
    for (int i = 0; i < N_KERNELS; i++) {
        const MeterCount *c = &r->repeated.kernels[i];
        if (c->calls == 0 || c->seconds <= 0 || meter_class(i) != METER_OTHER) continue;
        double rate = c->bytes / c->seconds;
        strbuf_printf(b, "  %-18s %7lld %11.1f %10.0f %5.0f %%\n", kernel_name(i),
                      (long long)c->calls, 1e6 * c->seconds / (double)c->calls, rate / GIGA,
                      100 * rate / r->copy_bandwidth);
    }
}

void bench_print(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r)
{
    strbuf_printf(b, "%s on %s\n", title, r->lines[0].info.name);
    strbuf_printf(b, "  model      %10.3f billion parameters, %.3f million trained; loss %.3f\n",
                  (double)r->n_params / GIGA, (double)r->n_trained / 1e6, r->lines[0].loss);
    strbuf_printf(b, "  first step %10.2f s from the start\n", r->first_step_s);
    for (int i = 0; i < r->n_lines; i++) {
        const BenchLine *l = &r->lines[i];
        strbuf_puts(b, l->packed ? "packed documents\n" : "a row is a document\n");
        print_speed(b, o, r, l);
        print_memory(b, r, l);
        print_host(b, o, r, l);
    }
    if (o->kernels) print_kernels(b, r);
    if (o->profile) profile_print(b, &r->meter);
}

/* ---- profile ---------------------------------------------------------------------------------- */

static void profile_line(StrBuf *b, const char *name, const MeterCount *c, double all)
{
    strbuf_printf(b, "  %-28s %7lld %10.3f %6.1f %10.4g %10.4g %10.4g\n", name, (long long)c->calls,
                  1e3 * c->seconds, all > 0 ? 100 * c->seconds / all : 0, c->flops / GIGA,
                  c->flops / 2 / GIGA, c->bytes / GIGA);
}

static void profile_head(StrBuf *b, const char *what)
{
    strbuf_printf(b, "  %-28s %7s %10s %6s %10s %10s %10s\n", what, "kernels", "ms", "%", "GFLOP",
                  "GMAC", "GB");
}

static const char *const pass_names[] = {
    [METER_FORWARD] = "", [METER_AGAIN] = " again", [METER_BACKWARD] = " backward"};

/* Ops with the same name, or of the same module, as one line for each pass. */
static void profile_sums(StrBuf *b, const Meter *m, bool by_module, double all)
{
    bool told[METER_MAX_OPS] = {false};
    for (int i = 0; i < m->n_ops; i++) {
        const MeterOp *op = &m->ops[i];
        const char *name = by_module ? op->module : op->name;
        MeterCount sum = {0};
        for (int j = i; j < m->n_ops; j++) {
            const MeterOp *other = &m->ops[j];
            if (told[j] || other->pass != op->pass ||
                !str_eq(by_module ? other->module : other->name, name))
                continue;
            meter_add(&sum, &other->count);
            told[j] = true;
        }
        if (sum.calls == 0) continue;
        char what[64];
        snprintf(what, sizeof what, "%s%s", name, pass_names[op->pass]);
        profile_line(b, what, &sum, all);
    }
}

void profile_print(StrBuf *b, const Meter *m)
{
    static const char *const classes[] = {[METER_PRODUCTS] = "products",
                                          [METER_ATTENTION] = "attention",
                                          [METER_OTHER] = "memory-bound kernels"};
    MeterCount all = meter_sum(m, METER_CLASSES);
    strbuf_puts(b, "one step, waiting for each kernel\n");
    profile_head(b, "by module");
    profile_sums(b, m, true, all.seconds);
    profile_head(b, "by op");
    profile_sums(b, m, false, all.seconds);
    profile_head(b, "by kernel");
    for (int i = 0; i < N_KERNELS; i++)
        if (m->kernels[i].calls > 0) profile_line(b, kernel_name(i), &m->kernels[i], all.seconds);
    profile_head(b, "by class");
    for (int c = 0; c < METER_CLASSES; c++) {
        MeterCount sum = meter_sum(m, (MeterClass)c);
        if (sum.calls > 0) profile_line(b, classes[c], &sum, all.seconds);
    }
    profile_line(b, "all", &all, all.seconds);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static void number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, ", \"%s\": ", key);
    json_write_number(b, v);
}

static void kernels_json(StrBuf *b, const BenchResult *r)
{
    number(b, "copy_bytes_per_s", r->copy_bandwidth);
    strbuf_puts(b, ", \"kernels\": {");
    for (int i = 0, n = 0; i < N_KERNELS; i++) {
        const MeterCount *c = &r->repeated.kernels[i];
        if (c->calls == 0 || c->seconds <= 0) continue;
        strbuf_printf(b, "%s\"%s\": {\"calls\": %lld", n++ ? ", " : "", kernel_name(i),
                      (long long)c->calls);
        number(b, "seconds", c->seconds);
        number(b, "flops", c->flops);
        number(b, "bytes", c->bytes);
        strbuf_putc(b, '}');
    }
    strbuf_putc(b, '}');
}

static void line_json(StrBuf *b, const BenchOpts *o, const BenchResult *r, const BenchLine *l)
{
    double both = l->flops_plain + l->flops_attention;
    number(b, "step_s", l->step_s);
    number(b, "step_min_s", l->step_min_s);
    number(b, "step_max_s", l->step_max_s);
    number(b, "steps", (double)l->n_steps);
    number(b, "tokens", (double)l->n_tokens);
    number(b, "documents", (double)l->n_docs);
    number(b, "tokens_per_s", (double)l->n_tokens / l->step_s);
    number(b, "tflops_plain", l->flops_plain / l->step_s / TERA);
    number(b, "tflops_with_attention", both / l->step_s / TERA);
    number(b, "mfu_plain_percent", mfu(o, r, l, l->flops_plain));
    number(b, "mfu_with_attention_percent", mfu(o, r, l, both));
    number(b, "floor_s", l->floor_s);
    number(b, "floor_adamw_s", l->floor_adamw_s);
    number(b, "step_over_floor", l->floor_s > 0 ? l->step_s / l->floor_s : 0);
    number(b, "first_step_s", r->first_step_s);
    number(b, "peak_bytes", (double)l->mem.peak_total);
    number(b, "planned_bytes", (double)l->planned_peak);
    number(b, "extent_bytes", (double)r->planned_extent);
    number(b, "reserved_bytes", (double)r->region_bytes);
    number(b, "driver_bytes", (double)l->info.driver_bytes);
    number(b, "context_bytes", (double)l->info.context_bytes);
    if (o->offload != OFFLOAD_NONE) {
        number(b, "host_bytes", (double)(r->host.states + r->host.pinned));
        number(b, "pinned_bytes", (double)r->host.pinned);
        number(b, "up_bytes", l->moved[MOVED_UP]);
        number(b, "down_bytes", l->moved[MOVED_DOWN]);
    }
    number(b, "loss", l->loss);
}

void bench_print_json(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r)
{
    for (int i = 0; i < r->n_lines; i++) {
        const BenchLine *l = &r->lines[i];
        strbuf_puts(b, "{\"what\": ");
        json_write_string(b, title, strlen(title));
        strbuf_printf(b, ", \"rows\": \"%s\", \"device\": ", l->packed ? "packed" : "full");
        json_write_string(b, l->info.name, strlen(l->info.name));
        line_json(b, o, r, l);
        if (ranks_of(o) > 1) {
            strbuf_printf(b, ", \"ranks\": %d, \"zero\": %d", ranks_of(o), o->zero);
            number(b, "sent_bytes", l->sent_bytes);
            number(b, "ctas", r->ctas);
            number(b, "prefetch", o->prefetch);
        }
        if (ranks_of(o) > 1 && !o->steps_only) {
            number(b, "mute_s", l->mute_s);
            number(b, "exposed_s", l->step_s - l->mute_s);
            strbuf_printf(b, ", \"mute_finite\": %s", l->mute_odd ? "false" : "true");
            number(b, "alone_s", l->alone_s);
            number(b, "scaling_percent", 100 * l->alone_s / l->step_s);
        }
        if (o->kernels && i == 0) kernels_json(b, r);
        strbuf_puts(b, "}\n");
    }
}

/* ---- matrix ----------------------------------------------------------------------------------- */

/* Of the step, to the floor of as many rows. */
static double to_floor(const BenchResult *r, double floor_a_row)
{
    return r->lines[0].step_s / (floor_a_row * (double)r->micro);
}

void bench_print_matrix_head(StrBuf *b, const char *title)
{
    strbuf_printf(b, "%s\n  %-42s %6s %10s %10s %10s %10s\n", title, "", "rows", "step, s",
                  "tokens/s", "peak, GiB", "to floor");
}

void bench_print_matrix_row(StrBuf *b, const char *name, const BenchResult *r, double floor_a_row)
{
    const BenchLine *l = &r->lines[0];
    strbuf_printf(b, "  %-42s %6lld", name, (long long)r->micro);
    if (r->too_large) {
        if (r->planned_extent > r->region_bytes)
            strbuf_printf(b, " does not fit: needs %.1f of %.1f GiB\n",
                          (double)r->planned_extent / GIB, (double)r->region_bytes / GIB);
        else
            strbuf_printf(b, " does not fit: needs %.1f GiB of the host for each rank\n",
                          (double)(r->host.states + r->host.pinned) / GIB);
        return;
    }
    strbuf_printf(b, " %10.4f %10.0f %10.3f", l->step_s, (double)l->n_tokens / l->step_s,
                  (double)l->mem.peak_total / GIB);
    if (floor_a_row > 0)
        strbuf_printf(b, " %10.3f\n", to_floor(r, floor_a_row));
    else
        strbuf_printf(b, " %10s\n", "-");
}

void bench_print_matrix_json(StrBuf *b, const char *title, const char *name, const BenchOpts *o,
                             const BenchResult *r, double floor_a_row)
{
    strbuf_puts(b, "{\"what\": ");
    json_write_string(b, title, strlen(title));
    strbuf_puts(b, ", \"way\": ");
    json_write_string(b, name, strlen(name));
    number(b, "micro", (double)r->micro);
    if (ranks_of(o) > 1) strbuf_printf(b, ", \"ranks\": %d, \"zero\": %d", ranks_of(o), o->zero);
    if (!r->too_large) {
        line_json(b, o, r, &r->lines[0]);
        if (floor_a_row > 0) number(b, "to_floor", to_floor(r, floor_a_row));
    } else {
        number(b, "extent_bytes", (double)r->planned_extent);
        number(b, "reserved_bytes", (double)r->region_bytes);
    }
    strbuf_printf(b, ", \"fits\": %s}\n", r->too_large ? "false" : "true");
}
