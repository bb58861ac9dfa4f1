/* The optimizer's step against torch.optim.AdamW's formulas in double, and the scalars that steer it. */
#include "base/str.h"
#include "tensor/convert.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 70001, BOUNDARY = 40 * 1000 };

typedef struct State {
    double w[N], m[N], v[N];
} State;

Test(kernel_adamw, three_steps_equal_the_formulas)
{
    const AdamwArgs args = {0.9, 0.999, 1e-8f, 2, {{BOUNDARY, 0.5f, 0.1f}, {N, 0.25f, 0.0f}}};
    Bed b;
    bed_open(&b, 2);
    Tensor *w = bed_fill(&b, bed_vector(&b, N), 1, 1, 0);
    Tensor *m = bed_fill(&b, bed_vector(&b, N), 2, 0, 0),
           *v = bed_fill(&b, bed_vector(&b, N), 2, 0, 0);
    State *s = xcalloc(1, sizeof *s);
    float *hw = bed_read(&b, w);
    for (int i = 0; i < N; i++)
        s->w[i] = (double)hw[i];
    free(hw);
    for (int t = 1; t <= 3; t++) {
        double lr = 1e-2 / t, bias1 = 1 - pow(0.9, t), bias2 = 1 - pow(0.999, t);
        float scalars[STEP_N] = {[STEP_LR] = (float)lr,
                                 [STEP_BIAS1] = (float)bias1,
                                 [STEP_BIAS2] = (float)bias2,
                                 [STEP_GRAD_SCALE] = 0.5f};
        Tensor *step = bed_vector(&b, STEP_N);
        tensor_write(&b.dev, step, scalars);
        Tensor *grad = bed_fill(&b, bed_vector(&b, N), (uint64_t)(10 + t), 0.3, 0);
        float *g = bed_read(&b, grad);
        for (int i = 0; i < N; i++) {
            const AdamwRange *r = &args.ranges[i >= BOUNDARY];
            double gi = (double)g[i] * 0.5, rate = lr * (double)r->lr_scale;
            s->w[i] -= rate * (double)r->weight_decay * s->w[i];
            s->m[i] = args.beta1 * s->m[i] + (1 - args.beta1) * gi;
            s->v[i] = args.beta2 * s->v[i] + (1 - args.beta2) * gi * gi;
            s->w[i] -= rate * (s->m[i] / bias1) / (sqrt(s->v[i] / bias2) + (double)args.eps);
        }
        b.dev.k->adamw(&b.dev, w, NULL, &(AdamwStates){*m, *v}, grad, step, &args);
        const struct {
            const char *name;
            Tensor *got;
            double *want;
        } states[] = {{"w", w, s->w}, {"m", m, s->m}, {"v", v, s->v}};
        for (int k = 0; k < 3; k++) {
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

static Tensor *vector_of(Bed *b, DType dtype, int64_t n)
{
    return scope_tensor(b->inputs, dtype, 1, &n, 0, MEM_OPTIMIZER);
}

/* A bf16 working copy and 16 bits beside it are an f32 master: over fifty steps weights and states have the bits of a run
 * with an f32 array, and the working copy is always the nearest bf16. */
static void split_against_whole(DType grad_dtype)
{
    enum { M = 10007, STEPS = 50 };
    Bed b;
    bed_open(&b, 2);
    Tensor *w = bed_fill(&b, bed_vector(&b, M), 1, 1, 0);
    Tensor *hi = vector_of(&b, DT_BF16, M), *low = vector_of(&b, DT_I16, M);
    Tensor *m[2], *v[2], *grad = vector_of(&b, grad_dtype, M), *step = bed_vector(&b, STEP_N);
    float *start = bed_read(&b, w);
    uint16_t *hi_host = xmalloc(M * sizeof *hi_host);
    int16_t *low_host = xmalloc(M * sizeof *low_host);
    convert_split(hi_host, low_host, start, M);
    tensor_write(&b.dev, hi, hi_host);
    tensor_write(&b.dev, low, low_host);
    for (int k = 0; k < 2; k++) {
        m[k] = bed_fill(&b, bed_vector(&b, M), 1, 0, 0);
        v[k] = bed_fill(&b, bed_vector(&b, M), 1, 0, 0);
    }
    const AdamwArgs args = {0.9f, 0.95f, 1e-8f, 2, {{4096, 1, 0.1f}, {M, 0.5f, 0.0f}}};
    float *joined = xmalloc(M * sizeof *joined);
    for (int t = 1; t <= STEPS; t++) {
        float scalars[STEP_N] = {[STEP_LR] = 1e-2f,
                                 [STEP_BIAS1] = (float)(1 - pow(0.9, t)),
                                 [STEP_BIAS2] = (float)(1 - pow(0.95, t)),
                                 [STEP_GRAD_SCALE] = 0.75f};
        tensor_write(&b.dev, step, scalars);
        bed_fill(&b, grad, (uint64_t)(100 + t), 0.3, 0);
        b.dev.k->adamw(&b.dev, w, NULL, &(AdamwStates){*m[0], *v[0]}, grad, step, &args);
        b.dev.k->adamw(&b.dev, hi, low, &(AdamwStates){*m[1], *v[1]}, grad, step, &args);
        tensor_read(&b.dev, hi, hi_host);
        tensor_read(&b.dev, low, low_host);
        convert_join(joined, hi_host, low_host, M);
        const Tensor *pair[3][2] = {{w, NULL}, {m[0], m[1]}, {v[0], v[1]}};
        for (int k = 0; k < 3; k++) {
            float *whole = bed_read(&b, pair[k][0]);
            float *other = pair[k][1] ? bed_read(&b, pair[k][1]) : joined;
            cr_assert_arr_eq(other, whole, M * sizeof *whole, "step %d, array %d", t, k);
            free(whole);
            if (other != joined) free(other);
        }
        for (int i = 0; i < M; i++)
            cr_assert_leq(fabsf(bf16_to_f32(hi_host[i]) - joined[i]), fabsf(joined[i]) * 0x1p-8f,
                          "step %d, element %d", t, i);
    }
    int moved = 0;
    for (int i = 0; i < M; i++)
        moved += joined[i] != start[i];
    cr_assert_gt(moved, M - 10);
    free(joined), free(start), free(hi_host), free(low_host);
    bed_close(&b);
}

Test(kernel_adamw, a_split_master_has_the_bits_of_a_whole_one)
{
    split_against_whole(DT_F32);
    split_against_whole(DT_BF16);
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
    const AdamwArgs args = {0.9f, 0.9f, 1e-8f, 1, {{10, 1, 0}}};
    b.dev.k->adamw(&b.dev, t[0], NULL, &(AdamwStates){*t[1], *t[2]}, t[3], step, &args);
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
        float squares, loss, clip, before, scale, skip;
    } cases[] = {
        {"below the limit", 0.25f, 1, 1, 0, 1, 0},
        {"above the limit", 16, 1, 1, 0, 0.25f, 0},
        {"no limit", 1e6f, 1, 0, 0, 1, 0},
        {"NaN gradient", NAN, 1, 1, 0, -1, 1},
        {"infinite gradient", INFINITY, 1, 1, 0, -1, 1},
        {"NaN loss", 1, NAN, 1, 0, -1, 1},
        {"infinite loss, no limit", 1, INFINITY, 0, 0, -1, 1},
        {"what was skipped before stays so", 1, 1, 0, 1, 1, 1},
    };
    Bed b;
    bed_open(&b, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Tensor *step = bed_vector(&b, STEP_N);
        tensor_write(&b.dev, step, (float[STEP_N]){[STEP_LR] = 7, [STEP_SKIP] = cases[i].before});
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
