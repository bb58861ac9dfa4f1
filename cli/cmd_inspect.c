/* `lorac inspect`: what is in a model folder, a safetensors file, an adapter or a checkpoint, and where two part. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "model/inspect.h"
#include "model/lora.h"
#include "trainer/manifest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "lorac inspect PATH [--diff PATH2]";
static const char about[] =
    "Lists the tensors of a model folder, a safetensors file, an adapter, a checkpoint or a "
    "trace:\n"
    "name, type, shape, norm, smallest and largest number, how many are NaN or infinite.  Of a\n"
    "checkpoint it tells where the run stood and verifies every checksum.\n"
    "\n"
    "  lorac inspect llama\n"
    "  lorac inspect out/checkpoint-200 --summary\n"
    "  lorac inspect merged --diff llama             tensors that differ; exit code 1 if any does\n"
    "  lorac inspect trace-a --diff trace-b --tolerance 1e-5";

typedef struct Flags {
    const char *path, *other;
    double tolerance;
    int64_t threads;
    bool json, summary;
} Flags;

static void put_shape(StrBuf *b, const TensorInfo *t)
{
    strbuf_putc(b, '[');
    for (int i = 0; i < t->n_dims; i++)
        strbuf_printf(b, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    strbuf_putc(b, ']');
}

/* --- what the folder's own files say ------------------------------------------------------------- */

/* A model that we cannot run can still be looked at. */
static void tell_model(StrBuf *b, const char *path)
{
    LlamaConfig c;
    Problems more = {0};
    Err err = {.more = &more};
    char *config = path_join(path, "config.json");
    bool there = path_exists(config);
    free(config);
    if (!there) return;
    if (llama_config_load(&c, path, &err) != OK) {
        for (int i = 0; i < more.n; i++)
            strbuf_printf(b, "model: %s\n", more.lines[i]);
        strbuf_printf(b, "model: %s\n", err.line);
        problems_clear(&more);
        return;
    }
    strbuf_printf(
        b,
        "model: %s, %lld layers, width %lld, feed-forward %lld, %lld heads of %lld on %lld, "
        "vocabulary %lld%s, %lld positions; %lld parameters\n",
        llama_arch_name(c.arch), (long long)c.n_layers, (long long)c.hidden_size,
        (long long)c.intermediate_size, (long long)c.n_heads, (long long)c.head_dim,
        (long long)c.n_kv_heads, (long long)c.vocab_size, c.tie_word_embeddings ? " (tied)" : "",
        (long long)c.max_position_embeddings, (long long)llama_n_params(&c));
}

static void put_list(StrBuf *b, const char *what, char *const *items, int n)
{
    for (int i = 0; i < n; i++)
        strbuf_printf(b, "%s%s", i ? " " : what, items[i]);
}

static void tell_adapter(StrBuf *b, const char *path)
{
    LoraOpts o;
    char *base = NULL;
    Err err = {0};
    if (lora_opts_load(&o, &base, path, &err) != OK) {
        strbuf_printf(b, "adapter: %s\n", err.line);
        return;
    }
    strbuf_printf(b, "adapter: rank %lld, alpha %g%s, dropout %g", (long long)o.rank, o.alpha,
                  o.rslora ? " (rsLoRA)" : "", o.dropout);
    put_list(b, ", on ", o.targets, o.n_targets);
    if (o.target_pattern) strbuf_printf(b, ", on %s", o.target_pattern);
    put_list(b, ", whole: ", o.save_modules, o.n_save_modules);
    if (base) strbuf_printf(b, "; for %s", base);
    strbuf_putc(b, '\n');
    free(base);
    lora_opts_clear(&o);
}

static Status tell_checkpoint(StrBuf *b, const char *path, Err *err)
{
    Json *manifest = NULL;
    RunState run = {0};
    TRY(manifest_verify(path, 0, 1, err));
    TRY(manifest_read(&manifest, path, err));
    Status s = manifest_run(&run, manifest, path, err);
    if (s == OK) {
        strbuf_printf(b,
                      "checkpoint: %lld steps done, the next is step %lld of epoch %lld (from 0), "
                      "%lld documents seen",
                      (long long)run.step, (long long)run.epoch_step, (long long)run.epoch,
                      (long long)run.samples);
        if (run.best_step > 0)
            strbuf_printf(b, "; best evaluation %.6f at step %lld", run.best_loss,
                          (long long)run.best_step);
        strbuf_printf(b, "%s; the checksums of all %zu files hold\n",
                      run.stopped ? "; stopped early" : "", json_size(json_get(manifest, "files")));
    }
    json_free(manifest);
    return s;
}

