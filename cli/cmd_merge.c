/* `lorac merge`: an adapter folded into its base model. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/merge_compare.h"
#include "model/hf_files.h"
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
    "of a small change to bf16 weights a part is lost, which the unmerged adapter does not lose.  "
    "Of a\n"
    "quantised model also: what would survive quantising again as the model is (GPTQ and AWQ: to "
    "nf4\n"
    "or int8), and how far predictions moved.";

typedef struct Flags {
    ModelFlags model; /* and the adapter */
    const char *out, *original;
    int64_t sample;
    bool quiet, json;
} Flags;

enum { SAMPLE = 64 };

/* Quantising again keeps less than LEAST_SURVIVED of the change, or adds errors of more than MOST_NOISE times it: then the
 * user is warned.  Errors lie in all directions of a matrix and the change in few, so that they cost less than their size
 * says: on a small model up to 12 times the change cost at most 6 % of what its training had won, 16 times 15 %. */
#define LEAST_SURVIVED 0.5
#define MOST_NOISE     10.0

/* As print_text and print_json tell it. */
typedef struct Measured {
    const MergeAgain *again; /* NULL: not measured */
    double kl;
    int64_t n; /* tokens; 0: not measured */
} Measured;

static void print_text(StrBuf *b, const MergeReport *r, const Measured *k, const char *out)
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
    if (k->again) {
        char to[QUANT_TEXT];
        strbuf_printf(
            b, "quantised again, to %s, %.3f%% of it would, with errors of %.3g times it\n",
            quant_opts_text(to, &k->again->opts), 100 * r->again.survived, r->again.noise);
    }
    if (k->n > 0)
        strbuf_printf(
            b, "divergence from the unmerged model: %.3g nats a token, over %lld drawn tokens\n",
            k->kl, (long long)k->n);
    if (r->untied)
        strbuf_puts(b, "lm_head.weight is now a tensor of its own, untied from the embedding\n");
}

static void print_again(StrBuf *b, const MergeLoss *again, const QuantOpts *o)
{
    strbuf_printf(b, ", \"requantised\": {\"type\": \"%s\"", quant_type_name(o->type));
    if (quant_is_4bit(o->type))
        strbuf_printf(b, ", \"block\": %lld, \"double_quant\": %s",
                      (long long)(o->block ? o->block : QUANT_BLOCK), o->nested ? "true" : "false");
    strbuf_puts(b, ", \"survived\": ");
    json_write_number(b, again->survived);
    strbuf_puts(b, ", \"errors\": ");
    json_write_number(b, again->noise);
    strbuf_putc(b, '}');
}

static void print_json(StrBuf *b, const MergeReport *r, const Measured *k)
{
    strbuf_printf(
        b, "{\"tensors\": %d, \"merged\": %d, \"replaced\": %d, \"untied\": %s, \"survived\": ",
        r->n_tensors, r->n_merged, r->n_replaced, r->untied ? "true" : "false");
    json_write_number(b, r->kept);
    if (k->again) print_again(b, &r->again, &k->again->opts);
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
static Status merge_decoded(const Flags *f, const MergeAgain *again, Log *log, MergeReport *report,
                            Err *err)
{
    /* merge_adapter looks when the decoded model is there, and does not know the quantised one */
    TRY(dir_check_new(f->out, f->model.model, err));
    bool in_place;
    char *trimmed = path_trim(f->out), *place = file_place(trimmed, &in_place),
         *base = str_format("%s.base", place);
    Device *d = again->dev;
    Status s = path_exists(base) ? err_set(err, E_INPUT, "%s is in the way; remove it", base) : OK;
    if (s == OK) {
        s = quant_write_plain(f->model.model, base, d, log, err);
        if (s == OK)
            s = merge_adapter(base, f->model.adapter, f->out, again, d->pool, log, report, err);
        Err ignored = {0};
        Status removed = dir_remove(base, s == OK ? err : &ignored);
        if (s == OK) s = removed;
    }
    free(base);
    free(place);
    free(trimmed);
    return s;
}

/* Tensors that no adapter changes, too: what is copied would be told by who reads the merged folder. */
static Status check_base(const char *base, Err *err)
{
    LlamaConfig cfg;
    Device d;
    Llama m;
    TRY(llama_config_load(&cfg, base, err));
    DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)16 << 20}; /* nothing is computed */
    TRY(device_open(&d, backend_find("cpu"), &opts, DT_F32, err));
    llama_init(&m, &cfg, &d, 1);
    Status s = model_check_weights(&m, base, err);
    llama_clear(&m);
    device_close(&d);
    return s;
}

/* Into the weights that the adapter is added to without quantising. */
static Status merge_plain(const Flags *f, const MergeAgain *again, Log *log, MergeReport *report,
                          Err *err)
{
    Pool *pool = pool_new((int)f->model.threads);
    const char *base = f->original ? f->original : f->model.model;
    Status s = check_base(base, err);
    if (s == OK) s = merge_adapter(base, f->model.adapter, f->out, again, pool, log, report, err);
    pool_free(pool);
    return s;
}

