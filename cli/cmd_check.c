/* lorac check: everything that can be wrong before the first step, without training: config, data, model
 * files, adapter; and the counts that train prints. */
#include "base/fs.h"
#include "base/opts.h"
#include "cli/commands.h"
#include "cli/train_data.h"
#include "trainer/checkpoint.h"

#include <stdlib.h>

enum { MAX_ARGS = 256 };

static int explain(void)
{
    StrBuf b = {0};
    config_explain(&b);
    fputs(b.data, stdout);
    strbuf_clear(&b);
    return EXIT_DONE;
}

static void print_resume(const TrainConfig *c, Log *log)
{
    char *path = NULL;
    Err err = {0};
    if (checkpoint_find(&path, c, log, &err) == OK && path)
        printf("a run would find %s (resume: %s)\n", path, c->resume);
    free(path);
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
    if (worst == OK) {
        print_resume(c, log);
        printf("%s: ready to train\n", c->file);
    }
    return command_end_problems(worst, problems, NULL);
}

int cmd_check(int argc, char **argv)
{
    bool verbose = false, quiet = false, want_explain = false, help = false;
    const Opt opts[] = {
        {"explain", OPT_FLAG, &want_explain, NULL, "print every key with default and meaning"},
        {"verbose", OPT_FLAG, &verbose, NULL, "more notes, and the first row as a table of tokens"},
        {"quiet", OPT_FLAG, &quiet, NULL, "warnings and errors only on stderr"},
        {0}};
    const char *args[MAX_ARGS];
    int n_args = 0;
    Err err = {0};
    Status status = opts_parse(opts, argc, argv, args, &n_args, MAX_ARGS, &help, &err);
    if (help) {
        opts_help(stdout, "lorac check CONFIG.yaml [KEY=VALUE ...]\n       lorac check --explain",
                  "Checks a config, its data and its model files without training: every error, "
                  "and what the data hold.",
                  opts);
        return EXIT_DONE;
    }
    if (status == OK && want_explain) return explain();
    if (status == OK && n_args == 0)
        status = err_set(&err, E_INPUT, "lorac check: name a config file; see lorac check --help");
    if (status != OK) return command_end(status, &err);

    Log log = {.to = stderr, .level = quiet ? LOG_WARN : verbose ? LOG_VERBOSE : LOG_INFO};
    TrainConfig c;
    Problems problems = {0};
    status = config_load(&c, args[0], args + 1, n_args - 1, true, &problems);
    if (status != OK) return command_end_problems(status, &problems, NULL);
    int code = check(&c, &log, &problems);
    config_clear(&c);
    return code;
}
