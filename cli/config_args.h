/* CONFIG.yaml [KEY=VALUE ...]: the arguments of every command that reads a config. */
#pragma once

#include "cli/command.h"
#include "trainer/config.h"

enum { CONFIG_MAX_ARGS = 256 };

typedef struct ConfigArgs {
    const char *items[CONFIG_MAX_ARGS +
                      1]; /* the file, then overrides; one more is for the command's own */
    int n;
} ConfigArgs;

/* What a CommandLine has for them. */
#define CONFIG_ARGS(a) .args = (a).items, .max_args = CONFIG_MAX_ARGS, .n_args = &(a).n

/* Whether a file is named at all; `command` is who asks.  False: the command is over, with *code, as with command_read. */
bool config_args_given(const ConfigArgs *a, const char *command, int *code) MUST_CHECK;
/* As config_load. */
Status config_args_load(TrainConfig *out, const ConfigArgs *a, bool need_files,
                        Problems *problems) MUST_CHECK;
