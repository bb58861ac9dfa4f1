/* silu(gate) * up of the fused product [gate, up]. */
#include "autograd/ops.h"

enum { GATE_UP };

static void swiglu_backward(Ctx *c, Node *n)
{
    float beta;
    /* element by element: in place */
    Tensor *dgu = grad_over(c, n, GATE_UP, n->in[0], &beta);
    if (dgu)
        c->dev->k->swiglu_bwd(c->dev, dgu, beta, output_left(n), grad_of(n, 0),
                              tape_saved(c, n, GATE_UP));
}

static void swiglu_remake(Ctx *c, Node *n)
{
    const Tensor *gate_up = tape_saved(c, n, GATE_UP);
    c->dev->k->swiglu_fwd(c->dev, tape_output(c, n, 0), gate_up);
}

static const Op swiglu_op = {.name = "swiglu",
                             .backward = swiglu_backward,
                             .remake = swiglu_remake,
                             .remade_from = RECOMPUTE_SELECTIVE,
                             .leaves_output = true};

Tensor *op_swiglu(Ctx *c, Tensor *gate_up, int64_t pad)
{
    op_begin(c, &swiglu_op);
    Tensor *h = tensor_new_padded(c, tensor_rows(gate_up), tensor_cols(gate_up) / 2, pad);
    c->dev->k->swiglu_fwd(c->dev, h, gate_up);

    Node *n = tape_record(c, &swiglu_op, 1, (Tensor *[]){h}, 1, (Tensor *[]){gate_up});
    if (n) tape_save(n, GATE_UP, gate_up);
    return h;
}
