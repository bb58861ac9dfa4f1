/* lorac train: opens what the config names, tells what was found, trains, ends with one line that says
 * how the run ended. */
#include "base/str.h"
#include "cli/bench_print.h"
#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/ranks.h"
#include "cli/train_data.h"
#include "trainer/run.h"
#include "trainer/stop.h"

#include <stdlib.h>
#include <unistd.h>

static void print_result(const TrainConfig *c, const RunResult *r)
{
    if (r->n_mean > 0) printf("mean loss of the last %d steps: %.4f\n", r->n_mean, r->mean_loss);
    if (r->best_step > 0)
        printf("best eval loss: %.4f after step %lld\n", r->best_loss, (long long)r->best_step);
    printf("%s written to %s\n", c->method == METHOD_FULL ? "model" : "adapter", c->output);
    printf("%lld steps  loss %.4f  #%08x\n", (long long)r->steps, r->mean_loss,
           (unsigned)(r->hash & 0xFFFFFFFFu));
}

/* Which kernels attention went to: a fallback costs time and nothing else, so it is told to who asks. */
static void note_attention(const Session *s)
{
    DeviceInfo info;
    s->dev.backend->info(&s->dev, &info);
    if (info.n_flash + info.n_plain > 0)
        log_verbose(s->log,
                    "attention: %lld calls by the library's engine, %lld by our own kernels",
                    (long long)info.n_flash, (long long)info.n_plain);
}

static int train(Ranks *ranks, TrainConfig *c, bool profile, Log *log, Problems *problems)
{
    Meter meter = {0};
    bool leads = ranks->hosts.rank == 0;
    Session s = {.hosts = &ranks->hosts, .profile = profile && leads ? &meter : NULL};
    RunResult result;
    Err err = {0};
    stop_listen_clock(c->save_before_end);
    Status status = session_open_data(&s, c, log, problems);
    if (status == OK) {
        print_data(&s, c);
        fflush(stdout);
        status = session_open_model(&s, c, log, problems);
    }
    if (status == OK) {
        watch_comm(ranks->watch, &s.comm, (double)c->timeout);
        print_model(&s);
        fflush(stdout);
        status = trainer_run(&s, log_on_terminal(log), &result, problems, &err);
    }
    if (status == OK && meter.inner) {
        StrBuf b = {0};
        profile_print(&b, &meter);
        status = command_print(&b, &err);
    }
    if (status == OK && leads) print_memory(&s);
    if (status == OK) note_attention(&s);
    bool again = status == OK && result.stop_request;
    if (again && leads)
        printf("stopped by %s after step %lld; checkpoint-%lld in %s is where the next start goes "
               "on\n",
               result.stop_request, (long long)result.steps, (long long)result.steps, c->output);
    else if (status == OK && leads)
        print_result(c, &result);
    if (status == OK && !again && leads && fflush(stdout) != 0)
        status = err_set(&err, E_FAILED, "cannot write to standard output");
    watch_comm(ranks->watch, NULL, 0);
    session_close(&s);
    return again ? EXIT_AGAIN : ranks_end(ranks, status, problems, &err);
}

int cmd_train(int argc, char **argv)
{
    LogFlags flags = {0};
    bool profile = false;
    ConfigArgs args = {0};
    const Opt opts[] = {
        {"verbose", OPT_FLAG, &flags.verbose, NULL,
         "more notes, and the first row as a table of tokens"},
        {"quiet", OPT_FLAG, &flags.quiet, NULL, "warnings only, no progress"},
        {"profile", OPT_FLAG, &profile, NULL,
         "at the end: time, operations and bytes of the third step by module, op and kernel"},
        {0}};
    const CommandLine line = {
        .usage = "lorac train CONFIG.yaml [KEY=VALUE ...]",
        .about = "Trains as the config says; KEY=VALUE overrides any key of it.\n"
                 "`lorac check --explain` lists the keys, docs/config.md has them too.",
        .opts = opts,
        CONFIG_ARGS(args)};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    if (!config_args_given(&args, argv[0], &code)) return code;

    Log log = command_log(&flags);
    TrainConfig c;
    Problems problems = {0};
    stop_listen();
    Ranks ranks;
    JoinStop stop = {.asked = stop_requested};
    Err err = {0};
    Status status = ranks_join(&ranks, &stop, &err);
    if (status != OK) {
        code = command_end(status, &err);
        return stop.stopped ? EXIT_AGAIN : code;
    }
    if (ranks.hosts.rank > 0) log = (Log){.level = LOG_QUIET}; /* rank 0 speaks for all */
    status = config_args_load(&c, &args, true, &problems);
    bool loaded = status == OK;
    status = comm_agree_problems(&ranks.hosts, status, &problems);
    code = status == OK ? train(&ranks, &c, profile, &log, &problems)
                        : ranks_end(&ranks, status, &problems, NULL);
    if (loaded) config_clear(&c);
    ranks_leave(&ranks);
    return code;
}