static void warn_again(Log *log, const MergeLoss *again, const QuantOpts *o)
{
    char to[QUANT_TEXT];
    static const char instead[] = "keep it in 16 bits, or the adapter beside the quantised model";
    quant_opts_text(to, o);
    if (again->survived < LEAST_SURVIVED)
        log_warn(
            log,
            "quantised again, to %s, the merged model would keep %.0f %% of what was learned; %s",
            to, 100 * again->survived, instead);
    else if (again->noise > MOST_NOISE)
        log_warn(
            log,
            "quantised again, to %s, the merged model would have errors of %.0f times what was "
            "learned; %s",
            to, again->noise, instead);
}

static Status check_folders(const Flags *f, Err *err)
{
    const struct {
        const char *name, *value;
    } folders[] = {{"model", f->model.model}, {"adapter", f->model.adapter}};
    for (int i = 0; i < 2; i++) {
        if (!folders[i].value)
            return err_set(err, E_INPUT, "--%s: needs a folder", folders[i].name);
        if (!path_is_dir(folders[i].value))
            return err_set(err, E_INPUT, "--%s: %s is not a folder", folders[i].name,
                           folders[i].value);
    }
    return f->out ? OK : err_set(err, E_INPUT, "--out: needs a folder to write");
}

static Status compare(Measured *k, const Flags *f, const LlamaConfig *cfg, const QuantOpts *base,
                      Log *log, Err *err)
{
    ModelFlags unmerged = f->model;
    unmerged.quant = quant_flags_defaults();
    unmerged.base = base;
    int64_t most = model_context(cfg);
    k->n = k->n < most ? k->n : most;
    return merge_compare(&k->kl, &unmerged, f->out, k->n, log, err);
}

static Status check_original(const Flags *f, const LlamaConfig *cfg, Err *err)
{
    LlamaConfig original;
    if (!f->original) return OK;
    if (!cfg->quant.method)
        return err_set(err, E_INPUT, "--original: %s is not quantised; it is the original",
                       f->model.model);
    if (!path_is_dir(f->original))
        return err_set(err, E_INPUT, "--original: %s is not a folder", f->original);
    TRY(llama_config_load(&original, f->original, err));
    if (original.quant.method)
        return err_set(err, E_INPUT,
                       "--original: %s is quantised, too (%s); name the model that it was made of, "
                       "or leave it out to merge into what the codes decode to",
                       f->original, quant_method_name(original.quant.method));
    return OK;
}

/* Merges, measures, and tells.  base: how the adapter's was kept. */
static Status merge(const Flags *f, const LlamaConfig *cfg, const QuantOpts *base,
                    const MergeAgain *again, Log *log, Err *err)
{
    bool decode = cfg->quant.method && !f->original;
    MergeReport report = {0};
    Measured k = {.again = again, .n = f->sample != OPT_UNSET_INT ? f->sample : again ? SAMPLE : 0};
    Status s = decode ? merge_decoded(f, again, log, &report, err)
                      : merge_plain(f, again, log, &report, err);
    if (s == OK && again) warn_again(log, &report.again, &again->opts);
    if (s == OK && k.n > 0) s = compare(&k, f, cfg, base, log, err);
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

static Status run(const Flags *f, Err *err)
{
    TRY(flag_threads(f->model.threads, err));
    if (f->sample != OPT_UNSET_INT) TRY(flag_range("sample", f->sample, 0, 1 << 20, err));
    TRY(check_folders(f, err));
    TRY(dir_check_new(f->out, f->model.model, err));
    Log log = {.to = stderr, .level = f->quiet ? LOG_WARN : LOG_INFO};
    LlamaConfig cfg;
    QuantOpts base;
    TRY(llama_config_load(&cfg, f->model.model, err));
    TRY(check_original(f, &cfg, err));
    TRY(model_base(&base, &f->model, &cfg, &log, err));
    if (base.type == QUANT_NONE) return merge(f, &cfg, &base, NULL, &log, err);
    Device d;
    DeviceOpts opts = {.threads = (int)f->model.threads};
    TRY(device_open(&d, backend_find("cpu"), &opts, DT_F32, err));
    MergeAgain again = {.opts = cfg.quant.method ? quant_opts_to_write(&cfg.quant) : base,
                        .dev = &d};
    Status s = merge(f, &cfg, &base, &again, &log, err);
    device_close(&d);
    return s;
}

int cmd_merge(int argc, char **argv)
{
    Flags f = {.model = model_flags_defaults(), .sample = OPT_UNSET_INT};
    const Opt opts[] = {
        {"model", OPT_STRING, &f.model.model, "DIR", "the base model's folder"},
        {"adapter", OPT_STRING, &f.model.adapter, "DIR", "the adapter's folder, in PEFT's layout"},
        {"out", OPT_STRING, &f.out, "DIR", "the folder to write; must not exist, or be empty"},
        {"original", OPT_STRING, &f.original, "DIR",
         "of a quantised model: the unquantised one, to merge into"},
        QUANT_FLAGS(f.model.quant),
        {"sample", OPT_INT, &f.sample, "N",
         "tokens to compare merged and unmerged model on (default 64 for a quantised base, else "
         "0)"},
        THREADS_FLAG(f.model.threads),
        JSON_FLAG(f.json),
        {"quiet", OPT_FLAG, &f.quiet, NULL, "print nothing"},
        {0},
    };
    const CommandLine line = {.usage = usage, .about = about, .opts = opts};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {.more = &(Problems){0}};
    Status s = run(&f, &err);
    return command_end(s, &err);
}
