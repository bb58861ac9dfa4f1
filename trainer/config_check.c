/* Rules between keys, and what follows from other keys. */
#include "base/fs.h"
#include "base/str.h"
#include "trainer/config_reader.h"
#include "trainer/update.h"

#include <stdlib.h>

/* key is set although it means nothing here. */
static void refuse(TrainConfig *c, Problems *p, const char *key, const char *why)
{
    if (config_is_set(c, key)) config_problem(c, p, key, "%s", why);
}

/* Neither given nor told already: what is given and is no text leaves NULL, too. */
static bool is_missing(const TrainConfig *c, const char *key, const char *text)
{
    return !text && !config_is_set(c, key);
}

/* Of two keys that exclude each other the command line's wins; in one place both are a slip. */
static bool overrides(const TrainConfig *c, const char *key, const char *other)
{
    return c->lines[config_field_index(key)] < 0 && c->lines[config_field_index(other)] >= 0;
}

static void check_model(TrainConfig *c, Problems *p)
{
    if (c->model_init == INIT_CHECKPOINT) {
        refuse(c, p, "model.preset", "only with model.init random; a checkpoint has its own shape");
        if (is_missing(c, "model.path", c->model_path))
            config_problem(c, p, "model.path", "missing; name the model's folder");
    } else if (c->model_path && c->model_preset) {
        config_problem(c, p, "model.preset",
                       "the shape comes from model.path; give one of the two");
    } else if (is_missing(c, "model.path", c->model_path) &&
               is_missing(c, "model.preset", c->model_preset)) {
        config_problem(c, p, "model.path",
                       "missing; name a folder with config.json, or a model.preset");
    }
}

static void check_method(TrainConfig *c, Problems *p)
{
    static const char *const keys[] = {
        "lora.rank",         "lora.alpha",           "lora.rslora",        "lora.dora",
        "lora.b_lr_ratio",   "lora.targets",         "lora.layers",        "lora.dropout",
        "lora.save_modules", "lora.rank_pattern",    "lora.alpha_pattern", "lora.init",
        "lora.adapter",      "lora.pissa_iterations"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bool shape = !str_eq(keys[i], "lora.b_lr_ratio") && !str_eq(keys[i], "lora.adapter") &&
                     !str_eq(keys[i], "lora.dropout");
        if (c->method == METHOD_FULL)
            refuse(c, p, keys[i], "only with method lora or qlora, and method is full");
        else if (c->lora_adapter && shape)
            refuse(c, p, keys[i],
                   "comes from lora.adapter's own adapter_config.json; leave it out");
    }
    bool four_bits = c->quantize <= QUANT_FP4 - QUANT_NF4;
    if (c->method != METHOD_QLORA) {
        refuse(c, p, "model.quantize", "only with method qlora");
        refuse(c, p, "model.double_quant", "only with method qlora");
        refuse(c, p, "model.quant_block", "only with method qlora");
        refuse(c, p, "runtime.scratches", "only with method qlora");
        refuse(c, p, "runtime.decode_ahead", "only with method qlora");
    } else if (!four_bits) {
        refuse(c, p, "model.double_quant", "only with model.quantize nf4 or fp4");
        refuse(c, p, "model.quant_block", "only with model.quantize nf4 or fp4");
    }
    if (c->method == METHOD_QLORA && c->decode_ahead && c->scratches < 2)
        config_problem(c, p, "runtime.decode_ahead", "needs runtime.scratches of 2 or more");
    if (c->lora.n_targets == 0)
        config_problem(c, p, "lora.targets", "the list is empty; name modules, or all-linear");
    c->lora.gaussian_init = c->lora_init == LORA_INIT_GAUSSIAN;
    c->lora.pissa = c->lora_init == LORA_INIT_PISSA && !c->lora_adapter && c->method != METHOD_FULL;
    if (!c->lora.pissa && c->method != METHOD_FULL && !c->lora_adapter)
        refuse(c, p, "lora.pissa_iterations", "only with lora.init pissa");
    if (c->lora.pissa && c->lora.dora)
        config_problem(c, p, "lora.init",
                       "pissa does not go with lora.dora; leave out one of the two");
    if (c->lora.pissa && c->method == METHOD_QLORA && c->model_init == INIT_RANDOM)
        config_problem(
            c, p, "lora.init",
            "pissa takes what quantising would lose from the model's files, and model.init is "
            "random; set method: lora, or lora.init: kaiming");
}

