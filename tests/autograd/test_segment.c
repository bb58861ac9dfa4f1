/* Segments: the same bits with and without recompute, hooks around each use in both directions, nothing recorded
 * for what nobody trains, and no device memory left. */
#include "autograd/ops.h"
#include "autograd/segment.h"
#include "tests/support/bed.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { N = 9, C = 12, BLOCKS = 3 };

typedef struct Block {
    Tensor norm, w; /* parameters: is_param, buffers for gradients of their own */
} Block;

typedef struct Events {
    char log[256];
} Events;

typedef struct Hooked {
    Events *events;
    int block;
} Hooked;

/* x has two consumers: the norm and the residual. */
static Tensor *block_forward(Ctx *c, void *self, Tensor *x, const void *batch)
{
    Block *b = self;
    (void)batch;
    Tensor *h = op_rmsnorm(c, x, &b->norm, 1e-5f, 0);
    return op_linear(c, h, &b->w, NULL, x);
}

static void note(Hooked *h, char what)
{
    size_t n = strlen(h->events->log);
    h->events->log[n] = what;
    h->events->log[n + 1] = (char)('0' + h->block);
}

static void enter_forward(void *ud)
{
    note(ud, 'f');
}
static void leave_forward(void *ud)
{
    note(ud, 'g');
}
static void enter_backward(void *ud)
{
    note(ud, 'b');
}
static void leave_backward(void *ud)
{
    note(ud, 'c');
}

static const SegmentHooks hooks = {enter_forward, leave_forward, enter_backward, leave_backward};

static void make_param(Bed *b, Tensor *p, int64_t rows, uint64_t key, bool trained)
{
    Tensor *t = rows ? bed_matrix(b, rows, C, 0) : bed_vector(b, C);
    *p = *bed_fill(b, t, key, 0.3, rows ? 0 : 1);
    p->is_param = true;
    p->needs_grad = trained;
    p->grad = rows ? bed_matrix(b, rows, C, 0) : bed_vector(b, C);
}

typedef struct Outcome {
    float *grads[BLOCKS][2], *dx;
    int n_nodes;
    size_t kept_bytes; /* between forward and backward */
    Events events;
} Outcome;

/* One forward and backward pass; the caller frees the outcome's arrays. */
static Outcome pass(Recompute recompute, bool with_hooks, bool x_needs_grad, const bool *trained)
{
    Bed b;
    bed_open(&b, 1);
    Outcome o = {0};
    Block blocks[BLOCKS];
    Segment segments[BLOCKS];
    Hooked hooked[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        make_param(&b, &blocks[i].norm, 0, (uint64_t)(10 + i), trained[i]);
        make_param(&b, &blocks[i].w, C, (uint64_t)(20 + i), trained[i]);
        hooked[i] = (Hooked){&o.events, i};
        segments[i] = (Segment){.fn = block_forward,
                                .self = &blocks[i],
                                .name = "block",
                                .recompute = recompute,
                                .trained = trained[i],
                                .hooks = with_hooks ? &hooks : NULL,
                                .hooks_ud = &hooked[i]};
    }
    Tensor *x0 = bed_fill(&b, bed_matrix(&b, N, C, 0), 1, 1, 0);
    x0->needs_grad = x_needs_grad;
    b.ctx.tape = tape_new(b.arena);
    scope_push(b.scope);
    Tensor *x = x0;
    for (int i = 0; i < BLOCKS; i++)
        x = segment_run(&b.ctx, &segments[i], x, NULL);
    bool any = x->needs_grad;
    scope_pop(b.scope, NULL);
    o.n_nodes = tape_length(b.ctx.tape);
    o.kept_bytes = b.dev.mem.live_total;
    if (any) {
        tensor_seed_grad(&b.ctx, x, 0.5f);
        tape_backward(&b.ctx);
    }
    for (int i = 0; i < BLOCKS; i++)
        for (int j = 0; j < 2; j++) {
            Tensor *p = j ? &blocks[i].w : &blocks[i].norm;
            o.grads[i][j] = p->grad_written ? bed_read(&b, p->grad) : NULL;
        }
    o.dx = x0->grad ? bed_read(&b, x0->grad) : NULL;
    tensor_drop_grad(x0);
    tape_free(b.ctx.tape);
    b.ctx.tape = NULL;
    bed_close(&b); /* dies when memory is left */
    return o;
}

static void outcome_clear(Outcome *o)
{
    for (int i = 0; i < BLOCKS; i++)
        free(o->grads[i][0]), free(o->grads[i][1]);
    free(o->dx);
}

static void expect_same(const float *a, const float *b, size_t n, const char *what)
{
    cr_assert_eq(!a, !b, "%s: one is missing", what);
    if (a) cr_expect_eq(memcmp(a, b, n * sizeof *a), 0, "%s differs in its bits", what);
}

static const bool all[BLOCKS] = {true, true, true}, last[BLOCKS] = {false, false, true},
                  none[BLOCKS] = {false, false, false};

static void expect_same_pass(Recompute level, bool x_needs_grad)
{
    Outcome kept = pass(RECOMPUTE_NONE, false, x_needs_grad, all);
    Outcome again = pass(level, false, x_needs_grad, all);
    for (int i = 0; i < BLOCKS; i++) {
        cr_assert_not_null(kept.grads[i][0]);
        expect_same(kept.grads[i][0], again.grads[i][0], C, "norm's gradient");
        expect_same(kept.grads[i][1], again.grads[i][1], C * C, "w's gradient");
    }
    cr_expect_eq(kept.dx != NULL, x_needs_grad);
    expect_same(kept.dx, again.dx, N * C, "x's gradient");
    cr_expect_lt(again.kept_bytes, kept.kept_bytes, "level %d", level);
    outcome_clear(&kept);
    outcome_clear(&again);
}

Test(segment, recompute_gives_the_same_bits)
{
    for (int level = RECOMPUTE_NONE + 1; level < RECOMPUTE_LEVELS; level++) {
        expect_same_pass((Recompute)level, false);
        expect_same_pass((Recompute)level, true);
    }
}

Test(segment, hooks_stand_around_each_use)
{
    for (int level = 0; level < RECOMPUTE_LEVELS; level++) {
        Outcome o = pass((Recompute)level, true, false, all);
        cr_expect_str_eq(o.events.log, "f0g0f1g1f2g2b2c2b1c1b0c0");
        outcome_clear(&o);
    }
}

Test(segment, nothing_is_recorded_below_the_lowest_trained_one)
{
    for (int level = 0; level < RECOMPUTE_LEVELS; level++) {
        Outcome o = pass((Recompute)level, true, false, last);
        cr_expect_str_eq(o.events.log, "f0g0f1g1f2g2b2c2");
        cr_expect_null(o.grads[0][0]);
        cr_expect_not_null(o.grads[2][1]);
        outcome_clear(&o);
        o = pass((Recompute)level, true, false, none);
        cr_expect_eq(o.n_nodes, 0);
        outcome_clear(&o);
    }
}
