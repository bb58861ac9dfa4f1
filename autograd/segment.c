/* Running a block as a unit: hooks around it, and how much of it is kept for backward. */
#include "autograd/segment.h"

#include "autograd/operand.h"

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

static const Segment *segment_of(const Node *n)
{
    return n->args;
}

/* Backward runs in reverse: the marker at a segment's end comes first. */
static void end_backward(Ctx *c, Node *n)
{
    (void)c;
    call(segment_of(n), hooks_of(segment_of(n))->enter_backward);
}

static void begin_backward(Ctx *c, Node *n)
{
    operands_settle(c->operands); /* the hook may release what is decoded from */
    call(segment_of(n), hooks_of(segment_of(n))->leave_backward);
}

static const Op begin_op = {.name = "segment_begin", .backward = begin_backward, .always = true};
static const Op end_op = {.name = "segment_end", .backward = end_backward, .always = true};

static void mark(Ctx *c, const Op *op, const Segment *s)
{
    tape_add(c, op)->args = (void *)(uintptr_t)s;
}

void segment_last(Ctx *c)
{
    c->last = true;
}

Tensor *segment_run(Ctx *c, const Segment *s, Tensor *x, const void *batch)
{
    call(s, hooks_of(s)->enter_forward);
    int before = c->tape ? tape_length(c->tape) : 0;
    if (c->tape && s->hooks) mark(c, &begin_op, s);
    Ctx inner = *c;
    inner.recompute = s->recompute;
    scope_push(c->scope);
    Tensor *y = s->fn(&inner, s->self, x, batch);
    y->maker = NULL; /* kept: the next segment begins with it */
    scope_pop(c->scope, y);
    if (c->tape && !y->needs_grad)
        tape_truncate(c->tape, before);
    else if (c->tape && s->hooks)
        mark(c, &end_op, s);
    if (s->hooks) operands_settle(c->operands);
    call(s, hooks_of(s)->leave_forward);
    return y;
}
