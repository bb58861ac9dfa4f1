/* `lorac eval`: what its parts share. */
#pragma once

#include "cli/command.h"
#include "cli/data_flags.h"
#include "cli/eval_result.h"
#include "cli/gen_flags.h"
#include "cli/model_open.h"
#include "trainer/config.h"

enum { EVAL_MAX_OVERRIDES = 64 };

typedef struct EvalJob {
    ModelFlags model;
    GenFlags gen;
    DataFlags data;
    const char *config, *train_on, *overlong, *baseline, *out;
    const char *overrides[EVAL_MAX_OVERRIDES];
    int n_overrides;
    int64_t max_length, limit;
    bool rouge, stem, json, allow_untrained;

    Log log;
    Problems problems;
    TrainConfig cfg;
    bool has_cfg;
    QuantOpts base;            /* of a config with method qlora: model.base points here */
    DataSource source;         /* of --data */
    DataOpts opts;             /* borrows its sources from source or cfg */
    const DataSource *sources; /* validation files; NULL: a share of the config's training files */
    int n_sources;
    EvalResult result;
} EvalJob;

/* ROUGE of the dialogues' first turns; needs no model. */
Status eval_baseline(EvalJob *job, Err *err) MUST_CHECK;
/* Loss, and with --rouge generated answers. */
Status eval_model(EvalJob *job, Err *err) MUST_CHECK;
