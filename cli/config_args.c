/* A config named on the command line, with overrides behind it. */
#include "cli/config_args.h"

bool config_args_given(const ConfigArgs *a, const char *command, int *code)
{
    if (a->n > 0) return true;
    Err err = {0};
    *code = command_end(err_set(&err, E_INPUT, "lorac %s: name a config file; see lorac %s --help",
                                command, command),
                        &err);
    return false;
}

Status config_args_load(TrainConfig *out, const ConfigArgs *a, bool need_files, Problems *problems)
{
    return config_load(out, a->items[0], a->items + 1, a->n - 1, need_files, problems);
}