static void check_source(TrainConfig *c, Problems *p, const char *key, const DataSource *s)
{
    char at[512];
    if (s->line > 0)
        snprintf(at, sizeof at, "%s:%d", c->file, s->line);
    else
        snprintf(at, sizeof at, "command line");
    if ((int)s->format < 0)
        problems_add(p,
                     "%s: %s: the format is not said; set data.format to one of alpaca, samsum, "
                     "messages, sharegpt, completion, text, tokens",
                     at, key);
    if (s->chat == TEMPLATE_PROMPT && is_missing(c, "data.prompt", s->prompt))
        problems_add(p, "%s: %s: template is prompt but there is no prompt; set data.prompt", at,
                     key);
    if (s->chat != TEMPLATE_PROMPT && s->prompt)
        problems_add(p,
                     "%s: %s: a prompt is given but the template is not prompt; set "
                     "data.template: prompt",
                     at, key);
}

/* Lets go of a way to validate that another one on the command line replaces. */
static void drop_eval(TrainConfig *c, const char *key)
{
    static const char *const keys[] = {"data.eval.path", "data.eval.share", "data.eval.count"};
    bool replaced = false;
    for (int i = 0; i < 3; i++)
        replaced |= !str_eq(key, keys[i]) && overrides(c, keys[i], key);
    if (!replaced) return;
    if (str_eq(key, keys[0])) {
        config_free_sources(c->data.eval, c->data.n_eval);
        c->data.eval = NULL;
        c->data.n_eval = 0;
    } else if (str_eq(key, keys[1])) {
        c->data.eval_share = 0;
    } else {
        c->data.eval_count = 0;
    }
}

static void check_eval_source(TrainConfig *c, Problems *p)
{
    drop_eval(c, "data.eval.path");
    drop_eval(c, "data.eval.share");
    drop_eval(c, "data.eval.count");
    if ((c->data.n_eval > 0) + (c->data.eval_share > 0) + (c->data.eval_count > 0) <= 1) return;
    config_problem(c, p, c->data.eval_count > 0 ? "data.eval.count" : "data.eval.share",
                   "validation is asked for twice; give one of path, share, count");
}

static void check_data(TrainConfig *c, Problems *p)
{
    for (int i = 0; i < c->data.n_train; i++)
        check_source(c, p, "data.train", &c->data.train[i]);
    for (int i = 0; i < c->data.n_eval; i++)
        check_source(c, p, "data.eval.path", &c->data.eval[i]);
    check_eval_source(c, p);
    if (!c->data.cache_dir && c->output) c->data.cache_dir = str_format("%s/cache", c->output);
    if (str_eq(c->data.cache_dir, "off")) {
        free(c->data.cache_dir);
        c->data.cache_dir = NULL;
    }
}

static bool has_eval(const TrainConfig *c)
{
    return c->data.n_eval > 0 || c->data.eval_share > 0 || c->data.eval_count > 0;
}

static void check_eval(TrainConfig *c, Problems *p)
{
    const char *none = "there are no validation rows; set data.eval.path, share or count";
    if (!has_eval(c)) {
        if (c->eval_every > 0) config_problem(c, p, "eval.every", "%s", none);
        if (c->eval_at_start) config_problem(c, p, "eval.at_start", "%s", none);
        if (c->early_stop_patience > 0) config_problem(c, p, "eval.patience", "%s", none);
        if (c->save_best) config_problem(c, p, "save.best", "%s", none);
        c->eval_at_end = false;
    } else if (c->early_stop_patience > 0 && c->eval_every == 0) {
        config_problem(c, p, "eval.patience", "needs eval.every, which is 0");
    }
    if (c->save_final == FINAL_BEST && !c->save_best)
        config_problem(c, p, "save.final", "best needs save.best true");
}

static void check_optim(TrainConfig *c, Problems *p)
{
    if (overrides(c, "optim.warmup_steps", "optim.warmup_ratio")) c->warmup_ratio = 0;
    if (overrides(c, "optim.warmup_ratio", "optim.warmup_steps")) c->warmup_steps = 0;
    if (c->warmup_steps > 0 && c->warmup_ratio > 0)
        config_problem(c, p, "optim.warmup_ratio",
                       "optim.warmup_steps is set too; give one of the two");
    if (c->schedule == SCHEDULE_CONSTANT && c->min_lr_ratio > 0)
        config_problem(c, p, "optim.min_lr_ratio",
                       "a constant schedule has no lower end; leave it out");
    if (c->schedule != SCHEDULE_STEP) refuse(c, p, "optim.gamma", "only with optim.schedule step");
    if (c->schedule != SCHEDULE_WSD) {
        refuse(c, p, "optim.decay_ratio", "only with optim.schedule wsd");
        refuse(c, p, "optim.decay_shape", "only with optim.schedule wsd");
    } else if (c->warmup_ratio + c->decay_ratio > 1) {
        config_problem(c, p, "optim.decay_ratio", "warm-up and decay take more than all steps");
    }
}

