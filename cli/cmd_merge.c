/* `lorac merge`: an adapter folded into its base model. */
#include "base/fs.h"
#include "base/json.h"
#include "base/opts.h"
#include "cli/commands.h"
#include "model/merge.h"

#include <stdio.h>
#include <string.h>

static const char usage[] = "lorac merge --model DIR --adapter DIR --out DIR";
static const char about[] =
    "Writes the model with the adapter folded into its weights: W + scale * B A, summed in fp32 "
    "and\n"
    "rounded once to the model's dtype.  All other files are copied byte for byte.\n"
    "\n"
    "  lorac merge --model llama --adapter out --out merged\n"
    "\n"
    "Then it tells how many tensors were merged and how much of each change survived the "
    "rounding:\n"
    "of a small change to bf16 weights a part is lost, which the unmerged adapter does not lose.";

typedef struct Flags {
    const char *model, *adapter, *out;
    int64_t threads;
    bool quiet, json;
} Flags;

static void print_text(StrBuf *b, const MergeReport *r, const char *out)
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
    if (r->untied)
        strbuf_puts(b, "lm_head.weight is now a tensor of its own, untied from the embedding\n");
}

static void print_json(StrBuf *b, const MergeReport *r)
{
    strbuf_printf(
        b, "{\"tensors\": %d, \"merged\": %d, \"replaced\": %d, \"untied\": %s, \"survived\": ",
        r->n_tensors, r->n_merged, r->n_replaced, r->untied ? "true" : "false");
    json_write_number(b, r->kept);
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

static Status run(const Flags *f, Err *err)
{
    TRY(command_threads(f->threads, err));
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
    MergeReport report = {0};
    Pool *pool = pool_new((int)f->threads);
    Status s = merge_adapter(f->model, f->adapter, f->out, pool, &log, &report, err);
    pool_free(pool);
    if (s == OK && (!f->quiet || f->json)) {
        StrBuf b = {0};
        if (f->json)
            print_json(&b, &report);
        else
            print_text(&b, &report, f->out);
        s = command_print(&b, err);
    }
    merge_report_clear(&report);
    return s;
}

int cmd_merge(int argc, char **argv)
{
    Flags f = {0};
    bool help;
    const Opt opts[] = {
        {"model", OPT_STRING, &f.model, "DIR", "the base model's folder"},
        {"adapter", OPT_STRING, &f.adapter, "DIR", "the adapter's folder, in PEFT's layout"},
        {"out", OPT_STRING, &f.out, "DIR", "the folder to write; must not exist, or be empty"},
        {"threads", OPT_INT, &f.threads, "N", "threads (default: all that may be used)"},
        {"json", OPT_FLAG, &f.json, NULL, "print one JSON object"},
        {"quiet", OPT_FLAG, &f.quiet, NULL, "print nothing"},
        {0},
    };
    Err err = {0};
    int n_args;
    Status s = opts_parse(opts, argc, argv, NULL, &n_args, 0, &help, &err);
    if (s == OK && help) {
        opts_help(stdout, usage, about, opts);
        return EXIT_DONE;
    }
    if (s == OK) s = run(&f, &err);
    return command_end(s, &err);
}
