/* Running a block as a unit: hooks around it, and its forward pass again in backward where that is
 * cheaper than keeping what it made. */
#include "autograd/segment.h"

typedef void Hook(void *ud);

static void call(const Segment *s, Hook *hook)
{
    if (hook) hook(s->hooks_ud);
}

static const SegmentHooks no_hooks = {0};

static const SegmentHooks *hooks_of(const Segment *s)
{
    return s->hooks ? s->hooks : &no_hooks;
}

typedef struct SegmentArgs {
    const Segment *segment;
    const void *batch;
} SegmentArgs;

static const Segment *segment_of(const Node *n)
{
    return ((const SegmentArgs *)n->args)->segment;
}

/* Backward runs in reverse: the marker at a segment's end comes first. */
static void end_backward(Ctx *c, Node *n)
{
    (void)c;
    call(segment_of(n), hooks_of(segment_of(n))->enter_backward);
}

static void begin_backward(Ctx *c, Node *n)
{
    (void)c;
    call(segment_of(n), hooks_of(segment_of(n))->leave_backward);
}

static const Op begin_op = {"segment_begin", begin_backward, true};
static const Op end_op = {"segment_end", end_backward, true};

static void mark(Ctx *c, const Op *op, SegmentArgs *args)
{
    tape_add(c, op)->args = args;
}

static Tensor *run(Ctx *c, const Segment *s, Tensor *x, const void *batch)
{
    scope_push(c->scope);
    Tensor *y = s->fn(c, s->self, x, batch);
    scope_pop(c->scope, y);
    return y;
}

/* The inner tape starts from a handle of its own for x.  x's gradient so far moves there and back, which
 * keeps the order of sums of a run without recompute: the results are equal to the bit. */
static void recompute_backward(Ctx *c, Node *n)
{
    const SegmentArgs *args = n->args;
    const Segment *s = args->segment;
    Tensor *x = n->in[0];
    /* what outlives this rule is made before the mark */
    Tensor *x_grad = x && x->needs_grad ? arena_alloc(c->arena, sizeof *x_grad) : NULL;
    ArenaMark mark_here = arena_mark(c->arena);

    call(s, hooks_of(s)->enter_backward);
    Ctx inner = *c;
    inner.tape = tape_new(c->arena);
    Tensor *x2 = NULL;
    if (x) {
        x2 = arena_alloc(c->arena, sizeof *x2);
        *x2 = *n->saved[0];
        x2->needs_grad = x->needs_grad;
        x2->grad = x->grad;
        x->grad = NULL;
    }
    scope_push(c->scope);
    Tensor *y = s->fn(&inner, s->self, x2, args->batch);
    y->grad = n->out[0]->grad;
    n->out[0]->grad = NULL;
    scope_pop(c->scope, NULL);
    tape_backward(&inner);
    tape_free(inner.tape);
    tensor_drop_grad(y); /* when nothing inside wanted it */
    if (x_grad && x2->grad) {
        *x_grad = *x2->grad;
        x->grad = x_grad;
    }
    call(s, hooks_of(s)->leave_backward);
    arena_reset_to(c->arena, mark_here);
}

static const Op recompute_op = {"segment_recompute", recompute_backward, false};

static Tensor *run_recomputed(Ctx *c, const Segment *s, Tensor *x, SegmentArgs *args)
{
    Ctx inner = *c;
    inner.tape = NULL;
    Tensor *y = run(&inner, s, x, args->batch);
    Node *n = tape_add(c, &recompute_op);
    n->args = args;
    n->out[0] = y;
    n->n_out = 1;
    n->in[0] = x;
    n->n_in = 1;
    tape_save(n, 0, x);
    y->needs_grad = true;
    return y;
}

Tensor *segment_run(Ctx *c, const Segment *s, Tensor *x, const void *batch)
{
    call(s, hooks_of(s)->enter_forward);
    Tensor *y;
    if (!c->tape) {
        y = run(c, s, x, batch);
    } else {
        SegmentArgs *args = arena_alloc(c->arena, sizeof *args);
        *args = (SegmentArgs){s, batch};
        if (s->recompute && (s->trained || (x && x->needs_grad))) {
            y = run_recomputed(c, s, x, args);
        } else {
            int before = tape_length(c->tape);
            if (s->hooks) mark(c, &begin_op, args);
            y = run(c, s, x, batch);
            if (s->hooks && y->needs_grad)
                mark(c, &end_op, args);
            else if (!y->needs_grad)
                tape_truncate(c->tape, before);
        }
    }
    call(s, hooks_of(s)->leave_forward);
    return y;
}
