#include "autograd/ops.h"
#include "kernels/meter.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>
#include <stdlib.h>

enum { BIAS = 1, RESIDUAL = 2, RESIDUAL_IS_X = 4 };

/* in: x, w, then the bias and the residual where there are such. */
static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    int with = *(const int *)ud;
    Tensor *bias = with & BIAS ? in[2] : NULL;
    Tensor *residual = with & RESIDUAL        ? in[with & BIAS ? 3 : 2]
                       : with & RESIDUAL_IS_X ? in[0]
                                              : NULL;
    out[0] = op_linear(&b->ctx, in[0], in[1], bias, residual);
}

static const int plain = 0, bias = BIAS, residual = RESIDUAL, both = BIAS | RESIDUAL,
                 residual_is_x = RESIDUAL_IS_X;

static const GradCase cases[] = {
    {"plain", &plain, .in = {{"x", 5, 6}, {"w", 7, 6}}},
    {"bias", &bias, .in = {{"x", 5, 6}, {"w", 7, 6}, {"bias", 7}}},
    {"residual", &residual, .in = {{"x", 5, 6}, {"w", 7, 6}, {"residual", 5, 7}}},
    {"all", &both, .in = {{"x", 5, 6}, {"w", 7, 6}, {"bias", 7}, {"residual", 5, 7}}},
    {"residual is x", &residual_is_x, .in = {{"x", 5, 6}, {"w", 6, 6}}},
    {"one row", &both, .in = {{"x", 1, 9}, {"w", 4, 9}, {"bias", 4}, {"residual", 1, 4}}},
    {"pitch", &both,
     .in = {{"x", 5, 6, .pad = 24},
            {"w", 7, 6, .pad = 24, .param = true},
            {"bias", 7, .param = true},
            {"residual", 5, 7, .pad = 24}}},
    {"two consumers", &both,
     .in =
         {{"x", 5, 6}, {"w", 7, 6, .param = true}, {"bias", 7, .param = true}, {"residual", 5, 7}},
     .twice = true},
    {"two consumers, residual is x", &residual_is_x, .in = {{"x", 5, 6}, {"w", 6, 6}},
     .twice = true},
    {"frozen w", &both,
     .in = {{"x", 5, 6},
            {"w", 7, 6, .frozen = true, .param = true},
            {"bias", 7, .frozen = true},
            {"residual", 5, 7}}},
    {"frozen x", &both,
     .in = {{"x", 5, 6, .frozen = true},
            {"w", 7, 6},
            {"bias", 7},
            {"residual", 5, 7, .frozen = true}}},
    {"bias alone", &bias,
     .in = {{"x", 5, 6, .frozen = true}, {"w", 7, 6, .frozen = true}, {"bias", 7, .param = true}}},
};

Test(linear, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}

/* Backward of the residual hands dy's buffer on; the first consumer's rule, which runs last, must add to it. */
static void chain(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    Tensor *y = op_linear(&b->ctx, in[0], in[1], NULL, NULL);
    y = op_linear(&b->ctx, y, in[1], NULL, y);
    out[0] = op_linear(&b->ctx, in[0], in[1], NULL, y);
}

Test(linear, residual_chain)
{
    const GradCase g = {"chain", .in = {{"x", 4, 5, .sigma = 0.5}, {"w", 5, 5, .sigma = 0.5}}};
    cr_expect(gradcheck(&g, chain));
}

/* The residual is an operand of the product and its gradient the output's: nobody copies it. */
Test(linear, residual_costs_no_copy)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *x = bed_fill(&b, bed_matrix(&b, 9, 16, 0), 1, 1, 0);
    Tensor *w = bed_fill(&b, bed_matrix(&b, 8, 16, 0), 2, 1, 0);
    Tensor *skip = bed_fill(&b, bed_matrix(&b, 9, 8, 0), 3, 1, 0);
    x->needs_grad = skip->needs_grad = true;
    w->is_param = true;
    b.ctx.tape = tape_new(b.arena);
    Meter meter;
    meter_attach(&meter, &b.dev, NULL, false);
    scope_push(b.scope);
    Tensor *y = op_linear(&b.ctx, x, w, NULL, skip);
    tensor_seed_grad(&b.ctx, y, 1);
    scope_pop(b.scope, NULL);
    tape_backward(&b.ctx);
    cr_expect_eq(meter_sum(&meter, METER_PRODUCTS).calls, 2);
    cr_expect_eq(meter_sum(&meter, METER_OTHER).calls, 0);
    cr_expect(skip->grad && x->grad);
    meter_detach(&meter, &b.dev);
    tensor_drop_grad(x);
    tensor_drop_grad(skip);
    tape_free(b.ctx.tape);
    bed_close(&b);
}

/* What a frozen side saves for the other is not kept: LoRA's memory depends on it. */
Test(linear, keeps_no_input_of_a_frozen_weight)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *x = bed_fill(&b, bed_matrix(&b, 64, 64, 0), 1, 1, 0);
    Tensor *w = bed_fill(&b, bed_matrix(&b, 8, 64, 0), 2, 1, 0);
    x->needs_grad = true;
    w->is_param = true;
    Tape *tape = tape_new(b.arena);
    b.ctx.tape = tape;
    size_t before = b.dev.mem.live_total;
    scope_push(b.scope);
    Tensor *copy = op_linear(&b.ctx, x, w, NULL, NULL);
    scope_pop(b.scope, NULL);
    cr_expect_eq(b.dev.mem.live_total, before, "%zu bytes kept", b.dev.mem.live_total - before);
    cr_expect_eq(tape_length(tape), 1);
    cr_expect(copy->needs_grad);
    tape_free(tape);
    bed_close(&b);
}
