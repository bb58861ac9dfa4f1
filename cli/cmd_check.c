/* lorac check: everything that can be wrong before the first step, without training: config, data, model
 * files, adapter; and the counts that train prints. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/train_data.h"
#include "trainer/checkpoint.h"

#include <stdlib.h>

static int explain(void)
{
    StrBuf b = {0};
    config_explain(&b);
    fputs(b.data, stdout);
    strbuf_clear(&b);
    return EXIT_DONE;
}

/* What a run would go on from.  Only one that looks for it by itself ends where none is whole. */
static Status print_resume(const TrainConfig *c, Log *log, Problems *problems)
{
    char *path = NULL;
    Err err = {0};
    Status s = checkpoint_find(&path, c, log, &err);
    if (s == OK && path) printf("a run would find %s (resume: %s)\n", path, c->resume);
    if (s == E_INPUT && str_eq(c->resume, "auto"))
        config_problem(c, problems, "resume", "%s", err.line);
    else
        s = OK;
    free(path);
    return s;
}

/* Data and model are opened though the other failed: all errors are told. */
static int check(TrainConfig *c, Log *log, Problems *problems)
{
    Session s = {0};
    Status data = session_open_data(&s, c, log, problems);
    if (data == OK) print_data(&s, c);
    Status model = session_open_model(&s, c, log, problems);
    if (model == OK) print_model(&s);
    session_close(&s);
    Status worst = data != OK ? data : model;
    if (worst == OK) worst = print_resume(c, log, problems);
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
