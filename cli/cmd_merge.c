/* `lorac merge`: an adapter folded into its base model. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/merge_compare.h"
#include "model/merge.h"
#include "model/quant_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "lorac merge --model DIR --adapter DIR --out DIR [--original DIR]";
static const char about[] =
    "Writes the model with the adapter folded into its weights: W + scale * B A, summed in fp32 "
    "and\n"
    "rounded once to the model's dtype.  All other files are copied byte for byte.\n"
    "\n"
    "  lorac merge --model llama --adapter out --out merged\n"
    "\n"
    "A quantised model is merged into what --original names, the model that it was quantised from, "
    "or\n"
    "else into bf16 weights that its codes decode to.\n"
    "\n"
    "Then it tells how many tensors were merged and how much of each change survived the "
    "rounding:\n"
    "of a small change to bf16 weights a part is lost, which the unmerged adapter does not lose.";

typedef struct Flags {
    const char *model, *adapter, *out, *original;
    int64_t threads, sample;
    bool quiet, json;
} Flags;

enum { SAMPLE = 64 };

/* As print_text and print_json tell it; negative: not measured. */
typedef struct Compared {
    double kl;
    int64_t n;
} Compared;

static void print_text(StrBuf *b, const MergeReport *r, const Compared *k, const char *out)
{
    int width = 0;
    for (int i = 0; i < r->n; i++)
        if ((int)strlen(r->items[i].name) > width) width = (int)strlen(r->items[i].name);
    strbuf_printf(b, "%-*s  rank  |delta|     survived\n", width, "tensor");
    for (int i = 0; i < r->n; i++) {
        const MergedTensor *t = &r->items[i];
        char rank[24] = "whole";
        if (t->rank > 0) snprintf(rank, sizeof rank, "%lld", (long long)t->rank);
        strbuf_printf(b, "%-*s  %-5s %-10.4g  %.3f%%\n", width, t->name, rank, t->delta_norm,
                      100 * t->kept);
    }
    strbuf_printf(b, "%s: %d of %d tensors merged", out, r->n_merged, r->n_tensors);
    if (r->n_replaced) strbuf_printf(b, ", %d replaced whole", r->n_replaced);
    strbuf_printf(b, "; %.3f%% of the change survived the rounding\n", 100 * r->kept);
    if (r->measure_again)
        strbuf_printf(b, "quantised to nf4 again, %.3f%% of it would\n", 100 * r->again);
    if (k->n > 0)
        strbuf_printf(
            b, "divergence from the unmerged model: %.3g nats a token, over %lld drawn tokens\n",
            k->kl, (long long)k->n);
    if (r->untied)
        strbuf_puts(b, "lm_head.weight is now a tensor of its own, untied from the embedding\n");
}

static void print_json(StrBuf *b, const MergeReport *r, const Compared *k)
{
    strbuf_printf(
        b, "{\"tensors\": %d, \"merged\": %d, \"replaced\": %d, \"untied\": %s, \"survived\": ",
        r->n_tensors, r->n_merged, r->n_replaced, r->untied ? "true" : "false");
    json_write_number(b, r->kept);
    if (r->measure_again) {
        strbuf_puts(b, ", \"survived_nf4\": ");
        json_write_number(b, r->again);
    }
    if (k->n > 0) {
        strbuf_puts(b, ", \"divergence\": ");
        json_write_number(b, k->kl);
    }
    strbuf_puts(b, ", \"changes\": [");
    for (int i = 0; i < r->n; i++) {
        const MergedTensor *t = &r->items[i];
        strbuf_puts(b, i ? ", {\"name\": " : "{\"name\": ");
        json_write_string(b, t->name, strlen(t->name));
        strbuf_printf(b, ", \"rank\": %lld, \"delta_norm\": ", (long long)t->rank);
        json_write_number(b, t->delta_norm);
        strbuf_puts(b, ", \"survived\": ");
        json_write_number(b, t->kept);
        strbuf_putc(b, '}');
    }
    strbuf_puts(b, "]}\n");
}

