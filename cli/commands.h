/* Every command's function, for the table in main.c. */
#pragma once

#include "cli/command.h"

CommandFn cmd_eval;
CommandFn cmd_generate;
CommandFn cmd_inspect;
CommandFn cmd_merge;
CommandFn cmd_bench;
CommandFn cmd_plan;
CommandFn cmd_quantize;
CommandFn cmd_slurm;
CommandFn cmd_tokenize;
CommandFn cmd_train;
CommandFn cmd_check;
CommandFn cmd_init;
