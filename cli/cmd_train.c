/* lorac train: opens what the config names, tells what was found, trains, ends with one line that says
 * how the run ended. */
#include "base/opts.h"
#include "base/str.h"
#include "cli/bench_print.h"
#include "cli/commands.h"
#include "cli/train_data.h"
#include "trainer/run.h"
#include "trainer/stop.h"

#include <stdlib.h>
#include <unistd.h>

enum { MAX_ARGS = 256 };

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

static int train(TrainConfig *c, bool profile, Log *log, Problems *problems)
{
    Meter meter = {0};
    Session s = {.profile = profile ? &meter : NULL};
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
        print_model(&s);
        fflush(stdout);
        status = trainer_run(&s, log_on_terminal(log), &result, problems, &err);
    }
    if (status == OK && meter.inner) {
        StrBuf b = {0};
        profile_print(&b, &meter);
        status = command_print(&b, &err);
    }
    if (status == OK) note_attention(&s);
    bool again = status == OK && result.stop_request;
    if (again)
        printf("stopped by %s after step %lld; checkpoint-%lld in %s is where the next start goes "
               "on\n",
               result.stop_request, (long long)result.steps, (long long)result.steps, c->output);
    else if (status == OK)
        print_result(c, &result);
    session_close(&s);
    return again ? EXIT_AGAIN : command_end_problems(status, problems, &err);
}

int cmd_train(int argc, char **argv)
{
    bool verbose = false, quiet = false, profile = false, help = false;
    const Opt opts[] = {
        {"verbose", OPT_FLAG, &verbose, NULL, "more notes, and the first row as a table of tokens"},
        {"quiet", OPT_FLAG, &quiet, NULL, "warnings only, no progress"},
        {"profile", OPT_FLAG, &profile, NULL,
         "at the end: time, operations and bytes of the third step by module, op and kernel"},
        {0}};
    const char *args[MAX_ARGS];
    int n_args = 0;
    Err err = {0};
    Status status = opts_parse(opts, argc, argv, args, &n_args, MAX_ARGS, &help, &err);
    if (help) {
        opts_help(stdout, "lorac train CONFIG.yaml [KEY=VALUE ...]",
                  "Trains as the config says; KEY=VALUE overrides any key of it.\n"
                  "`lorac check --explain` lists the keys, docs/config.md has them too.",
                  opts);
        return EXIT_DONE;
    }
    if (status == OK && n_args == 0)
        status = err_set(&err, E_INPUT, "lorac train: name a config file; see lorac train --help");
    if (status != OK) return command_end(status, &err);

    Log log = {.to = stderr, .level = quiet ? LOG_WARN : verbose ? LOG_VERBOSE : LOG_INFO};
    TrainConfig c;
    Problems problems = {0};
    stop_listen();
    status = config_load(&c, args[0], args + 1, n_args - 1, true, &problems);
    if (status != OK) return command_end_problems(status, &problems, NULL);
    int code = train(&c, profile, &log, &problems);
    config_clear(&c);
    return code;
}
