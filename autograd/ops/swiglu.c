/* silu(gate) * up of the fused product [gate, up]. */
#include "autograd/ops.h"

enum { GATE_UP };

static void swiglu_backward(Ctx *c, Node *n)
{
    float beta;
    Tensor *dgu = grad_over(c, n, GATE_UP, n->in[0], &beta); /* element by element: in place */
    if (dgu) c->dev->k->swiglu_bwd(c->dev, dgu, beta, grad_of(n, 0), n->saved[GATE_UP]);
}

static const Op swiglu_op = {"swiglu", swiglu_backward, false};

Tensor *op_swiglu(Ctx *c, Tensor *gate_up, int64_t pad)
{
    Tensor *h = tensor_new_padded(c, tensor_rows(gate_up), tensor_cols(gate_up) / 2, pad);
    c->dev->k->swiglu_fwd(c->dev, h, gate_up);

    Node *n = tape_record(c, &swiglu_op, 1, (Tensor *[]){h}, 1, (Tensor *[]){gate_up});
    if (n) tape_save(n, GATE_UP, gate_up);
    return h;
}
