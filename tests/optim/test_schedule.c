/* Schedules against transformers' own functions (tests/fixtures/schedules.tsv) and against the golden
 * runs' formula. */
#include "base/fs.h"
#include "base/str.h"
#include "optim/schedule.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ScheduleKind kind_of(const char *name)
{
    static const char *const names[] = {"constant",     "linear", "cosine",
                                        "inverse_sqrt", "wsd",    "step"};
    for (int i = 0; i < 6; i++)
        if (str_eq(name, names[i])) return (ScheduleKind)i;
    cr_assert_fail("schedule %s", name);
    return SCHEDULE_CONSTANT;
}

static DecayShape shape_of(const char *name)
{
    return str_eq(name, "linear") ? DECAY_LINEAR : str_eq(name, "sqrt") ? DECAY_SQRT : DECAY_COSINE;
}

/* Within warm-up transformers lifts the start of the two schedules with a floor; ours begins at 0 as the
 * golden runs do, so those rows are left out. */
static bool differs_by_design(const Schedule *s, long step)
{
    return s->min_ratio > 0 && step < s->warmup_steps;
}

Test(schedule, equals_transformers)
{
    char *path = source_path("tests/fixtures/schedules.tsv");
    char *text = NULL;
    Err err = {0};
    cr_assert_eq(file_read(&text, NULL, path, &err), OK, "%s", err.line);
    int n = 0, failed = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char kind[32], shape[32];
        long warmup, total, decay, step;
        double ratio, want;
        if (*line == '#') continue;
        cr_assert_eq(sscanf(line, "%31s %ld %ld %lf %ld %31s %ld %lf", kind, &warmup, &total,
                            &ratio, &decay, shape, &step, &want),
                     8, "%s", line);
        Schedule s = {kind_of(kind), 2.0, warmup, ratio, decay, shape_of(shape), total};
        if (differs_by_design(&s, step)) continue;
        double got = schedule_rate(&s, step, 0);
        n++;
        if (fabs(got - 2.0 * want) > 1e-12) {
            fprintf(stderr, "%s: got %.17g\n", line, got / 2.0);
            failed++;
        }
    }
    cr_assert_geq(n, 600);
    cr_assert_eq(failed, 0);
    free(text);
    free(path);
}

Test(schedule, warm_up_begins_at_zero_or_the_floor_and_ends_at_the_peak)
{
    for (int k = SCHEDULE_CONSTANT; k <= SCHEDULE_WSD; k++) {
        Schedule s = {(ScheduleKind)k, 0.002, 3, 0.1, 5, DECAY_COSINE, 20};
        bool ratio = k == SCHEDULE_WSD; /* whose warm-up begins at the floor */
        cr_expect_float_eq(schedule_rate(&s, 0, 0), ratio ? 0.0002 : 0.0, 1e-18);
        cr_expect_float_eq(schedule_rate(&s, 1, 0), ratio ? 0.0002 + 0.0018 / 3 : 0.002 / 3, 1e-18);
        cr_expect_float_eq(schedule_rate(&s, 3, 0), 0.002, 1e-18);
        /* never below the floor, also behind the end */
        for (int step = 3; step < 40; step++)
            cr_expect_geq(schedule_rate(&s, step, 0), 0.0002 - 1e-18, "%d at %d", k, step);
    }
}

Test(schedule, decay_may_be_the_whole_run_or_nothing)
{
    Schedule all = {SCHEDULE_WSD, 1.0, 5, 0.0, 20, DECAY_LINEAR, 20};
    cr_assert_float_eq(schedule_rate(&all, 5, 0), 1.0, 1e-15);
    cr_assert_float_eq(schedule_rate(&all, 20, 0), 0.0, 1e-15);
    Schedule none = {SCHEDULE_WSD, 1.0, 5, 0.0, 0, DECAY_LINEAR, 20};
    cr_assert_float_eq(schedule_rate(&none, 19, 0), 1.0, 1e-15);
}

/* llama-recipes: StepLR(step_size=1, gamma=0.85), stepped at the end of each epoch. */
Test(schedule, step_by_epoch)
{
    Schedule s = {
        .kind = SCHEDULE_STEP, .lr = 1e-4, .warmup_steps = 2, .gamma = 0.85, .total_steps = 30};
    cr_expect_float_eq(schedule_rate(&s, 1, 0), 0.5e-4, 1e-18);
    cr_expect_float_eq(schedule_rate(&s, 9, 0), 1e-4, 1e-18);
    cr_expect_float_eq(schedule_rate(&s, 10, 1), 0.85e-4, 1e-18);
    cr_expect_float_eq(schedule_rate(&s, 20, 2), 0.7225e-4, 1e-18);
    s.min_ratio = 0.8;
    cr_expect_float_eq(schedule_rate(&s, 20, 2), 0.8e-4, 1e-18);
}
