/* Learning-rate schedules.  Each shape returns a factor in [0,1]; the floor min_ratio is laid under it
 * in one place. */
#include "optim/schedule.h"

#include <math.h>

static double half_wave(double progress)
{
    double f = 0.5 * (1.0 + cos(3.14159265358979323846 * progress));
    return f > 0.0 ? f : 0.0;
}

/* How much of the steps from `from` on is over, of `n` in all. */
static double progress_of(int64_t s, int64_t from, int64_t n)
{
    double p = (double)(s - from) / (double)(n > 0 ? n : 1);
    return p < 1.0 ? p : 1.0;
}

static double decay_factor(const Schedule *sch, int64_t s)
{
    int64_t start = sch->total_steps - sch->decay_steps;
    if (start < sch->warmup_steps) start = sch->warmup_steps;
    if (s < start) return 1.0;
    double p = progress_of(s, start, sch->total_steps - start);
    switch (sch->decay) {
    case DECAY_COSINE:
        return half_wave(p);
    case DECAY_LINEAR:
        return 1.0 - p;
    case DECAY_SQRT:
        return 1.0 - sqrt(p);
    }
    return 1.0;
}

/* After warm-up. */
static double shape_factor(const Schedule *sch, int64_t s, int64_t epoch)
{
    int64_t rest = sch->total_steps - sch->warmup_steps;
    switch (sch->kind) {
    case SCHEDULE_CONSTANT:
        return 1.0;
    case SCHEDULE_LINEAR:
        return 1.0 - progress_of(s, sch->warmup_steps, rest);
    case SCHEDULE_COSINE:
        return half_wave(progress_of(s, sch->warmup_steps, rest));
    case SCHEDULE_INVERSE_SQRT: {
        double scale = sch->warmup_steps > 0 ? (double)sch->warmup_steps : 10000.0;
        return 1.0 / sqrt(((double)(s - sch->warmup_steps) + scale) / scale);
    }
    case SCHEDULE_WSD:
        return decay_factor(sch, s);
    case SCHEDULE_STEP:
        return pow(sch->gamma, (double)epoch);
    }
    return 1.0;
}

double schedule_rate(const Schedule *sch, int64_t s, int64_t epoch)
{
    const int warms_up = s < sch->warmup_steps;
    double f = warms_up ? (double)s / (double)sch->warmup_steps : shape_factor(sch, s, epoch);
    if (warms_up && sch->kind != SCHEDULE_WSD)
        return sch->lr * f; /* whose warm-up has the ratio, too */
    if (sch->kind == SCHEDULE_INVERSE_SQRT || sch->kind == SCHEDULE_STEP)
        f = f > sch->min_ratio ? f : sch->min_ratio;
    else
        f = sch->min_ratio + (1.0 - sch->min_ratio) * f;
    return sch->lr * f;
}