/* What a quantised model decodes to, merged; the plain folder between is removed. */
static Status merge_decoded(const Flags *f, Pool *pool, Log *log, MergeReport *report, Err *err)
{
    /* merge_adapter looks when the decoded model is there, and does not know the quantised one */
    TRY(dir_check_new(f->out, f->model, err));
    char *place = path_trim(f->out), *base = str_format("%s.base", place);
    Device d;
    DeviceOpts opts = {.threads = (int)f->threads};
    Status s = path_exists(base) ? err_set(err, E_INPUT, "%s is in the way; remove it", base) : OK;
    if (s == OK) s = device_open(&d, backend_find("cpu"), &opts, DT_F32, err);
    if (s == OK) {
        s = quant_write_plain(f->model, base, &d, log, err);
        device_close(&d);
        if (s == OK) s = merge_adapter(base, f->adapter, f->out, pool, log, report, err);
        Err ignored = {0};
        Status removed = dir_remove(base, s == OK ? err : &ignored);
        if (s == OK) s = removed;
    }
    free(base);
    free(place);
    return s;
}

static Status merge(const Flags *f, bool coded, Log *log, MergeReport *report, Err *err)
{
    Pool *pool = pool_new((int)f->threads);
    Status s = coded && !f->original ? merge_decoded(f, pool, log, report, err)
                                     : merge_adapter(f->original ? f->original : f->model,
                                                     f->adapter, f->out, pool, log, report, err);
    pool_free(pool);
    return s;
}

static Status run(const Flags *f, Err *err)
{
    TRY(flag_threads(f->threads, err));
    const struct {
        const char *name, *value;
    } folders[] = {{"model", f->model}, {"adapter", f->adapter}};
    for (int i = 0; i < 2; i++) {
        if (!folders[i].value)
            return err_set(err, E_INPUT, "--%s: needs a folder", folders[i].name);
        if (!path_is_dir(folders[i].value))
            return err_set(err, E_INPUT, "--%s: %s is not a folder", folders[i].name,
                           folders[i].value);
    }
    if (!f->out) return err_set(err, E_INPUT, "--out: needs a folder to write");
    Log log = {.to = stderr, .level = f->quiet ? LOG_WARN : LOG_INFO};
    LlamaConfig cfg;
    TRY(llama_config_load(&cfg, f->model, err));
    bool coded = cfg.quant.method != QUANT_METHOD_NONE;
    if (f->original && !coded)
        return err_set(err, E_INPUT, "--original: %s is not quantised; it is the original",
                       f->model);
    MergeReport report = {.measure_again = coded};
    Status s = merge(f, coded, &log, &report, err);
    if (s == OK && report.measure_again && report.again < 0.5)
        log_warn(&log,
                 "quantised again the merged model would keep %.0f %% of what was learned; keep it "
                 "in 16 bits, or the adapter beside the quantised model",
                 100 * report.again);
    Compared k = {.n = f->sample >= 0 ? f->sample : coded ? SAMPLE : 0};
    if (s == OK && k.n > 0) {
        ModelFlags unmerged = {.model = f->model, .adapter = f->adapter, .threads = f->threads};
        int64_t most = model_context(&cfg);
        k.n = k.n < most ? k.n : most;
        s = merge_compare(&k.kl, &unmerged, f->out, k.n, &log, err);
    }
    if (s == OK && (!f->quiet || f->json)) {
        StrBuf b = {0};
        if (f->json)
            print_json(&b, &report, &k);
        else
            print_text(&b, &report, &k, f->out);
        s = command_print(&b, err);
    }
    merge_report_clear(&report);
    return s;
}

int cmd_merge(int argc, char **argv)
{
    Flags f = {.sample = -1};
    const Opt opts[] = {
        {"model", OPT_STRING, &f.model, "DIR", "the base model's folder"},
        {"adapter", OPT_STRING, &f.adapter, "DIR", "the adapter's folder, in PEFT's layout"},
        {"out", OPT_STRING, &f.out, "DIR", "the folder to write; must not exist, or be empty"},
        {"original", OPT_STRING, &f.original, "DIR",
         "of a quantised model: the unquantised one, to merge into"},
        {"sample", OPT_INT, &f.sample, "N",
         "tokens to compare merged and unmerged model on (default 64 for a quantised model, else "
         "0)"},
        THREADS_FLAG(f.threads),
        JSON_FLAG(f.json),
        {"quiet", OPT_FLAG, &f.quiet, NULL, "print nothing"},
        {0},
    };
    const CommandLine line = {.usage = usage, .about = about, .opts = opts};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {0};
    Status s = run(&f, &err);
    return command_end(s, &err);
}
