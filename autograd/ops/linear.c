/* y = residual + x w^T + bias, by y = dy w,  dw = dy^T x. */
#include "autograd/ops.h"

enum { X, W, BIAS, RESIDUAL };

static void linear_backward(Ctx *c, Node *n)
{
    float beta;
    Tensor *dx = grad_into(c, n->in[X], &beta);
    if (dx)
        c->dev->k->matmul(c->dev, dx, grad_of(n, 0), n->saved[W],
                          (MatmulArgs){.alpha = 1, .beta = beta});
}

static void linear_finish(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    const Tensor *dy = grad_of(n, 0);
    float beta;
    Tensor *dw = grad_into(c, n->in[W], &beta);
    if (dw)
        k->matmul(c->dev, dw, dy, tape_saved(c, n, X),
                  (MatmulArgs){.trans_a = true, .alpha = 1, .beta = beta});
    Tensor *db = grad_into(c, n->in[BIAS], &beta);
    if (db) k->bias_bwd(c->dev, db, beta, dy);
    grad_pass(c, n, 0, n->in[RESIDUAL]);
}

void linear_forward(Ctx *c, Tensor *y, const Tensor *x, const Tensor *w, const Tensor *bias,
                    const Tensor *residual)
{
    const Kernels *k = c->dev->k;
    k->matmul(
        c->dev, y, x, w,
        (MatmulArgs){.trans_b = true, .alpha = 1, .beta = residual ? 1.0f : 0.0f, .add = residual});
    if (bias) k->bias_fwd(c->dev, y, bias);
}

static void linear_remake(Ctx *c, Node *n)
{
    const Tensor *x = tape_saved(c, n, X), *residual = tape_saved(c, n, RESIDUAL);
    linear_forward(c, tape_output(c, n, 0), x, n->saved[W], n->saved[BIAS], residual);
}

static const Op linear_op = {.name = "linear",
                             .backward = linear_backward,
                             .finish = linear_finish,
                             .remake = linear_remake,
                             .remade_from = RECOMPUTE_ATTENTION};

Tensor *op_linear(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual)
{
    op_begin(c, &linear_op);
    Tensor *y = tensor_new_matrix(c, tensor_rows(x), tensor_rows(w));
    linear_forward(c, y, x, w, bias, residual);

    Node *n = tape_record(c, &linear_op, 1, (Tensor *[]){y}, 4, (Tensor *[]){x, w, bias, residual});
    if (n) {
        /* Each side is read only for the other's gradient: under LoRA a frozen w keeps no x. */
        (w->needs_grad ? tape_save : tape_save_source)(n, X, x);
        (x->needs_grad ? tape_save : tape_save_source)(n, W, w);
        tape_save_source(n, BIAS, bias);
        tape_save_source(n, RESIDUAL, residual);
    }
    return y;
}
