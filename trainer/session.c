/* Device, model and adapters of a run.  The order matters: what is trained must be known before the
 * parameters get their storage, and they need it before weights are read. */
#include "trainer/session.h"

#include "autograd/trace.h"
#include "base/fs.h"
#include "base/str.h"
#include "dist/comm_plan.h"
#include "dist/launch.h"
#include "model/hf_files.h"
#include "trainer/apply.h"
#include "trainer/pissa.h"
#include "trainer/plan.h"
#include "trainer/step.h"
#include "trainer/when_full.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- opening ---------------------------------------------------------------------------------- */

static Status read_shape(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    if (c->model_preset) {
        if (llama_config_preset(&s->shape, c->model_preset)) return OK;
        const char *names[64], *near;
        int n = 0;
        StrBuf all = {0};
        for (; n < 64 && llama_preset_name(n); n++) {
            names[n] = llama_preset_name(n);
            strbuf_printf(&all, "%s%s", n ? ", " : "", names[n]);
        }
        near = str_nearest(c->model_preset, names, n);
        config_problem(c, p, "model.preset", "there is no '%s'; %s%s%sthere are %s",
                       c->model_preset, near ? "did you mean '" : "", near ? near : "",
                       near ? "'? " : "", all.data ? all.data : "none");
        strbuf_clear(&all);
        return E_INPUT;
    }
    Problems more = {0};
    Err err = {.more = &more};
    Status status = llama_config_load(&s->shape, c->model_path, &err);
    for (int i = 0; i < more.n; i++)
        config_problem(c, p, "model.path", "%s", more.lines[i]);
    if (status != OK) config_problem(c, p, "model.path", "%s", err.line);
    problems_clear(&more);
    return status;
}

/* A quantised checkpoint is kept as it is, and only adapters can be trained on it. */
static Status check_quantised(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    if (c->model_init == INIT_RANDOM) s->shape.quant = (QuantFile){0};
    if (s->shape.quant.method == QUANT_METHOD_NONE) return OK;
    c->coded = true;
    const char *method = quant_method_name(s->shape.quant.method);
    int before = p->n;
    if (c->method != METHOD_QLORA)
        config_problem(c, p, "model.path", "the checkpoint is quantised (%s); set method: qlora",
                       method);
    if (c->lora.pissa)
        config_problem(
            c, p, "lora.init",
            "pissa needs weights that are not quantised, and the checkpoint is (%s); set "
            "lora.init: kaiming",
            method);
    static const char *const keys[] = {"model.quantize", "model.double_quant", "model.quant_block"};
    for (int i = 0; i < 3 && p->n == before; i++)
        if (config_is_set(c, keys[i]))
            config_problem(
                c, p, keys[i],
                "the checkpoint is quantised already (%s) and is kept as it is; leave it out",
                method);
    return p->n == before ? OK : E_INPUT;
}

static void check_document(const Session *s, const Document *doc, Problems *p)
{
    for (int64_t i = 0; i < doc->n; i++) {
        bool bad_label = doc->labels[i] >= s->shape.vocab_size;
        if (doc->ids[i] < s->shape.vocab_size && !bad_label) continue;
        Err err = {0};
        Status status =
            err_set(&err, E_INPUT,
                    "%s:%lld: token %d is beyond the model's vocabulary of %lld; "
                    "tokenizer and model do not belong together",
                    doc->at.file, (long long)doc->at.line, bad_label ? doc->labels[i] : doc->ids[i],
                    (long long)s->shape.vocab_size);
        row_error(&err, status, doc->at.file, doc->at.number);
        problems_add_row(p, "%s", err.line);
        return;
    }
}

/* Tokens that attend to each other: a document's, or a row's where rows are cut from all of them. */
static int64_t longest_sequence(const Session *s, const Dataset *d)
{
    if (d && s->cfg->data.packing == PACK_CONCAT) return s->cfg->data.max_length;
    return d ? dataset_report(d)->longest : 0;
}

/* Does the model take these documents? */
static Status check_fit(const Session *s, Problems *p)
{
    int before = p->n;
    for (int k = 0; k < 2; k++) {
        const Dataset *d = k ? s->eval : s->train;
        for (int64_t i = 0; d && i < dataset_size(d); i++) {
            Document doc = dataset_document(d, i);
            check_document(s, &doc, p);
        }
    }
    const bool concat = s->cfg->data.packing == PACK_CONCAT;
    const char *what = concat ? "packing concat makes rows of" : "the longest document has";
    int64_t train = longest_sequence(s, s->train), eval = longest_sequence(s, s->eval);
    int64_t longest = train > eval ? train : eval;
    if (longest > s->shape.max_position_embeddings)
        log_warn(s->log,
                 "data.max_length: %s %lld tokens, the model was made for "
                 "%lld positions: it has yet to learn the ones beyond",
                 what, (long long)longest, (long long)s->shape.max_position_embeddings);
    if (s->shape.sliding_window > 0 && longest > s->shape.sliding_window)
        config_problem(s->cfg, p, "data.max_length",
                       "%s %lld tokens and the model has a sliding window of %lld, "
                       "which is not supported; lower it to the window",
                       what, (long long)longest, (long long)s->shape.sliding_window);
    return p->n == before ? OK : E_INPUT;
}

