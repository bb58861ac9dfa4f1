/* Learning-rate schedules: the rate of a step as a pure function of its number, so that a resumed run
 * needs no state.  Formulas as transformers' get_*_schedule (optimization.py). */
#pragma once

#include <stdint.h>

typedef enum ScheduleKind {
    SCHEDULE_CONSTANT,
    SCHEDULE_LINEAR,       /* to min_ratio at the end */
    SCHEDULE_COSINE,       /* half a wave, to min_ratio at the end */
    SCHEDULE_INVERSE_SQRT, /* sqrt(warmup / s), not below min_ratio; warmup 0 counts as 10,000 */
    SCHEDULE_WSD,          /* warm-up, stable, decay over the last decay_steps to min_ratio */
    SCHEDULE_STEP, /* gamma^epoch, not below min_ratio: torch's StepLR stepped once an epoch */
} ScheduleKind;

typedef enum DecayShape { DECAY_COSINE, DECAY_LINEAR, DECAY_SQRT } DecayShape;

typedef struct Schedule {
    ScheduleKind kind;
    double lr;            /* the peak */
    int64_t warmup_steps; /* step s < warmup_steps has lr * s / warmup_steps: step 0 has 0 */
    double min_ratio;     /* of the peak */
    int64_t decay_steps;  /* SCHEDULE_WSD */
    DecayShape decay;     /* SCHEDULE_WSD; DECAY_SQRT: 1 - sqrt(progress) (Haegele et al. 2024) */
    int64_t total_steps;  /* of the whole run */
    double gamma;         /* SCHEDULE_STEP */
} Schedule;

/* The rate of step s of the run, in epoch `epoch`, both counted from 0; s may lie beyond total_steps. */
double schedule_rate(const Schedule *sch, int64_t s, int64_t epoch);
