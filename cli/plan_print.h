/* A plan as a person reads it, and as JSON. */
#pragma once

#include "trainer/plan.h"

typedef struct PlanDevice {
    char name[64];
    const GpuSpec *gpu; /* NULL: a CPU, without floors */
    PlanTarget target;
    size_t bytes; /* for tensors */
} PlanDevice;

typedef struct PlanReport {
    const TrainConfig *config;
    const PlanDevice *device;
    const RunPlan *plan;
    const char *missing; /* a data file that is not there, or NULL */
    bool fits;
    const PlanAdvice *advice; /* where it does not fit */
    int n_advice;
} PlanReport;

void plan_print(StrBuf *b, const PlanReport *r);
void plan_print_json(StrBuf *b, const PlanReport *r);
