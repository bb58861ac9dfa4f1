/* lorac plan: what a run will take, on a GPU that need not be here. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/flags.h"
#include "cli/plan_print.h"
#include "dist/launch.h"

#include <stdlib.h>

/* The data are opened when all files are there; else the plan assumes full rows and says so. */
static bool data_are_there(const TrainConfig *c, const char **missing)
{
    for (int i = 0; i < c->data.n_train + c->data.n_eval; i++) {
        const DataSource *s =
            i < c->data.n_train ? &c->data.train[i] : &c->data.eval[i - c->data.n_train];
        if (path_exists(s->path)) continue;
        *missing = s->path;
        return false;
    }
    return true;
}

/* The device that the config names, or stands for when --gpu does. */
static Status choose_device(PlanDevice *out, const TrainConfig *c, const char *gpu, Err *err)
{
    *out = (PlanDevice){0};
    if (!gpu && str_eq(c->device, "cpu")) {
        Device d = {0};
        DeviceOpts opts = {.threads = 1, .region_bytes = config_memory_bytes(c)};
        TRY(device_open(&d, backend_find("cpu"), &opts, DT_F32, err));
        out->bytes = d.region_bytes;
        out->target = plan_target_of(&d);
        device_close(&d);
        snprintf(out->name, sizeof out->name, "this machine's CPU");
        return OK;
    }
    if (!gpu && !str_eq(c->device, "cuda")) {
        char *where = config_where(c, "runtime.device");
        err_set(err, E_INPUT, "%s: runtime.device: '%s' is no device; cpu or cuda", where,
                c->device);
        free(where);
        return E_INPUT;
    }
    out->gpu = gpu_find(gpu ? gpu : "h200");
    if (!out->gpu) {
        StrBuf names = {0};
        for (int i = 0; gpu_spec(i); i++)
            strbuf_printf(&names, "%s%s", i ? ", " : "", gpu_spec(i)->name);
        Status s =
            err_set(err, E_INPUT, "--gpu: '%s' is not in the table; there are %s", gpu, names.data);
        strbuf_clear(&names);
        return s;
    }
    out->target =
        (PlanTarget){.cuda = true, .n_sms = out->gpu->n_sms, .flash_attention = !c->deterministic};
    out->bytes = out->gpu->memory - GPU_CONTEXT_BYTES - GPU_KEEP_FREE;
    size_t wanted = config_memory_bytes(c);
    if (wanted > 0 && wanted < out->bytes) out->bytes = wanted;
    snprintf(out->name, sizeof out->name, "%s", out->gpu->name);
    return OK;
}

static int plan(TrainConfig *c, const char *gpu, int ranks, bool json, Log *log, Problems *problems)
{
    Session data = {0};
    PlanDevice device;
    RunPlan p;
    Err err = {0};
    const char *missing = NULL;
    Status status = choose_device(&device, c, gpu, &err);
    device.target.ranks = ranks;
    if (ranks > 1 && device.gpu) device.bytes -= launch_keep_bytes(&(Comm){.size = ranks});
    if (status == OK && data_are_there(c, &missing))
        status = session_open_data(&data, c, log, problems);
    if (status == OK)
        status = plan_run(&p, c, data.train, data.eval, &device.target, device.bytes, device.gpu,
                          log, problems);
    bool fits = true;
    if (status == OK) {
        PlanAdvice advice[PLAN_MAX_ADVICE];
        int n_advice = 0;
        fits = p.extent <= device.bytes;
        if (!fits)
            n_advice = plan_advise(advice, c, data.train, data.eval, &device.target, device.bytes);
        StrBuf b = {0};
        PlanReport r = {c, &device, &p, missing, fits, advice, n_advice};
        if (json)
            plan_print_json(&b, &r);
        else
            plan_print(&b, &r);
        status = command_print(&b, &err);
    }
    session_close(&data);
    int code = command_end_problems(status, problems, &err);
    return code == EXIT_DONE && !fits ? EXIT_USAGE : code;
}

int cmd_plan(int argc, char **argv)
{
    bool json = false;
    int64_t ranks = 1;
    const char *gpu = NULL;
    ConfigArgs args = {0};
    const Opt opts[] = {
        {"gpu", OPT_STRING, &gpu, "NAME",
         "the GPU to plan for, whatever runtime.device says: h200 (the default for cuda), h100, "
         "a100-80, rtx-4090, ..."},
        {"ranks", OPT_INT, &ranks, "N", "processes that train together, one a GPU (default 1)"},
        {"json", OPT_FLAG, &json, NULL, "one JSON object instead of the tables"},
        {0}};
    const CommandLine line = {
        .usage = "lorac plan CONFIG.yaml [KEY=VALUE ...]",
        .about = "Peak memory, work and least time of a run, from its own step on a device that "
                 "computes nothing.\nNeeds neither the GPU nor the model's weights; without the "
                 "data files it assumes full rows.\nExit code 2 when the run does not fit.",
        .opts = opts,
        CONFIG_ARGS(args)};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    if (!config_args_given(&args, argv[0], &code)) return code;
    Err err = {0};
    Status status = flag_range("ranks", ranks, 1, 1 << 16, &err);
    if (status != OK) return command_end(status, &err);

    /* --gpu stands for the whole device: its precision is the GPU's default, too. */
    if (gpu) args.items[args.n++] = "runtime.device=cuda";
    Log log = {.to = stderr, .level = LOG_WARN};
    TrainConfig c;
    Problems problems = {0};
    status = config_args_load(&c, &args, false, &problems);
    if (status != OK) return command_end_problems(status, &problems, NULL);
    code = plan(&c, gpu, (int)ranks, json, &log, &problems);
    config_clear(&c);
    return code;
}