/* --- tensors ------------------------------------------------------------------------------------- */

static void list_text(StrBuf *b, const Inspection *r)
{
    int name = 6, shape = 5;
    StrBuf cell = {0};
    for (int i = 0; i < r->n; i++) {
        strbuf_reset(&cell);
        put_shape(&cell, &r->items[i]);
        if ((int)cell.len > shape) shape = (int)cell.len;
        if ((int)strlen(r->items[i].name) > name) name = (int)strlen(r->items[i].name);
    }
    strbuf_printf(b, "%-*s  type  %-*s  %-11s  %-11s  %-11s  NaN, Inf\n", name, "tensor", shape,
                  "shape", "norm", "smallest", "largest");
    for (int i = 0; i < r->n; i++) {
        const TensorInfo *t = &r->items[i];
        strbuf_reset(&cell);
        put_shape(&cell, t);
        strbuf_printf(b, "%-*s  %-4s  %-*s", name, t->name, safe_dtype_name(t->dtype), shape,
                      cell.data);
        if (t->has_numbers)
            strbuf_printf(b, "  %-11.5g  %-11.5g  %-11.5g  %lld, %lld", t->norm, t->min, t->max,
                          (long long)t->n_nan, (long long)t->n_inf);
        strbuf_putc(b, '\n');
    }
    strbuf_clear(&cell);
}

static void sum_text(StrBuf *b, const Inspection *r)
{
    strbuf_printf(b, "%d tensors, %lld elements (", r->n, (long long)r->numel);
    bool first = true;
    for (int t = 0; t < ST_N; t++) {
        if (r->numel_of[t] == 0) continue;
        strbuf_printf(b, "%s%s %lld", first ? "" : ", ", safe_dtype_name((SafeDType)t),
                      (long long)r->numel_of[t]);
        first = false;
    }
    strbuf_printf(b, "), %llu bytes, %lld NaN, %lld infinite\n", (unsigned long long)r->bytes,
                  (long long)r->n_nan, (long long)r->n_inf);
}

static void put_number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, ", \"%s\": ", key);
    json_write_number(b, v);
}

static void list_json(StrBuf *b, const Inspection *r, bool summary)
{
    static const char *const kinds[] = {"file", "model", "adapter", "trace"};
    strbuf_printf(b,
                  "{\"kind\": \"%s\", \"elements\": %lld, \"bytes\": %llu, \"nan\": %lld, "
                  "\"inf\": %lld",
                  kinds[r->kind], (long long)r->numel, (unsigned long long)r->bytes,
                  (long long)r->n_nan, (long long)r->n_inf);
    if (!summary) strbuf_puts(b, ", \"tensors\": [");
    for (int i = 0; i < r->n && !summary; i++) {
        const TensorInfo *t = &r->items[i];
        strbuf_puts(b, i ? ", {\"name\": " : "{\"name\": ");
        json_write_string(b, t->name, strlen(t->name));
        strbuf_printf(b, ", \"dtype\": \"%s\", \"shape\": ", safe_dtype_name(t->dtype));
        put_shape(b, t);
        if (t->has_numbers) {
            put_number(b, "norm", t->norm);
            put_number(b, "min", t->min);
            put_number(b, "max", t->max);
            strbuf_printf(b, ", \"nan\": %lld, \"inf\": %lld", (long long)t->n_nan,
                          (long long)t->n_inf);
        }
        strbuf_putc(b, '}');
    }
    strbuf_puts(b, summary ? "}\n" : "]}\n");
}

static Status list(const Flags *f, Pool *pool, StrBuf *b, Err *err)
{
    Inspection r = {0};
    TRY(inspect_weights(&r, f->path, pool, err));
    Status s = OK;
    char *manifest = path_join(f->path, "manifest.json");
    StrBuf state = {0};
    if (path_exists(manifest)) s = tell_checkpoint(&state, f->path, err);
    if (state.len > 0 && !f->json) strbuf_append(b, state.data, state.len);
    strbuf_clear(&state);
    free(manifest);
    if (s == OK && !f->json && r.kind == INSPECT_MODEL) tell_model(b, f->path);
    if (s == OK && !f->json && r.kind == INSPECT_ADAPTER) tell_adapter(b, f->path);
    if (s == OK && f->json) {
        list_json(b, &r, f->summary);
    } else if (s == OK) {
        if (!f->summary) list_text(b, &r);
        sum_text(b, &r);
    }
    inspection_clear(&r);
    return s;
}

