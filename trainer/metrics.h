/* What a run tells while it goes: OUTPUT/metrics.jsonl (one object a step, one an evaluation, one a checkpoint), an event
 * file for TensorBoard, and the user: a bar on a terminal, plain lines elsewhere. */
#pragma once

#include "trainer/config.h"

/* One step, after it. */
typedef struct StepRecord {
    int64_t step; /* from 1 */
    double epoch; /* passes over the data so far, with fraction */
    double loss, grad_norm, lr;
    int64_t tokens;                     /* of this step, padding not counted */
    double step_time;                   /* seconds */
    int64_t consumed_samples;           /* documents since the run began */
    size_t peak_bytes, allocated_bytes; /* of the device */
} StepRecord;

typedef struct EvalRecord {
    int64_t step;
    double epoch, loss, time;
    int64_t tokens; /* trained ones: what the loss is a mean over */
} EvalRecord;

/* A checkpoint, when it is there. */
typedef struct SaveRecord {
    int64_t step;  /* after which it was begun */
    double stall;  /* seconds that training stood still */
    double time;   /* seconds from its beginning to its end */
    bool streamed; /* staging memory had not room for all of it */
} SaveRecord;

typedef struct Metrics Metrics;

/* Lines of OUTPUT/metrics.jsonl about steps beyond from_step are cut off: a resumed run writes them anew. */
Status metrics_open(Metrics **out, const TrainConfig *c, int64_t from_step, int64_t total_steps,
                    Log *log, bool terminal, Err *err) MUST_CHECK;
void metrics_step(Metrics *m, const StepRecord *r);
void metrics_eval(Metrics *m, const EvalRecord *r);
void metrics_save(Metrics *m, const SaveRecord *r);
/* Tells the first write error.  NULL is fine. */
Status metrics_close(Metrics *m, Err *err) MUST_CHECK;

/* The lines themselves, with a newline. */
void metrics_step_line(StrBuf *out, const StepRecord *r);
void metrics_eval_line(StrBuf *out, const EvalRecord *r);
void metrics_save_line(StrBuf *out, const SaveRecord *r);
