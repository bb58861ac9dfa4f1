/* lorac check: everything that can be wrong before the first step, without training: config, data, model
 * files, adapter; and the counts that train prints. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/train_data.h"
#include "trainer/checkpoint.h"
#include "trainer/run.h"

#include <stdlib.h>

static int explain(void)
{
    StrBuf b = {0};
    Err err = {0};
    config_explain(&b);
    return command_end(command_print(&b, &err), &err);
}

/* What a run would go on from, and whether it can. */
static Status check_resume(Session *s, Problems *problems)
{
    const TrainConfig *c = s->cfg;
    char *path = NULL;
    RunState run = {0};
    Err err = {0};
    Status status = checkpoint_choose(&path, s, &err);
    if (status != OK) config_problem(c, problems, "resume", "%s", err.line);
    if (path) status = checkpoint_check(s, &run, path, problems);
    if (path && status == OK) status = trainer_check_length(s, run.step, path, problems);
    if (path && status == OK)
        printf("a run would go on from %s, step %lld (resume: %s)\n", path, (long long)run.step,
               c->resume);
    free(path);
    return status;
}

/* Data and model are opened though the other failed: all errors are told. */
static int check(TrainConfig *c, Log *log, Problems *problems)
{
    Session s = {0};
    Status data = session_open_data(&s, c, log, problems);
    if (data == OK) print_data(&s, c);
    Status model = session_open_model(&s, c, log, problems);
    if (model == OK) print_model(&s);
    Status worst = data != OK ? data : model;
    if (worst == OK) worst = check_resume(&s, problems);
    session_close(&s);
    if (worst == OK) printf("%s: ready to train\n", c->file);
    return command_end_problems(worst, problems, NULL);
}

int cmd_check(int argc, char **argv)
{
    LogFlags flags = {0};
    bool want_explain = false;
    ConfigArgs args = {0};
    const Opt opts[] = {
        {"explain", OPT_FLAG, &want_explain, NULL, "print every key with default and meaning"},
        {"verbose", OPT_FLAG, &flags.verbose, NULL,
         "more notes, and the first row as a table of tokens"},
        {"quiet", OPT_FLAG, &flags.quiet, NULL, "warnings and errors only on stderr"},
        {0}};
    const CommandLine line = {
        .usage = "lorac check CONFIG.yaml [KEY=VALUE ...]\n       lorac check --explain",
        .about = "Checks a config, its data and its model files without training: every error, "
                 "and what the data hold.",
        .opts = opts,
        CONFIG_ARGS(args)};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    if (want_explain) return explain();
    if (!config_args_given(&args, argv[0], &code)) return code;

    Log log = command_log(&flags);
    TrainConfig c;
    Problems problems = {0};
    Status status = config_args_load(&c, &args, true, &problems);
    if (status != OK) return command_end_problems(status, &problems, NULL);
    code = check(&c, &log, &problems);
    config_clear(&c);
    return code;
}
