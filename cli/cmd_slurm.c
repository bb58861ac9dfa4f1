/* lorac slurm: a batch script from a config. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/slurm_script.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* "llama-8b" of "configs/llama-8b.yaml". */
static char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    return str_format("%.*s", (int)(dot ? (size_t)(dot - base) : strlen(base)), base);
}

static Status check_counts(const SlurmJob *j, bool cpu, Err *err)
{
    const struct {
        const char *flag;
        int64_t value, least;
    } counts[] = {{"--gpus", j->gpus, cpu ? 0 : 1},
                  {"--ranks", j->tasks, 1},
                  {"--gpus-per-node", j->gpus_per_node, 1},
                  {"--cpus-per-task", j->cpus_per_gpu, 1}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < counts[i].least || counts[i].value > 1000000)
            return err_set(err, E_INPUT, "%s: must be %lld to 1000000, got %lld", counts[i].flag,
                           (long long)counts[i].least, (long long)counts[i].value);
    return OK;
}

enum { UNSAID = INT32_MIN }; /* --ranks */

/* Processes on GPUs or on CPUs alone, as the config's device has it. */
static Status settle_counts(SlurmJob *j, const char *device, Err *err)
{
    const bool cpu = str_eq(device, "cpu");
    if (cpu && j->gpus > 0)
        return err_set(
            err, E_INPUT,
            "--gpus: the config's runtime.device is cpu; leave it out, or say cuda there");
    if (!cpu && j->tasks != UNSAID)
        return err_set(err, E_INPUT,
                       "--ranks: the config's runtime.device is %s, with a process for each GPU; "
                       "say --gpus",
                       device);
    if (j->gpus == UNSAID) j->gpus = cpu ? 0 : 1;
    if (j->tasks == UNSAID) j->tasks = 1;
    return OK;
}

/* "MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS", as sbatch(1) has it, or a word for no limit. */
static bool is_time(const char *t)
{
    if (str_eq(t, "UNLIMITED") || str_eq(t, "INFINITE")) return true;
    int dashes = 0, colons = 0;
    for (const char *p = t; *p; p++) {
        const bool between = p > t && isdigit((unsigned char)p[-1]) && isdigit((unsigned char)p[1]);
        if (*p == '-' && between && colons == 0)
            dashes++;
        else if (*p == ':' && between)
            colons++;
        else if (!isdigit((unsigned char)*p))
            return false;
    }
    return *t && dashes <= 1 && colons <= 2;
}

/* What stands in a line for sbatch must be one word there. */
static Status check_words(const SlurmJob *j, Err *err)
{
    const struct {
        const char *flag, *value;
    } words[] = {{"--name", j->name},
                 {"--time", j->time},
                 {"--partition", j->partition},
                 {"--account", j->account}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].value && (!words[i].value[0] || strpbrk(words[i].value, " \t\r\n\"'#\\")))
            return err_set(err, E_INPUT, "%s: must be one word without quotes or #, is '%s'",
                           words[i].flag, words[i].value);
    if (!is_time(j->time))
        return err_set(err, E_INPUT, "--time: must be D-HH:MM:SS, HH:MM:SS or minutes, is '%s'",
                       j->time);
    return OK;
}

/* Each value of a sweep is read as the run will read it: an unknown key or a wrong value is told now. */
static Status check_sweep(const SlurmJob *j, const ConfigArgs *args, Problems *problems)
{
    for (int i = 0; i < j->sweep->n; i++) {
        const char *item = j->sweep->items[i], *at = strchr(item, '=');
        for (const char *p = at + 1; *p;) {
            size_t len = strcspn(p, ",");
            char *one = str_format("%.*s%.*s", (int)(at + 1 - item), item, (int)len, p);
            ConfigArgs with = *args;
            with.items[with.n++] = one;
            TrainConfig c;
            Status s = config_args_load(&c, &with, false, problems);
            if (s == OK) config_clear(&c);
            free(one);
            TRY(s);
            p += len + (p[len] == ',');
        }
    }
    return OK;
}

int cmd_slurm(int argc, char **argv)
{
    ConfigArgs args = {0};
    OptStrings sweep = {0};
    SlurmJob job = {.lorac = "lorac",
                    .gpus = UNSAID,
                    .gpus_per_node = 8,
                    .cpus_per_gpu = 8,
                    .tasks = UNSAID,
                    .time = "24:00:00",
                    .sweep = &sweep};
    const Opt opts[] = {
        {"gpus", OPT_INT, &job.gpus, "N",
         "in all; default: 1, or 0 where the config runs on the CPU"},
        {"gpus-per-node", OPT_INT, &job.gpus_per_node, "N", "default 8"},
        {"ranks", OPT_INT, &job.tasks, "N", "processes of a run on the CPU; default 1"},
        {"cpus-per-task", OPT_INT, &job.cpus_per_gpu, "N", "cores of each process; default 8"},
        {"time", OPT_STRING, &job.time, "LIMIT", "D-HH:MM:SS as sbatch reads it; default 24:00:00"},
        {"partition", OPT_STRING, &job.partition, "NAME", "default: the cluster's own"},
        {"account", OPT_STRING, &job.account, "NAME", "default: the user's own"},
        {"name", OPT_STRING, &job.name, "NAME", "of the job; default: the config's"},
        {"sweep", OPT_STRINGS, &sweep, "KEY=V,V",
         "one run for each value, as a job array (several: each combination)"},
        {"lorac", OPT_STRING, &job.lorac, "PATH", "the program on the nodes; default lorac"},
        {0}};
    const CommandLine line = {
        .usage = "lorac slurm CONFIG.yaml [KEY=VALUE ...] > job.sbatch",
        .about = "A batch script for Slurm that trains as the config says, stops before the time "
                 "limit with a\ncheckpoint, and puts itself back into the queue until it is done.",
        .opts = opts,
        CONFIG_ARGS(args)};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    if (!config_args_given(&args, argv[0], &code)) return code;

    TrainConfig c;
    Problems problems = {0};
    Status status = config_args_load(&c, &args, false, &problems);
    if (status != OK) return command_end_problems(status, &problems, NULL);
    job.argc = argc;
    job.argv = argv;
    job.config = args.items[0];
    job.overrides = args.items + 1;
    job.n_overrides = args.n - 1;
    job.output = c.output;
    job.before_end = c.save_before_end;
    char *name = name_of(args.items[0]);
    if (!job.name) job.name = name;
    StrBuf b = {0};
    Err err = {0};
    status = settle_counts(&job, c.device, &err);
    if (status == OK) status = check_counts(&job, str_eq(c.device, "cpu"), &err);
    if (status == OK) status = check_words(&job, &err);
    if (status == OK) status = slurm_script(&b, &job, &err);
    if (status == OK) status = check_sweep(&job, &args, &problems);
    if (status == OK) status = command_print(&b, &err);
    strbuf_clear(&b);
    free(name);
    config_clear(&c);
    return command_end_problems(status, &problems, &err);
}
