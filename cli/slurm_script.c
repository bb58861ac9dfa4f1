/* The script's text, from top to bottom. */
#include "cli/slurm_script.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Quoted for a shell where it must be. */
static void put_word(StrBuf *b, const char *s)
{
    if (*s &&
        strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:,@%+-") ==
            strlen(s)) {
        strbuf_puts(b, s);
        return;
    }
    strbuf_putc(b, '\'');
    for (; *s; s++)
        if (*s == '\'')
            strbuf_puts(b, "'\\''");
        else
            strbuf_putc(b, *s);
    strbuf_putc(b, '\'');
}

static int n_values(const char *item)
{
    int n = 1;
    for (const char *p = strchr(item, '='); *p; p++)
        n += *p == ',';
    return n;
}

/* Two tasks of a sweep would write to one folder: where its key or a value comes twice; none where it says itself. */
static Status check_distinct(const OptStrings *sweep, int i, Err *err)
{
    const char *item = sweep->items[i];
    const size_t of_key = strcspn(item, "=");
    if (of_key == strlen("output") && strncmp(item, "output", of_key) == 0)
        return err_set(err, E_INPUT,
                       "--sweep: output: each combination has a folder of its own in the config's "
                       "output; leave it out");
    for (int j = 0; j < i; j++)
        if (strncmp(sweep->items[j], item, of_key + 1) == 0)
            return err_set(err, E_INPUT, "--sweep: %.*s comes twice; give all its values at once",
                           (int)of_key, item);
    for (const char *a = item + of_key + 1; *a; a += strcspn(a, ","), a += *a == ',')
        for (const char *b = a + strcspn(a, ","); *b; b += strcspn(b, ",")) {
            b++;
            const size_t n = strcspn(a, ",");
            if (n == strcspn(b, ",") && strncmp(a, b, n) == 0)
                return err_set(err, E_INPUT, "--sweep: %.*s: %.*s comes twice", (int)of_key, item,
                               (int)n, a);
        }
    return OK;
}

static Status check(const SlurmJob *j, Err *err)
{
    if (j->gpus > j->gpus_per_node && j->gpus % j->gpus_per_node != 0)
        return err_set(
            err, E_INPUT,
            "--gpus: %lld do not fill nodes of %lld; give a multiple, or --gpus-per-node",
            (long long)j->gpus, (long long)j->gpus_per_node);
    for (int i = 0; i < j->sweep->n; i++) {
        const char *at = strchr(j->sweep->items[i], '=');
        if (!at || at == j->sweep->items[i] || !at[1] || strstr(at, ",,") ||
            at[strlen(at) - 1] == ',')
            return err_set(err, E_INPUT, "--sweep: must be KEY=VALUE,VALUE,..., got '%s'",
                           j->sweep->items[i]);
        TRY(check_distinct(j->sweep, i, err));
    }
    return OK;
}

/* A line for sbatch, what it means in a column of its own. */
static void put_option(StrBuf *b, const char *meaning, const char *fmt, ...)
{
    enum { COLUMN = 40 };
    size_t began = b->len;
    va_list args;
    va_start(args, fmt);
    char text[512];
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    strbuf_printf(b, "#SBATCH --%s", text);
    if (meaning) strbuf_printf(b, "%*s# %s", (int)(COLUMN + began - b->len), "", meaning);
    strbuf_putc(b, '\n');
}

static void put_resources(StrBuf *b, const SlurmJob *j)
{
    int64_t tasks = j->gpus ? j->gpus : j->tasks;
    int64_t per_node = j->gpus > j->gpus_per_node ? j->gpus_per_node : tasks;
    long long n = 1;
    for (int i = 0; i < j->sweep->n; i++)
        n *= n_values(j->sweep->items[i]);
    strbuf_puts(
        b, "# What the job asks for: lines that begin with #SBATCH are read by sbatch alone.\n");
    put_option(b, NULL, "job-name=%s", j->name);
    put_option(b, "machines", "nodes=%lld", (long long)(tasks / per_node));
    put_option(b, j->gpus ? "processes on each, one a GPU" : "processes", "ntasks-per-node=%lld",
               (long long)per_node);
    if (j->gpus)
        put_option(b, "some sites want --gres=gpu:N instead", "gpus-per-node=%lld",
                   (long long)per_node);
    put_option(b, "cores of each process", "cpus-per-task=%lld", (long long)j->cpus_per_gpu);
    put_option(b, "limit; the run saves itself before it", "time=%s", j->time);
    if (j->partition) put_option(b, NULL, "partition=%s", j->partition);
    if (j->account) put_option(b, NULL, "account=%s", j->account);
    if (j->sweep->n) put_option(b, "a job for each combination below", "array=0-%lld", n - 1);
    put_option(b, "the log: name and number of the job", "output=%%x-%%%s.log",
               j->sweep->n ? "A_%a" : "j");
    put_option(b, "a second start goes on in the same log", "open-mode=append");
    put_option(b, "it may be put back into the queue", "requeue");
    if (j->before_end > 0)
        put_option(b, "seconds before the limit: save and stop", "signal=USR1@%lld",
                   (long long)j->before_end);
}