static Status open_device(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    const Backend *backend = backend_find(c->device);
    if (!backend || str_eq(c->device, "plan")) {
        config_problem(c, p, "runtime.device", "'%s' is not built in; there is %s", c->device,
                       backend_names());
        return E_INPUT;
    }
    Err err = {0};
    DeviceOpts opts = {.threads = (int)c->threads,
                       .region_bytes = config_memory_bytes(c),
                       .keep_bytes = launch_keep_bytes(s->hosts),
                       .deterministic = c->deterministic};
    Status status = launch_ordinal(&opts.ordinal, s->hosts, backend, &err);
    if (status == OK) status = device_open(&s->dev, backend, &opts, config_compute_dtype(c), &err);
    if (status != OK) config_problem(c, p, "runtime.device", "%s", err.line);
    return session_agree(s, status, p);
}

/* Without data it cannot be said whether the run fits, only how large what it keeps on its host is. */
static Status plan_home(Session *s)
{
    Problems ignored = {0};
    if (s->cfg->offload != OFFLOAD_NONE && plan_for_device(s, &ignored) != OK)
        problems_clear(&ignored);
    return OK;
}

/* Of the size that was planned. */
static Status open_home(Session *s, Problems *p)
{
    Err err = {0};
    Status status = host_home_open(&s->home, &s->dev, (Offload)s->cfg->offload, &s->planned_host,
                                   (int)s->cfg->threads, &err);
    if (status != OK) config_problem(s->cfg, p, "parallel.offload", "%s", err.line);
    return session_agree(s, status, p);
}

static Status open_comm(Session *s, Problems *p)
{
    Err err = {0};
    Status status =
        launch_comm(&s->comm, s->hosts, &s->dev, step_ctas_of(s->cfg, s->hosts->size), &err);
    if (status != OK) problems_add(p, "%s", err.line);
    return status;
}

/* With lora.adapter its own settings become the config's, so that the resolved config tells them. */
static Status attach_adapters(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    LoraOpts opts = {0};
    Err err = {0};
    Status status = OK;
    if (c->lora_adapter) {
        status = lora_opts_load(&opts, NULL, c->lora_adapter, &err);
        if (status == OK && config_is_set(c, "lora.dropout"))
            opts.dropout = c->lora.dropout;
        else
            c->lora.dropout = opts.dropout;
        opts.b_lr_ratio = c->lora.b_lr_ratio;
    } else {
        lora_opts_copy(&opts, &c->lora);
    }
    Status attached = status == OK ? lora_attach(&s->lora, &s->model, &opts, &err) : OK;
    if (status == OK) status = attached;
    lora_opts_clear(&opts);
    s->has_lora = status == OK;
    char key[64];
    snprintf(key, sizeof key, "lora.%s", c->lora_adapter ? "adapter" : err.key);
    if (attached != OK && c->lora_adapter) lora_error_in_file(&err, attached, c->lora_adapter);
    if (status != OK) config_problem(c, p, key, "%s", err.line);
    return status;
}

static Status fill_weights(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    Err err = {0};
    Status status = OK;
    const char *key = "model.path";
    if (c->model_init == INIT_RANDOM) {
        if (c->method != METHOD_FULL)
            log_warn(s->log, "model.init: the base is random and not kept: the adapter will fit "
                             "no model (good for measuring speed and memory)");
        model_init_random(&s->model, (uint64_t)c->seed);
    } else {
        /* looked at by all before the first byte is read: from then on ranks wait for each other */
        status = comm_agree(s->hosts, model_check_weights(&s->model, c->model_path, &err), &err);
        if (status == OK) status = model_load_weights(&s->model, c->model_path, s->log, &err);
    }
    if (status == OK && c->lora_adapter) {
        key = "lora.adapter";
        status = lora_load(&s->lora, &s->model, c->lora_adapter, &err);
    } else if (status == OK && s->has_lora) {
        lora_init_weights(&s->lora, &s->dev, (uint64_t)c->seed);
        key = "lora.init";
        if (c->lora.pissa) status = pissa_init(s, &err);
    }
    status = comm_agree(s->hosts, status, &err);
    /* each rank read what it keeps; at stage 3 that is all until the first use */
    if (status == OK && (s->shards.opts.zero < 3 || s->home.open)) shards_updated(&s->shards);
    shards_end_pass(&s->shards);
    if (status != OK) config_problem(c, p, key, "%s", err.line);
    return status;
}

static Status open_trace(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    if (!c->trace || !session_leads(s)) return OK;
    Err err = {0};
    Status status = dir_check_new(c->trace, NULL, &err);
    if (status == OK) status = dir_make(c->trace, &err);
    if (status != OK) config_problem(c, p, "runtime.trace", "%s", err.line);
    if (status == OK) s->trace = trace_new(c->trace);
    return status;
}

