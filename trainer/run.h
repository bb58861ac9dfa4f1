/* A training run from first step to written result; the functions of this room in their order.  What it
 * computes depends on config and data alone: not on the number of threads, the cut into micro-batches or
 * how often it was interrupted. */
#pragma once

#include "trainer/checkpoint.h"

typedef struct RunResult {
    int64_t steps;    /* in all, those before a resume included */
    double mean_loss; /* of the last n_mean steps */
    int n_mean;
    uint64_t hash; /* of the trained parameters as written */
    bool stopped_early;
    int64_t resumed_from; /* step; 0: from the start */
    const char *
        stop_request; /* what asked to stop before the end; NULL: the run is at its end.  Only steps,
                                 resumed_from and best_* are set beside it */
    int64_t best_step; /* 0: no evaluation */
    double best_loss;
} RunResult;

/* Whether the run that the config asks for reaches `step`, where the checkpoint at `path` stands: a run cannot be made shorter
 * than it was.  On a session whose data are open. */
Status trainer_check_length(const Session *s, int64_t step, const char *path,
                            Problems *problems) MUST_CHECK;

/* On an open session.  terminal: draw a bar on s->log.  Errors of the input go to `problems` (E_INPUT), the one of
 * the run to *err (E_FAILED). */
Status trainer_run(Session *s, bool terminal, RunResult *out, Problems *problems,
                   Err *err) MUST_CHECK;
