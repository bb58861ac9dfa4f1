#include "cli/model_open.h"

#include "base/fs.h"
#include "cli/flags.h"
#include "cli/run_base.h"
#include "model/hf_files.h"
#include "model/inspect.h"

ModelFlags model_flags_defaults(void)
{
    return (ModelFlags){.quant = quant_flags_defaults(), .outliers = OPT_UNSET_NUMBER};
}

int64_t model_context(const LlamaConfig *cfg)
{
    int64_t n = cfg->max_position_embeddings;
    return cfg->sliding_window > 0 && cfg->sliding_window < n ? cfg->sliding_window : n;
}

Status model_keeps_its_files(const ModelFlags *f, const char *out, Err *err)
{
    const char *const folders[] = {f->model, f->adapter, f->tokenizer};
    static const char *const flags[] = {"--model", "--adapter", "--tokenizer"};
    for (int i = 0; out && i < 3; i++)
        if (folders[i] && path_exists(out) && path_lies_in(out, folders[i]))
            return err_set(err, E_INPUT, "--out: %s is a file of %s %s; name another", out,
                           flags[i], folders[i]);
    return OK;
}

Status model_read_config(LlamaConfig *cfg, Tokenizer **t, const ModelFlags *f, Err *err)
{
    TRY(flag_threads(f->threads, err));
    if (!f->model) return err_set(err, E_INPUT, "--model: needs a model folder");
    if (!path_is_dir(f->model))
        return err_set(err, E_INPUT, "--model: %s is not a folder", f->model);
    if (f->adapter && !path_is_dir(f->adapter))
        return err_set(err, E_INPUT, "--adapter: %s is not a folder", f->adapter);
    TRY(llama_config_load(cfg, f->model, err));
    if (!t) return OK;
    TRY(tokenizer_load(t, f->tokenizer ? f->tokenizer : f->model, err));
    /* Files often have a padded matrix, so more rows than tokens are fine. */
    if (tokenizer_vocab_size(*t) <= cfg->vocab_size) return OK;
    Status s = err_set(err, E_INPUT,
                       "%s: the tokenizer has ids up to %d, the model only %lld tokens; they do "
                       "not belong together",
                       f->tokenizer ? f->tokenizer : f->model, tokenizer_vocab_size(*t) - 1,
                       (long long)cfg->vocab_size);
    tokenizer_free(*t);
    *t = NULL;
    return s;
}

bool model_is_quantised(const ModelFlags *f, const LlamaConfig *cfg)
{
    bool asked = f->quant.type && !str_eq(f->quant.type, "none");
    return asked || (f->base && f->base->type != QUANT_NONE) || cfg->quant.method;
}

static Status attach(OpenModel *m, const char *dir, Err *err)
{
    LoraOpts opts = {0};
    TRY(lora_opts_load(&opts, NULL, dir, err));
    Status s = lora_attach(&m->lora, &m->llama, &opts, err);
    m->has_lora = s == OK;
    lora_opts_clear(&opts);
    return s == OK ? OK : lora_error_in_file(err, s, dir);
}

Status model_base(QuantOpts *out, const ModelFlags *f, const LlamaConfig *cfg, Log *log, Err *err)
{
    const char *given = quant_flags_given(&f->quant);
    *out = quant_opts_of(&cfg->quant);
    if (cfg->quant.method && given)
        return err_set(err, E_INPUT, "--%s: the model is quantised already (%s)", given,
                       quant_method_name(cfg->quant.method));
    if (cfg->quant.method) return OK;
    if (given) return quant_flags_read(out, &f->quant, err);
    if (f->base) *out = *f->base;
    return f->base || !f->adapter ? OK : run_base_read(out, f->adapter, log, err);
}

static Status quantize(OpenModel *m, const ModelFlags *f, Log *log, Err *err)
{
    QuantOpts o;
    TRY(model_base(&o, f, &m->llama.cfg, log, err));
    if (m->llama.cfg.quant.method)
        TRY(llama_quantize_as(&m->llama, f->model, err));
    else
        llama_quantize(&m->llama, &o);
    if (f->outliers == OPT_UNSET_NUMBER) return OK;
    if (!(f->outliers > 0))
        return err_set(err, E_INPUT, "--int8-outliers: must be above 0, is %g", f->outliers);
    if (o.type != QUANT_INT8)
        return err_set(err, E_INPUT,
                       "--int8-outliers: the base is kept as %s; it is for int8 (--quantize int8)",
                       quant_type_name(o.type));
    const char *decoded = llama_decoded_module(&m->llama);
    if (decoded)
        return err_set(err, E_INPUT,
                       "--int8-outliers: %s is int8 in the file, but decoded, for a module that is "
                       "one matrix with it is not quantised; leave it out",
                       decoded);
    llama_set_outliers(&m->llama, (float)f->outliers);
    return OK;
}

Status model_open(OpenModel *m, const ModelFlags *f, const LlamaConfig *cfg, int64_t positions,
                  const char *when_full, Log *log, Err *err)
{
    const char *device = f->device ? f->device : "cpu";
    const Backend *backend = backend_find(device);
    if (!backend)
        return err_set(err, E_INPUT, "--device: '%s' is not built in; there is: %s", device,
                       backend_names());
    DType compute;
    TRY(flag_precision(&compute, f->precision, device, err));
    DeviceOpts opts = {.threads = (int)f->threads};
    Status s = device_open(&m->dev, backend, &opts, compute, err);
    if (s != OK) return err_wrap(err, s, "--device");
    device_when_full(&m->dev, when_full);
    llama_init(&m->llama, cfg, &m->dev, positions);
    m->has_llama = true;
    TRY(quantize(m, f, log, err));
    if (f->adapter) TRY(attach(m, f->adapter, err));
    llama_alloc(&m->llama);
    TRY(model_load_weights(&m->llama, f->model, log, err));
    QuantReport report;
    quant_report(&report, &m->llama);
    if (report.not_finite) return quant_not_finite(f->model, report.not_finite, err);
    if (f->adapter) TRY(lora_load(&m->lora, &m->llama, f->adapter, err));
    return OK;
}

Status model_blame(const OpenModel *m, const ModelFlags *f, Status s, Err *err)
{
    const char *const folders[] = {f->model, f->adapter};
    for (int i = 0; i < 2 && s == E_FAILED; i++)
        if (folders[i]) TRY(inspect_finite(folders[i], m->dev.pool, err));
    if (s == E_FAILED)
        err_set(err, s, "%s, though every weight is: numbers overflow on the way", err->line);
    return s;
}

void model_close(OpenModel *m)
{
    if (m->has_lora) lora_detach(&m->lora, &m->llama);
    if (m->has_llama) llama_clear(&m->llama);
    device_close(&m->dev);
    *m = (OpenModel){0};
}
