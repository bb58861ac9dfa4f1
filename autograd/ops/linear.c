/* y = residual + x w^T + bias, by y = dy w,  dw = dy^T x. */
#include "autograd/ops.h"

enum { X, W, BIAS, RESIDUAL };

static void linear_backward(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    Tensor *dy = grad_of(n, 0);
    float beta;
    Tensor *dx = grad_into(c, n->in[X], &beta);
    if (dx) k->matmul(c->dev, dx, dy, n->saved[W], (MatmulArgs){.alpha = 1, .beta = beta});
    Tensor *dw = grad_into(c, n->in[W], &beta);
    if (dw)
        k->matmul(c->dev, dw, dy, n->saved[X],
                  (MatmulArgs){.trans_a = true, .alpha = 1, .beta = beta});
    Tensor *db = grad_into(c, n->in[BIAS], &beta);
    if (db) k->bias_bwd(c->dev, db, beta, dy);
    grad_pass(c, n, 0, n->in[RESIDUAL]);
}

static const Op linear_op = {"linear", linear_backward, false};

Tensor *op_linear(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual)
{
    const Kernels *k = c->dev->k;
    Tensor *y = tensor_new_matrix(c, tensor_rows(x), tensor_rows(w));
    k->matmul(
        c->dev, y, x, w,
        (MatmulArgs){.trans_b = true, .alpha = 1, .beta = residual ? 1.0f : 0.0f, .add = residual});
    if (bias) k->bias_fwd(c->dev, y, bias);

    Node *n = tape_record(c, &linear_op, 1, (Tensor *[]){y}, 4, (Tensor *[]){x, w, bias, residual});
    if (n) {
        /* Each side is read only for the other's gradient: under LoRA a frozen w keeps no x. */
        if (w->needs_grad) tape_save(n, X, x);
        if (x->needs_grad) tape_save(n, W, w);
    }
    return y;
}
