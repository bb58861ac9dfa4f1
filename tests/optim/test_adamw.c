/* AdamW and clipping against torch.optim.AdamW and clip_grad_norm_ (PyTorch 2.15.0, float32). */
#include "optim/adamw.h"
#include "optim/clip.h"

#include <criterion/criterion.h>
#include <math.h>

enum { NW = 5, NB = 2 };

typedef struct Step {
    double lr;
    float gw[NW], gb[NB];
    double norm;
    float w[NW], b[NB];
} Step;

/* betas 0.9, 0.95; eps 1e-8; weight decay 0.1 on w, none on b; clipped at norm 1. */
static const Step steps[] = {
    {0,
     {0.5f, -1.0f, 2.0f, 0.0f, 0.001f},
     {3.0f, -4.0f},
     5.5,
     {1.0f, -2.0f, 0.5f, 0.0f, 3.0f},
     {0.25f, -0.75f}},
    {0.01,
     {0.1f, 0.2f, -0.3f, 0.0f, 10.0f},
     {0.0f, 1.0f},
     10.056838,
     {0.991436243f, -1.99207556f, 0.493353844f, 0.0f, 2.98964906f},
     {0.243213519f, -0.744300306f}},
    {0.02,
     {-0.5f, 0.25f, 0.125f, 1.0f, -2.0f},
     {0.01f, -0.02f},
     2.30838132,
     {0.99661082f, -1.9868089f, 0.480933964f, -0.0124644618f, 2.9833951f},
     {0.232482105f, -0.735220492f}},
};

static Tensor vector(Device *d, int64_t n, const float *values)
{
    Tensor t = tensor_alloc(d, DT_F32, 1, &n, MEM_OPTIMIZER);
    if (values)
        tensor_write(d, &t, values);
    else
        tensor_zero(d, &t);
    return t;
}

static const AdamwOpts options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

static AdamwArray array(Device *d, int64_t n, const float *w, bool decay)
{
    AdamwArray a = {.weights = vector(d, n, w),
                    .grad = vector(d, n, NULL),
                    .states = {.m = vector(d, n, NULL), .v = vector(d, n, NULL)},
                    .args = adamw_args(&options)};
    adamw_add_range(&a.args, &options, n, 1, decay);
    return a;
}

static void array_clear(AdamwArray *a)
{
    tensor_clear(&a->weights);
    tensor_clear(&a->grad);
    tensor_clear(&a->states.m);
    tensor_clear(&a->states.v);
}

static void expect_values(Device *d, const Tensor *t, const float *want, int n, const char *what)
{
    float got[8];
    tensor_read(d, t, got);
    for (int i = 0; i < n; i++)
        cr_expect_float_eq(got[i], want[i], 2e-7f * fmaxf(1.0f, fabsf(want[i])),
                           "%s[%d]: %.9g, torch %.9g", what, i, (double)got[i], (double)want[i]);
}

static void open_device(Device *d)
{
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(d, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s", err.line);
}

Test(adamw, equals_torch_with_clipping)
{
    Device d;
    open_device(&d);
    const float w0[NW] = {1.0f, -2.0f, 0.5f, 0.0f, 3.0f}, b0[NB] = {0.25f, -0.75f};
    AdamwArray r[2] = {array(&d, NW, w0, true), array(&d, NB, b0, false)};
    Tensor scalars = vector(&d, STEP_N, NULL), squares = vector(&d, 1, NULL),
           loss = vector(&d, 1, NULL);
    Tensor *grads[2] = {&r[0].grad, &r[1].grad};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        float sum;
        tensor_write(&d, &r[0].grad, steps[i].gw);
        tensor_write(&d, &r[1].grad, steps[i].gb);
        adamw_begin(&d, &scalars, &options, steps[i].lr, (int64_t)i + 1);
        clip_sum_squares(&d, &squares, grads, 2);
        clip_by_global_norm(&d, &scalars, &squares, &loss, 1.0);
        for (int k = 0; k < 2; k++)
            adamw_update(&d, &r[k], &scalars);
        tensor_read(&d, &squares, &sum);
        cr_expect_float_eq(sqrt((double)sum), steps[i].norm, 1e-6 * steps[i].norm);
        expect_values(&d, &r[0].weights, steps[i].w, NW, "w");
        expect_values(&d, &r[1].weights, steps[i].b, NB, "b");
    }
    array_clear(&r[0]);
    array_clear(&r[1]);
    tensor_clear(&scalars);
    tensor_clear(&squares);
    tensor_clear(&loss);
    device_close(&d);
}

/* One NaN among the gradients, or an infinite loss: weights and states stay to the bit. */
Test(adamw, skips_what_is_not_finite)
{
    Device d;
    open_device(&d);
    const float w0[NW] = {1.0f, -2.0f, 0.5f, 0.0f, 3.0f};
    const float bad[NW] = {1.0f, NAN, 0.5f, 0.0f, 3.0f}, infinite = INFINITY;
    for (int k = 0; k < 2; k++) {
        AdamwArray r = array(&d, NW, w0, true);
        Tensor scalars = vector(&d, STEP_N, NULL), squares = vector(&d, 1, NULL);
        Tensor loss = vector(&d, 1, k ? &infinite : NULL), *grads[1] = {&r.grad};
        float host[STEP_N], zero[NW] = {0};
        tensor_write(&d, &r.grad, k ? w0 : bad);
        adamw_begin(&d, &scalars, &options, 0.1, 1);
        clip_sum_squares(&d, &squares, grads, 1);
        clip_by_global_norm(&d, &scalars, &squares, &loss, 1.0);
        adamw_update(&d, &r, &scalars);
        tensor_read(&d, &scalars, host);
        cr_expect_eq(host[STEP_SKIP], 1.0f);
        expect_values(&d, &r.weights, w0, NW, "w");
        expect_values(&d, &r.states.m, zero, NW, "m");
        expect_values(&d, &r.states.v, zero, NW, "v");
        array_clear(&r);
        tensor_clear(&scalars);
        tensor_clear(&squares);
        tensor_clear(&loss);
    }
    device_close(&d);
}

Test(adamw, neighbours_that_are_updated_alike_are_one_range)
{
    AdamwArgs a = adamw_args(&options);
    cr_assert(adamw_add_range(&a, &options, 64, 1, true));
    cr_assert(adamw_add_range(&a, &options, 128, 1, true));
    cr_assert(adamw_add_range(&a, &options, 64, 1, false));
    cr_assert(adamw_add_range(&a, &options, 64, 0.5f, false));
    cr_assert_eq(a.n_ranges, 3);
    cr_assert_eq(a.ranges[0].end, 192);
    cr_assert_eq(a.ranges[0].weight_decay, 0.1f);
    cr_assert_eq(a.ranges[1].end, 256);
    cr_assert_eq(a.ranges[1].weight_decay, 0.0f);
    cr_assert_eq(a.ranges[2].end, 320);
    cr_assert_eq(a.ranges[2].lr_scale, 0.5f);
    for (int i = 3; i < ADAMW_MAX_RANGES; i++)
        cr_assert(adamw_add_range(&a, &options, 64, (float)i, false));
    cr_assert(!adamw_add_range(&a, &options, 64, 0.25f, false), "the table is full");
    cr_assert(adamw_add_range(&a, &options, 64, (float)(ADAMW_MAX_RANGES - 1), false));
}