/* Mixed-radix digits of the task's number choose the values. */
static void put_sweep(StrBuf *b, const SlurmJob *j)
{
    if (!j->sweep->n) return;
    strbuf_puts(b, "\n# This task's combination.\nn=$SLURM_ARRAY_TASK_ID\nsweep=()\ntag=\n");
    for (int i = 0; i < j->sweep->n; i++) {
        const char *item = j->sweep->items[i], *at = strchr(item, '=');
        StrBuf key = {0};
        strbuf_append(&key, item, (size_t)(at - item));
        strbuf_puts(b, "values=(");
        for (const char *p = at + 1; *p;) {
            size_t len = strcspn(p, ",");
            StrBuf v = {0};
            strbuf_append(&v, p, len);
            if (p != at + 1) strbuf_putc(b, ' ');
            put_word(b, v.data);
            strbuf_clear(&v);
            p += len + (p[len] == ',');
        }
        strbuf_printf(b, ")\nv=${values[n %% %d]} n=$((n / %d))\n", n_values(item), n_values(item));
        strbuf_printf(b, "sweep+=(\"%s=$v\") tag=\"$tag/%s=$v\"\n", key.data, key.data);
        strbuf_clear(&key);
    }
    StrBuf out = {0};
    put_word(&out, j->output);
    strbuf_printf(b, "sweep+=(\"output=\"%s\"$tag\")\n", out.data);
    strbuf_clear(&out);
}

static void put_run(StrBuf *b, const SlurmJob *j)
{
    strbuf_puts(b, "\n# srun starts the processes and tells each its rank; it does not take the "
                   "cores over by itself.\n"
                   "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\n");
    if (j->before_end > 0)
        strbuf_puts(
            b,
            "# When the job's time ends: Slurm tells it from 23.02 on, older ones are asked.\n"
            "if [ -z \"${SLURM_JOB_END_TIME:-}\" ]; then\n"
            "    end=$(squeue --noheader --jobs=\"$SLURM_JOB_ID\" --format=%e)\n"
            "    SLURM_JOB_END_TIME=$(date --date=\"${end:-unknown}\" +%s 2>/dev/null) && export "
            "SLURM_JOB_END_TIME\n"
            "fi\n");
    strbuf_puts(b, "\nsrun --kill-on-bad-exit=1 ");
    put_word(b, j->lorac);
    strbuf_puts(b, " train ");
    put_word(b, j->config);
    for (int i = 0; i < j->n_overrides; i++) {
        strbuf_putc(b, ' ');
        put_word(b, j->overrides[i]);
    }
    if (j->sweep->n) strbuf_puts(b, " \"${sweep[@]}\"");
    strbuf_puts(b, " \"$@\"\ncode=$?\n");
    strbuf_puts(
        b,
        "\n# 75: stopped on request with a checkpoint; 138: the request came before the program "
        "could hear it.  Either way\n"
        "# the same job again goes on.\n"
        "if [ $code = 75 ] || [ $code = 138 ] && [ \"${SLURM_RESTART_COUNT:-0}\" -lt 1000 ]; then\n"
        "    scontrol requeue \"$SLURM_JOB_ID\" && exit 0\n"
        "fi\n"
        "exit $code\n");
}

Status slurm_script(StrBuf *out, const SlurmJob *job, Err *err)
{
    TRY(check(job, err));
    strbuf_puts(
        out,
        "#!/bin/bash\n"
        "# Hand this to Slurm with `sbatch THIS`; `squeue --me` shows it, `scancel JOB` ends it.\n"
        "# Paths are relative to the folder where it is handed in; the log lies there too.\n");
    strbuf_puts(out, "# Made by: lorac");
    for (int i = 0; i < job->argc; i++) {
        strbuf_putc(out, ' ');
        put_word(out, job->argv[i]);
    }
    strbuf_puts(out, "\n\n");
    put_resources(out, job);
    put_sweep(out, job);
    put_run(out, job);
    return OK;
}