/* --- two of them --------------------------------------------------------------------------------- */

static const char *const diff_names[] = {"same", "values", "shape", "only here", "only there"};

static bool differs(const Flags *f, const TensorDiff *d)
{
    return d->kind != DIFF_NONE && !(d->kind == DIFF_VALUES && d->max_rel <= f->tolerance);
}

static void diff_text(const Flags *f, StrBuf *b, const DiffReport *r)
{
    for (int i = 0; i < r->n; i++) {
        const TensorDiff *d = &r->items[i];
        if (!differs(f, d) || (f->summary && i != r->first)) continue;
        strbuf_printf(b, "%s: %s", d->name, diff_names[d->kind]);
        if (d->kind == DIFF_VALUES)
            strbuf_printf(b,
                          " differ by up to %.4g (%.4g of the largest), %.7g and %.7g at element "
                          "%lld; %lld elements differ",
                          d->max_abs, d->max_rel, d->value_a, d->value_b, (long long)d->at,
                          (long long)d->n_different);
        strbuf_puts(b, d->other_dtype ? " (of another type)\n" : "\n");
    }
    strbuf_printf(b, "%d of %d tensors differ", r->n_different, r->n);
    if (r->first >= 0) strbuf_printf(b, "; the first is %s", r->items[r->first].name);
    strbuf_putc(b, '\n');
}

static void diff_json(const Flags *f, StrBuf *b, const DiffReport *r)
{
    strbuf_printf(b, "{\"tensors\": %d, \"different\": %d, \"differences\": [", r->n,
                  r->n_different);
    bool first = true;
    for (int i = 0; i < r->n && !f->summary; i++) {
        const TensorDiff *d = &r->items[i];
        if (!differs(f, d)) continue;
        strbuf_puts(b, first ? "{\"name\": " : ", {\"name\": ");
        first = false;
        json_write_string(b, d->name, strlen(d->name));
        strbuf_printf(b, ", \"what\": \"%s\"", diff_names[d->kind]);
        if (d->kind == DIFF_VALUES) {
            put_number(b, "max_abs", d->max_abs);
            put_number(b, "max_rel", d->max_rel);
            strbuf_printf(b, ", \"at\": %lld, \"elements\": %lld", (long long)d->at,
                          (long long)d->n_different);
        }
        strbuf_putc(b, '}');
    }
    strbuf_puts(b, "]}\n");
}

static Status run(const Flags *f, bool *different, Err *err)
{
    if (!f->path) return err_set(err, E_INPUT, "give a folder or a safetensors file");
    if (!f->other && f->tolerance != 0)
        return err_set(err, E_INPUT, "--tolerance: has no meaning without --diff");
    if (f->tolerance < 0)
        return err_set(err, E_INPUT, "--tolerance: must be 0 or more, got %g", f->tolerance);
    TRY(flag_threads(f->threads, err));
    Pool *pool = pool_new((int)f->threads);
    StrBuf b = {0};
    Status s;
    if (f->other) {
        DiffReport r = {0};
        s = inspect_diff(&r, f->path, f->other, f->tolerance, pool, err);
        if (s == OK && f->json)
            diff_json(f, &b, &r);
        else if (s == OK)
            diff_text(f, &b, &r);
        *different = r.n_different > 0;
        diff_report_clear(&r);
    } else {
        s = list(f, pool, &b, err);
    }
    pool_free(pool);
    if (s == OK) return command_print(&b, err);
    strbuf_clear(&b);
    return s;
}

int cmd_inspect(int argc, char **argv)
{
    Flags f = {0};
    bool different = false;
    int n_args;
    const Opt opts[] = {
        {"diff", OPT_STRING, &f.other, "PATH", "compare with this, tensor by tensor"},
        {"tolerance", OPT_NUMBER, &f.tolerance, "X",
         "with --diff: differences up to X of a tensor's largest number are none (default: 0)"},
        {"summary", OPT_FLAG, &f.summary, NULL,
         "only the sums, or with --diff the first difference"},
        THREADS_FLAG(f.threads),
        JSON_FLAG(f.json),
        {0},
    };
    const CommandLine line = {.usage = usage,
                              .about = about,
                              .opts = opts,
                              .args = &f.path,
                              .max_args = 1,
                              .n_args = &n_args};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {0};
    Status s = run(&f, &different, &err);
    return s == OK && different ? EXIT_FAILED : command_end(s, &err);
}
