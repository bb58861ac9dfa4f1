/* A batch script for Slurm that starts `lorac train`, goes on after a stop and says what each line does. */
#pragma once

#include "base/opts.h"
#include "base/str.h"

typedef struct SlurmJob {
    int argc; /* the command's own line, told in the script */
    char **argv;
    const char *name;   /* of the job */
    const char *config; /* path, as the script is to pass it */
    const char *output; /* the config's */
    const char *const *overrides;
    int n_overrides;
    const char *lorac;                         /* the program's path or name on the nodes */
    int64_t gpus, gpus_per_node, cpus_per_gpu; /* gpus 0: CPU ranks, `tasks` of them */
    int64_t tasks;                             /* ranks in all */
    int64_t before_end;                        /* seconds: save.before_end */
    const char *time;                          /* limit, as sbatch reads it */
    const char *partition, *account;           /* or NULL */
    const OptStrings *sweep; /* "KEY=V1,V2,...": one task of an array each combination */
} SlurmJob;

/* E_INPUT for a sweep that is none, or GPUs that do not fill their nodes. */
Status slurm_script(StrBuf *out, const SlurmJob *job, Err *err) MUST_CHECK;