static Status open_groups(Session *s, ShardOpts *opts, Problems *p)
{
    int n = (int)s->cfg->shard_group, size = s->comm.size;
    Err err = {0};
    /* alone: a config for many is checked or tried */
    if (n == 0 || n == size || size == 1) return OK;
    if (size % n != 0) {
        config_problem(s->cfg, p, "parallel.shard_group", "%d does not divide the %d ranks", n,
                       size);
        return E_INPUT;
    }
    Status status = comm_run(&s->run, &s->comm, n, &err);
    if (status == OK) status = comm_across(&s->across, &s->comm, n, &err);
    if (status != OK) problems_add(p, "%s", err.line);
    opts->run = &s->run;
    opts->across = &s->across;
    return status;
}

/* As the checkpoint is, or as the config says. */
static Status quantize(Session *s, Problems *problems)
{
    Err err = {0};
    const QuantOpts quant = config_quant(s->cfg);
    if (s->shape.quant.method == QUANT_METHOD_NONE) {
        llama_quantize(&s->model, &quant);
        return OK;
    }
    Status status = llama_quantize_as(&s->model, s->cfg->model_path, &err);
    if (status != OK) config_problem(s->cfg, problems, "model.path", "%s", err.line);
    return status;
}

/* Parameters with their storage, without their values. */
static Status build_model(Session *s, Problems *problems)
{
    llama_init(&s->model, &s->shape, &s->dev, s->cfg->data.max_length);
    s->has_model = true;
    int before = problems->n;
    Status status = quantize(s, problems);
    if (status == OK && s->cfg->method != METHOD_FULL)
        status = attach_adapters(s, problems);
    else if (status == OK)
        apply_full(&s->model);
    if (status == OK) {
        apply_embedding(&s->model, s->cfg, problems);
        apply_recompute(&s->model, s->cfg, problems);
        if (problems->n > before) status = E_INPUT;
    }
    /* what was read lies on each host: none may wait in a group for one that stopped here */
    TRY(session_agree(s, status, problems));
    ShardOpts opts = step_shards(s->cfg);
    opts.host = host_home_shards(&s->home);
    TRY(open_groups(s, &opts, problems));
    shards_init(&s->shards, &s->dev, &s->comm, &s->model.params, &opts);
    apply_shards(&s->model, &s->shards);
    return OK;
}

static Status report_codes(Session *s, Problems *problems)
{
    Err err = {0};
    QuantReport report;
    quant_report(&report, &s->model);
    if (report.not_finite) {
        quant_not_finite(s->cfg->model_path, report.not_finite, &err);
        config_problem(s->cfg, problems, "model.path", "%s", err.line);
        return E_INPUT;
    }
    quant_report_log(&report, &s->model, s->log);
    return OK;
}

Status session_open_model(Session *s, TrainConfig *cfg, Log *log, Problems *problems)
{
    s->cfg = cfg;
    s->log = log;
    if (!s->hosts) session_alone(s);
    Status status = read_shape(s, problems);
    if (status == OK) status = check_quantised(s, problems);
    if (status == OK && s->train) status = check_fit(s, problems);
    TRY(session_agree(s, status, problems));
    TRY(open_device(s, problems));
    status = s->train ? plan_for_device(s, problems) : plan_home(s);
    TRY(session_agree(s, status, problems));
    char settings[ADVICE_MAX];
    device_when_full(&s->dev, when_full_train(settings, cfg, s->hosts->size));
    TRY(open_home(s, problems));
    TRY(open_comm(s, problems));
    status = build_model(s, problems);
    TRY(session_agree(s, status, problems));
    TRY(fill_weights(s, problems));
    status = report_codes(s, problems);
    if (status == OK) status = open_trace(s, problems);
    return session_agree(s, status, problems);
}

Status session_open_plan(Session *s, TrainConfig *cfg, const PlanTarget *target, Log *log,
                         Problems *problems)
{
    s->cfg = cfg;
    s->log = log;
    s->alone = target->ranks > 1 ? comm_plan(target->ranks) : comm_self();
    s->hosts = &s->alone;
    TRY(read_shape(s, problems));
    TRY(check_quantised(s, problems));
    Err err = {0};
    DeviceOpts opts = {.target = target};
    Status status =
        device_open(&s->dev, backend_find("plan"), &opts, config_compute_dtype(cfg), &err);
    if (status == OK)
        status = host_home_open(&s->home, &s->dev, (Offload)cfg->offload, NULL, 1, &err);
    if (status != OK) problems_add(problems, "%s", err.line);
    s->comm = *s->hosts;
    return status == OK ? build_model(s, problems) : status;
}

void session_close(Session *s)
{
    trace_free(s->trace);
    shards_clear(&s->shards);
    if (s->has_lora) lora_detach(&s->lora, &s->model);
    if (s->has_model) llama_clear(&s->model);
    if (s->run.ops) comm_close(&s->run);
    if (s->across.ops) comm_close(&s->across);
    if (s->hosts) launch_comm_close(&s->comm, s->hosts);
    host_home_close(&s->home);
    if (s->dev.backend) device_close(&s->dev);
    dataset_free(s->train);
    dataset_free(s->eval);
    tokenizer_free(s->tokenizer);
    *s = (Session){0};
}
