/* A whole run inside a test: config text in, what it wrote out. */
#pragma once

#include "base/json.h"
#include "trainer/run.h"

typedef struct Training {
    Status status;
    Err err;           /* of the run */
    Problems problems; /* of config, data, model */
    RunResult result;
    Json **lines; /* of OUTPUT/metrics.jsonl */
    int n_lines;
} Training;

/* overrides end with NULL.  Nothing is printed. */
Training training_run(const char *config, const char *const *overrides);
/* The same on n ranks, threads of this process that share OUTPUT; what rank 0 says.  each: NULL, or called with every rank's session
 * after the run, from its thread. */
typedef void TrainingLook(const Session *s, void *ud);
Training training_run_ranks(const char *config, const char *const *overrides, int n,
                            TrainingLook *each, void *ud);
void training_clear(Training *t);
/* All lines of problems and err. */
void training_print(const Training *t);

/* A number of the i-th step's line (evaluations are not counted). */
double training_value(const Training *t, int step, const char *key);
int training_steps(const Training *t);

/* Byte for byte. */
bool same_file(const char *dir_a, const char *dir_b, const char *name);
