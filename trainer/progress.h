/* The line that a person watches: step, loss, rate, gradient norm, speed, time to the end. */
#pragma once

#include "trainer/metrics.h"

typedef struct Progress {
    Log *log;
    bool terminal; /* draw over one line; else a line every log_every steps */
    int64_t log_every, total;
    double mean_time;  /* seconds a step, smoothed */
    double last_drawn; /* seconds_monotonic() of the last bar */
} Progress;

void progress_step(Progress *p, const StepRecord *r);
void progress_eval(Progress *p, const EvalRecord *r);
void progress_save(Progress *p, const SaveRecord *r);
void progress_end(Progress *p);

/* The bar of `width` columns, without control characters. */
void progress_bar(StrBuf *out, const StepRecord *r, int64_t total, double eta, int width);
/* "1.2k", "340", "2.5M"; "1h02m", "3m20s", "12s" */
void progress_count(StrBuf *out, double v);
void progress_time(StrBuf *out, double seconds);
