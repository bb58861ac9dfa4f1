/* Memory of gradients: what a rule read for the last time becomes a gradient, and what others still hold does not. */
#include "autograd/ops.h"
#include "kernels/meter.h"
#include "tests/support/bed.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, F = 64 };

static void frozen(Bed *b, Tensor **w, int64_t rows, int64_t cols, uint64_t key)
{
    *w = bed_fill(b, bed_matrix(b, rows, cols, 0), key, 0.3, 0);
    (*w)->is_param = true;
}

typedef struct Chain {
    float *dx;
    size_t peak;
} Chain;

/* x -> gate_up -> h -> y; `held`: somebody else holds gate_up until the end. */
static Chain chain(bool held, bool twice)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *w1, *w2;
    frozen(&b, &w1, 2 * F, 8, 1);
    frozen(&b, &w2, 8, F, 2);
    Tensor *x = bed_fill(&b, bed_matrix(&b, N, 8, 0), 3, 1, 0);
    x->needs_grad = true;
    b.ctx.tape = tape_new(b.arena);
    scope_push(b.scope);
    Tensor *gate_up = op_linear(&b.ctx, x, w1, NULL, NULL);
    if (held) storage_ref(gate_up->storage);
    Storage *hold = held ? gate_up->storage : NULL;
    Tensor *h = op_swiglu(&b.ctx, gate_up, 0);
    Tensor *y = op_linear(&b.ctx, h, w2, NULL, NULL);
    if (twice) y = op_linear(&b.ctx, op_swiglu(&b.ctx, gate_up, 0), w2, NULL, y);
    scope_pop(b.scope, NULL);
    device_reset_peak(&b.dev);
    tensor_seed_grad(&b.ctx, y, 0.5f);
    tape_backward(&b.ctx);
    Chain out = {bed_read(&b, x->grad), b.dev.mem.peak_total};
    tensor_drop_grad(x);
    storage_unref(hold);
    tape_free(b.ctx.tape);
    b.ctx.tape = NULL;
    bed_close(&b);
    return out;
}

Test(tape, a_gradient_takes_over_what_nobody_else_holds)
{
    Chain alone = chain(false, false), held = chain(true, false), twice = chain(false, true);
    cr_expect_eq(memcmp(alone.dx, held.dx, (size_t)(N * 8) * sizeof *alone.dx), 0);
    /* one gate_up less, but alone peaks a rule earlier, where y's gradient still lives */
    cr_expect_eq(held.peak - alone.peak, (size_t)(N * 2 * F - N * 8) * sizeof(float));
    for (int i = 0; i < N * 8; i++)
        cr_expect_float_eq(twice.dx[i], 2 * alone.dx[i], 1e-5f);
    free(alone.dx), free(held.dx), free(twice.dx);
}

typedef struct Counts {
    float *dw;
    int64_t n_fwd; /* runs of swiglu_fwd */
} Counts;

/* x -> gate_up -> h -> y with a trained product behind h; `shared`: y adds what h was made from. */
static Counts trained(Recompute level, bool shared)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *w = bed_fill(&b, bed_matrix(&b, 2 * F, F, 0), 2, 0.3, 0);
    w->is_param = w->needs_grad = true;
    w->grad = bed_matrix(&b, 2 * F, F, 0);
    Tensor *gate_up = bed_fill(&b, bed_matrix(&b, N, 2 * F, 0), 3, 1, 0);
    gate_up->needs_grad = true;
    Meter m;
    meter_attach(&m, &b.dev, NULL, false);
    b.ctx.tape = tape_new(b.arena);
    b.ctx.recompute = level;
    scope_push(b.scope);
    Tensor *h = op_swiglu(&b.ctx, gate_up, 0);
    Tensor *y = op_linear(&b.ctx, h, w, NULL, shared ? gate_up : NULL);
    scope_pop(b.scope, NULL);
    tensor_seed_grad(&b.ctx, y, 0.5f);
    tape_backward(&b.ctx);
    Counts out = {.dw = bed_read(&b, w->grad)};
    for (int i = 0; i < N_KERNELS; i++)
        if (strcmp(kernel_name(i), "swiglu_fwd") == 0) out.n_fwd = m.kernels[i].calls;
    meter_detach(&m, &b.dev);
    tensor_drop_grad(gate_up);
    tape_free(b.ctx.tape);
    b.ctx.tape = NULL;
    bed_close(&b);
    return out;
}

Test(tape, a_rule_leaves_its_output_to_the_one_that_waits)
{
    Counts kept = trained(RECOMPUTE_NONE, false), left = trained(RECOMPUTE_SELECTIVE, false);
    Counts kept_shared = trained(RECOMPUTE_NONE, true), made = trained(RECOMPUTE_SELECTIVE, true);
    size_t bytes = (size_t)(2 * F * F) * sizeof(float);
    cr_expect_eq(memcmp(kept.dw, left.dw, bytes), 0);
    cr_expect_eq(memcmp(kept_shared.dw, made.dw, bytes), 0);
    cr_expect_eq(kept.n_fwd, 1);
    cr_expect_eq(left.n_fwd, 1, "nothing was made again");
    cr_expect_eq(made.n_fwd, 2, "the rule changes what the one behind it still needs");
    free(kept.dw), free(left.dw), free(kept_shared.dw), free(made.dw);
}