static void check_train(TrainConfig *c, Problems *p)
{
    if (c->batch_micro == 0) c->batch_micro = c->batch_global;
    if (c->batch_global % c->batch_micro != 0)
        config_problem(c, p, "batch.micro", "must divide batch.global, which is %lld; is %lld",
                       (long long)c->batch_global, (long long)c->batch_micro);
    if (overrides(c, "train.epochs", "train.max_steps")) c->max_steps = 0;
    if (c->max_steps > 0 && !overrides(c, "train.max_steps", "train.epochs"))
        refuse(c, p, "train.epochs", "train.max_steps is set too; give one of the two");
    if (c->recompute == RECOMPUTE_AUTO)
        refuse(c, p, "train.recompute_layers",
               "train.recompute is auto, which chooses; leave it out");
    else
        c->mix.level = (Recompute)c->recompute;
    if (c->recompute == RECOMPUTE_NONE)
        refuse(c, p, "train.recompute_layers", "train.recompute is none; leave it out");
}

static void check_embedding(TrainConfig *c, Problems *p)
{
    c->embed_on_host = c->embedding == EMBEDDING_HOST;
    if (c->method == METHOD_FULL && c->embed_on_host)
        config_problem(c, p, "model.embedding",
                       "host is for a frozen embedding, and method full trains it; leave it out");
}

static void check_runtime(TrainConfig *c, Problems *p)
{
    bool cpu = str_eq(c->device, "cpu");
    if (c->reduce == PRECISION_AUTO) c->reduce = PRECISION_FP32;
    if (cpu && c->reduce == PRECISION_BF16)
        config_problem(c, p, "parallel.reduce", "the CPU computes in fp32; leave it out");
    if (cpu && c->precision == PRECISION_BF16)
        config_problem(c, p, "runtime.precision",
                       "the CPU computes in fp32; leave it out, or set runtime.device: cuda");
    if (c->precision == PRECISION_AUTO) c->precision = cpu ? PRECISION_FP32 : PRECISION_BF16;
}

static void check_gradients(TrainConfig *c, Problems *p)
{
    bool full = c->method == METHOD_FULL, bf16 = c->precision == PRECISION_BF16;
    bool accumulates = c->batch_global > c->batch_micro;
    if (c->gradients == PRECISION_AUTO)
        c->gradients = full && bf16 && !accumulates ? PRECISION_BF16 : PRECISION_FP32;
    if (c->gradients == PRECISION_BF16 && !(full && bf16))
        config_problem(c, p, "train.gradients",
                       "bf16 is for method full with runtime.precision "
                       "bf16; leave it out, or set fp32");
}

/* What stands between a config and updating in backward; NULL: nothing. */
static const char *against_in_backward(const TrainConfig *c)
{
    if (c->method != METHOD_FULL) return "in_backward is for method full; set after";
    if (c->batch_global > c->batch_micro)
        return "in_backward cannot accumulate gradients; set batch.micro to batch.global, or after";
    if (c->clip > 0 && c->clip_by == CLIP_GLOBAL)
        return "in_backward does not know the global norm in time; set optim.clip_by: block or "
               "optim.clip: 0, or after";
    return NULL;
}

static void check_update(TrainConfig *c, Problems *p)
{
    const char *why_not = against_in_backward(c);
    if (c->update == UPDATE_AUTO)
        c->update = !why_not && !str_eq(c->device, "cpu") ? UPDATE_IN_BACKWARD : UPDATE_AFTER;
    if (c->update == UPDATE_IN_BACKWARD && why_not)
        config_problem(c, p, "train.update", "%s", why_not);
    if (c->clip == 0 && c->clip_by == CLIP_BLOCK)
        refuse(c, p, "optim.clip_by", "optim.clip is 0: nothing is clipped");
}

void config_settle_update(TrainConfig *c, Problems *p)
{
    check_gradients(c, p);
    check_update(c, p);
}

