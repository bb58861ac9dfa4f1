/* `lorac eval`: flags, and where the data come from. */
#include "cli/commands.h"
#include "cli/eval_job.h"
#include "cli/flags.h"

static const char usage[] =
    "lorac eval --model DIR [--adapter DIR] --data FILE --format NAME [--rouge]\n"
    "       lorac eval --config CONFIG.yaml [key=value ...] [--adapter DIR] [--rouge]";
static const char about[] =
    "Loss and perplexity of a model over a data set, and ROUGE of the answers it generates.\n"
    "\n"
    "  lorac eval --model llama --adapter out --data val.jsonl --format samsum\n"
    "  lorac eval --model llama --adapter out --data val.jsonl --format samsum --rouge --stem\n"
    "             --max-new-tokens 60 --limit 100 --out scores.jsonl\n"
    "  lorac eval --config train.yaml --adapter out        the config's model and validation data\n"
    "  lorac eval --baseline first-turn --data val.jsonl --format samsum\n"
    "\n"
    "The loss is the mean of -log p over trained tokens, in nats; perplexity is e to it.  ROUGE "
    "is\n"
    "rouge_score's, as plain means over the rows.";

/* The base as the config's run has it; PiSSA's, without its principal part, is in no folder. */
static void take_base(EvalJob *job)
{
    if (job->cfg.method != METHOD_QLORA || job->cfg.lora.pissa) return;
    job->base = config_quant(&job->cfg);
    job->model.base = &job->base;
}

static Status open_config(EvalJob *job, Err *err)
{
    TRY(config_load(&job->cfg, job->config, job->overrides, job->n_overrides, false,
                    &job->problems));
    job->has_cfg = true;
    job->opts = job->cfg.data;
    job->sources = job->cfg.data.eval;
    job->n_sources = job->cfg.data.n_eval;
    for (int i = 0; i < job->n_sources; i++)
        job->cfg.data.eval[i].limit = job->limit;
    if (job->n_sources == 0) job->sources = NULL;
    if (!job->model.model) job->model.model = job->cfg.model_path;
    if (!job->model.tokenizer) job->model.tokenizer = job->cfg.tokenizer;
    if (!job->model.device && !job->model.precision)
        job->model.precision = job->cfg.precision == PRECISION_BF16 ? "bf16" : "fp32";
    if (!job->model.device) job->model.device = job->cfg.device;
    if (!job->model.threads) job->model.threads = job->cfg.threads;
    take_base(job);
    if (!job->sources && (job->rouge || job->baseline || job->limit))
        return err_set(
            err, E_INPUT,
            "--%s: needs rows of a file, and the config takes its validation rows out of "
            "the training data; give --data",
            job->baseline ? "baseline"
            : job->rouge  ? "rouge"
                          : "limit");
    return OK;
}

static Status open_data(EvalJob *job, Err *err)
{
    static const char *const overlong[] = {"error", "truncate", "split"};
    job->opts = (DataOpts){.packing = PACK_BEST_FIT,
                           .max_length = job->max_length == OPT_UNSET_INT ? 0 : job->max_length,
                           .allow_untrained = job->allow_untrained};
    TRY(data_flags_train_on(&job->opts.train_on, job->train_on, err));
    for (int i = 0; i < 3 && job->overlong; i++) {
        job->opts.overlong = (Overlong)i;
        if (str_eq(job->overlong, overlong[i])) break;
        if (i == 2)
            return err_set(err, E_INPUT, "--overlong: '%s' is none of error, truncate, split",
                           job->overlong);
    }
    /* The chat template may be the tokenizer's own, which eval_model reads; a baseline has none. */
    Tokenizer *t = NULL;
    const char *path = job->model.tokenizer ? job->model.tokenizer : job->model.model;
    bool chat = str_eq(job->data.format, "messages") || str_eq(job->data.format, "sharegpt");
    bool ask = chat && !job->baseline && !job->data.chat && !job->data.prompt && path;
    if (ask) TRY(tokenizer_load(&t, path, err));
    Status s = data_flags_source(&job->source, &job->data, t, err);
    tokenizer_free(t);
    job->source.limit = job->limit;
    job->sources = &job->source;
    job->n_sources = 1;
    return s;
}

