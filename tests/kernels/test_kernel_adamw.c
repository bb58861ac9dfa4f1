/* The optimizer's step against torch.optim.AdamW's formulas in double, and the scalars that steer it. */
#include "base/str.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 70001 };

typedef struct State {
    double w[N], m[N], v[N];
} State;

Test(kernel_adamw, three_steps_equal_the_formulas)
{
    const AdamwArgs args = {0.9f, 0.95f, 1e-8f, 0.1f, 0.5f};
    Bed b;
    bed_open(&b, 2);
    Tensor *w = bed_fill(&b, bed_vector(&b, N), 1, 1, 0), *working = bed_vector(&b, N);
    Tensor *m = bed_fill(&b, bed_vector(&b, N), 2, 0, 0),
           *v = bed_fill(&b, bed_vector(&b, N), 2, 0, 0);
    State *s = xcalloc(1, sizeof *s);
    float *hw = bed_read(&b, w);
    for (int i = 0; i < N; i++)
        s->w[i] = (double)hw[i];
    free(hw);
    for (int t = 1; t <= 3; t++) {
        double lr = 1e-2 / t, bias1 = 1 - pow(0.9, t), bias2 = 1 - pow(0.95, t);
        float scalars[STEP_N] = {[STEP_LR] = (float)lr,
                                 [STEP_BIAS1] = (float)bias1,
                                 [STEP_BIAS2] = (float)bias2,
                                 [STEP_GRAD_SCALE] = 0.5f};
        Tensor *step = bed_vector(&b, STEP_N);
        tensor_write(&b.dev, step, scalars);
        Tensor *grad = bed_fill(&b, bed_vector(&b, N), (uint64_t)(10 + t), 0.3, 0);
        float *g = bed_read(&b, grad);
        for (int i = 0; i < N; i++) {
            double gi = (double)g[i] * 0.5, rate = lr * 0.5;
            s->w[i] -= rate * (double)args.weight_decay * s->w[i];
            s->m[i] = (double)args.beta1 * s->m[i] + (1 - (double)args.beta1) * gi;
            s->v[i] = (double)args.beta2 * s->v[i] + (1 - (double)args.beta2) * gi * gi;
            s->w[i] -= rate * (s->m[i] / bias1) / (sqrt(s->v[i] / bias2) + (double)args.eps);
        }
        b.dev.k->adamw(&b.dev, w, working, m, v, grad, step, args);
        const struct {
            const char *name;
            Tensor *got;
            double *want;
        } states[] = {{"w", w, s->w}, {"working", working, s->w}, {"m", m, s->m}, {"v", v, s->v}};
        for (int k = 0; k < 4; k++) {
            float *got = bed_read(&b, states[k].got);
            cr_expect(
                close_enough(states[k].name, got, states[k].want, N, close_tolerance(DT_F32, t)),
                "step %d", t);
            free(got);
        }
        free(g);
    }
    free(s);
    bed_close(&b);
}

Test(kernel_adamw, skip_changes_nothing)
{
    Bed b;
    bed_open(&b, 1);
    const float scalars[STEP_N] = {1, 1, 1, 1, 1};
    Tensor *step = bed_vector(&b, STEP_N), *t[4];
    tensor_write(&b.dev, step, scalars);
    float *before[4];
    for (int i = 0; i < 4; i++) {
        t[i] = bed_fill(&b, bed_vector(&b, 10), (uint64_t)i, 1, 0);
        before[i] = bed_read(&b, t[i]);
    }
    b.dev.k->adamw(&b.dev, t[0], NULL, t[1], t[2], t[3], step,
                   (AdamwArgs){0.9f, 0.9f, 1e-8f, 0, 1});
    for (int i = 0; i < 4; i++) {
        float *after = bed_read(&b, t[i]);
        cr_expect_arr_eq(after, before[i], 10 * sizeof(float));
        free(after), free(before[i]);
    }
    bed_close(&b);
}

Test(kernel_adamw, step_scalars)
{
    static const struct {
        const char *name;
        float squares, loss, clip, scale, skip;
    } cases[] = {
        {"below the limit", 0.25f, 1, 1, 1, 0},
        {"above the limit", 16, 1, 1, 0.25f, 0},
        {"no limit", 1e6f, 1, 0, 1, 0},
        {"NaN gradient", NAN, 1, 1, -1, 1},
        {"infinite gradient", INFINITY, 1, 1, -1, 1},
        {"NaN loss", 1, NAN, 1, -1, 1},
        {"infinite loss, no limit", 1, INFINITY, 0, -1, 1},
    };
    Bed b;
    bed_open(&b, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Tensor *step = bed_fill(&b, bed_vector(&b, STEP_N), 1, 0, 7);
        Tensor *squares = bed_vector(&b, 1), *loss = bed_vector(&b, 1);
        tensor_write(&b.dev, squares, &cases[i].squares);
        tensor_write(&b.dev, loss, &cases[i].loss);
        b.dev.k->step_scalars(&b.dev, step, squares, loss, cases[i].clip);
        float *got = bed_read(&b, step);
        cr_expect_eq(got[STEP_SKIP], cases[i].skip, "%s", cases[i].name);
        if (cases[i].scale >= 0)
            cr_expect_float_eq((double)got[STEP_GRAD_SCALE], (double)cases[i].scale, 1e-6, "%s",
                               cases[i].name);
        cr_expect_eq(got[STEP_LR], 7.0f, "%s: touched the rate", cases[i].name);
        free(got);
    }
    bed_close(&b);
}