void config_cross_check(TrainConfig *c, Problems *p)
{
    check_model(c, p);
    check_method(c, p);
    check_data(c, p);
    check_eval(c, p);
    check_optim(c, p);
    check_train(c, p);
    check_embedding(c, p);
    check_runtime(c, p);
    config_settle_update(c, p);
}

static void check_file(const TrainConfig *c, Problems *p, const char *key, const char *path)
{
    if (path && !path_exists(path))
        config_problem(c, p, key, "%s is not there; paths are relative to the working directory",
                       path);
}

static void check_folder(const TrainConfig *c, Problems *p, const char *key, const char *path)
{
    check_file(c, p, key, path);
    if (path && path_exists(path) && !path_is_dir(path))
        config_problem(c, p, key, "%s is a file; name the folder that it lies in", path);
}

static void check_source_files(Problems *p, const TrainConfig *c, const char *key,
                               const DataSource *s, int n)
{
    for (int i = 0; i < n; i++) {
        if (!s[i].path || path_exists(s[i].path)) continue;
        if (s[i].line > 0)
            problems_add(p,
                         "%s:%d: %s: %s is not there; paths are relative to the working directory",
                         c->file, s[i].line, key, s[i].path);
        else
            check_file(c, p, key, s[i].path);
    }
}

static bool is_file_in(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool is = path_exists(path);
    free(path);
    return is;
}

/* What a run writes would replace what it reads. */
static void check_not_input(const TrainConfig *c, Problems *p, const char *key, const char *path)
{
    if (!path || !c->output || !path_is_dir(path) || !path_is_dir(c->output)) return;
    if (path_lies_in(c->output, path) && path_lies_in(path, c->output))
        config_problem(c, p, "output", "%s is %s, whose files it would replace; name another",
                       c->output, key);
}

/* A folder with what a run writes and none of a run's own files is somebody's model. */
static void check_not_foreign(const TrainConfig *c, Problems *p)
{
    static const char *const written[] = {
        "config.json",         "model.safetensors",         "model.safetensors.index.json",
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"};
    if (!path_is_dir(c->output) || is_file_in(c->output, "config.yaml") ||
        is_file_in(c->output, "metrics.jsonl"))
        return;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        if (!is_file_in(c->output, written[i])) continue;
        config_problem(c, p, "output",
                       "%s holds %s, which would be replaced, and no config.yaml of a run; name "
                       "another folder, or take "
                       "it away",
                       c->output, written[i]);
        return;
    }
}

static void check_output(const TrainConfig *c, Problems *p)
{
    if (!c->output) return;
    if (c->output[0] == '~' && (c->output[1] == '/' || !c->output[1])) {
        config_problem(c, p, "output",
                       "'~' is the shell's, here it is a folder's name, in '%s'; "
                       "write the path in full",
                       c->output);
        return;
    }
    char *in_the_way = path_in_the_way(c->output);
    Err err = {0};
    int before = p->n;
    if (in_the_way)
        config_problem(c, p, "output", "%s is a file; name a folder, new or of an earlier run",
                       in_the_way);
    else if (path_check_writable(c->output, &err) != OK)
        config_problem(c, p, "output", "%s", err.line);
    free(in_the_way);
    check_not_input(c, p, "model.path", c->model_path);
    check_not_input(c, p, "lora.adapter", c->lora_adapter);
    if (p->n == before) check_not_foreign(c, p);
}

static void check_resume(const TrainConfig *c, Problems *p)
{
    if (!c->resume || str_eq(c->resume, "auto") || str_eq(c->resume, "never")) return;
    char *manifest = path_join(c->resume, "manifest.json");
    if (!path_exists(manifest))
        config_problem(c, p, "resume",
                       "%s is no checkpoint: it has no manifest.json; name a folder "
                       "OUTPUT/checkpoint-N, or say auto or never",
                       c->resume);
    free(manifest);
}

void config_check_files(const TrainConfig *c, Problems *p)
{
    check_folder(c, p, "model.path", c->model_path);
    check_file(c, p, "tokenizer", c->tokenizer);
    check_folder(c, p, "lora.adapter", c->lora_adapter);
    check_source_files(p, c, "data.train", c->data.train, c->data.n_train);
    check_source_files(p, c, "data.eval.path", c->data.eval, c->data.n_eval);
    check_output(c, p);
    check_resume(c, p);
}