static Status check_flags(const EvalJob *job, Err *err)
{
    const DataFlags *d = &job->data;
    bool by_config = job->config != NULL;
    const GenFlags plain = gen_flags_defaults(), *g = &job->gen;
    if (by_config == (d->data != NULL))
        return err_set(err, E_INPUT, "give one of --data and --config");
    if (job->n_overrides > 0 && !by_config)
        return err_set(err, E_INPUT, "'%s': one argument too many; key=value goes with --config",
                       job->overrides[0]);
    bool generates = job->rouge && !job->baseline, runs = !job->baseline;
    const FlagUse flags[] = {
        {"format", d->format, !by_config, "beside --config"},
        {"template", d->chat, !by_config, "beside --config"},
        {"prompt-template", d->prompt, !by_config, "beside --config"},
        {"system", d->system, !by_config, "beside --config"},
        {"field", d->fields.n > 0, !by_config, "beside --config"},
        {"max-length", job->max_length != OPT_UNSET_INT, !by_config, "beside --config"},
        {"overlong", job->overlong, !by_config, "beside --config"},
        {"allow-untrained", job->allow_untrained, !by_config, "beside --config"},
        {"train-on", job->train_on, !by_config, "beside --config"},
        {"model", job->model.model, runs, "beside --baseline"},
        {"adapter", job->model.adapter, runs, "beside --baseline"},
        {"tokenizer", job->model.tokenizer, runs, "beside --baseline"},
        {"device", job->model.device, runs, "beside --baseline"},
        {"precision", job->model.precision, runs, "beside --baseline"},
        {"quantize", job->model.quant.type, runs, "beside --baseline"},
        {"quant-block", job->model.quant.block != OPT_UNSET_INT, runs, "beside --baseline"},
        {"single-quant", job->model.quant.single, runs, "beside --baseline"},
        {"int8-outliers", job->model.outliers != OPT_UNSET_NUMBER, runs, "beside --baseline"},
        {"threads", job->model.threads != 0, runs, "beside --baseline"},
        {"max-length", job->max_length != OPT_UNSET_INT, runs, "beside --baseline"},
        {"overlong", job->overlong, runs, "beside --baseline"},
        {"train-on", job->train_on, runs, "beside --baseline"},
        {"allow-untrained", job->allow_untrained, runs, "beside --baseline"},
        {"template", d->chat, runs, "beside --baseline"},
        {"prompt-template", d->prompt, runs, "beside --baseline"},
        {"system", d->system, runs, "beside --baseline"},
        {"rouge", job->rouge, runs, "beside --baseline, which is ROUGE"},
        {"stem", job->stem, job->rouge || job->baseline, "without --rouge"},
        {"max-new-tokens", g->max_new_tokens != plain.max_new_tokens, generates, "without --rouge"},
        {"temperature", g->temperature != 0, generates, "without --rouge"},
        {"top-k", g->top_k != plain.top_k, generates, "without --rouge"},
        {"top-p", g->top_p != plain.top_p, generates, "without --rouge"},
        {"min-p", g->min_p != plain.min_p, generates, "without --rouge"},
        {"seed", g->seed != plain.seed, generates, "without --rouge"},
        {"repetition-penalty", g->repetition_penalty != plain.repetition_penalty, generates,
         "without --rouge"},
        {"stop", g->stop.n > 0, generates, "without --rouge"},
        {"batch", g->batch != plain.batch, generates, "without --rouge"},
    };
    TRY(CHECK_USE(flags, NULL, err));
    if (job->out) TRY(flag_out(job->out, err));
    TRY(flag_limit(job->limit, err));
    if (job->max_length != OPT_UNSET_INT && job->max_length < 2)
        return err_set(err, E_INPUT, "--max-length: must be 2 or more, got %lld",
                       (long long)job->max_length);
    return OK;
}

static Status run(EvalJob *job, Err *err)
{
    TRY(check_flags(job, err));
    job->result.stem = job->stem;
    TRY(job->config ? open_config(job, err) : open_data(job, err));
    for (int i = 0; job->out && i < job->n_sources; i++)
        if (command_same_file(job->out, job->sources[i].path))
            return err_set(err, E_INPUT, "--out: %s is the file that is read", job->out);
    if (job->out && job->config && command_same_file(job->out, job->config))
        return err_set(err, E_INPUT, "--out: %s is the config that is read", job->out);
    TRY(model_keeps_its_files(&job->model, job->out, err));
    TRY(job->baseline ? eval_baseline(job, err) : eval_model(job, err));
    if (job->out) TRY(eval_result_write(&job->result, job->out, err));
    return eval_result_print(&job->result, job->json, err);
}

int cmd_eval(int argc, char **argv)
{
    EvalJob job = {
        .model = model_flags_defaults(), .gen = gen_flags_defaults(), .max_length = OPT_UNSET_INT};
    LogFlags log = {0};
    const Opt opts[] = {
        MODEL_FLAGS(job.model),
        DATA_FLAGS(job.data),
        {"config", OPT_STRING, &job.config, "FILE",
         "model and validation data of a training config"},
        {"train-on", OPT_STRING, &job.train_on, "WHAT",
         "the loss is over: answer (default), assistant or all"},
        {"max-length", OPT_INT, &job.max_length, "N",
         "longest row in tokens (default: the model's context, at most 4096)"},
        {"overlong", OPT_STRING, &job.overlong, "WHAT",
         "longer rows: error (default), truncate or split"},
        {"allow-untrained", OPT_FLAG, &job.allow_untrained, NULL,
         "leave out rows that train on nothing instead of refusing them"},
        {"limit", OPT_INT, &job.limit, "N",
         "only the first N rows (of each of a config's files); 0: all"},
        {"rouge", OPT_FLAG, &job.rouge, NULL, "generate answers and score them"},
        {"stem", OPT_FLAG, &job.stem, NULL, "ROUGE of Porter-stemmed words"},
        {"baseline", OPT_STRING, &job.baseline, "NAME",
         "first-turn: score the dialogue's first turn instead of a model's answer"},
        GEN_FLAGS(job.gen),
        {"out", OPT_STRING, &job.out, "FILE",
         "JSONL: each row's loss, scores, prediction and reference"},
        JSON_FLAG(job.json),
        {"quiet", OPT_FLAG, &log.quiet, NULL, "no notes"},
        {0},
    };
    const CommandLine line = {.usage = usage,
                              .about = about,
                              .opts = opts,
                              .args = job.overrides,
                              .max_args = EVAL_MAX_OVERRIDES,
                              .n_args = &job.n_overrides};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {.more = &(Problems){0}};
    job.log = command_log(&log);
    Status s = run(&job, &err);
    eval_result_clear(&job.result);
    data_source_clear(&job.source);
    if (job.has_cfg) config_clear(&job.cfg);
    return command_end_problems(s, &job.problems, &err);
}
