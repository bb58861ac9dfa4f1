/* y = residual + x w^T + bias, by y = dy w,  dw = dy^T x. */
#include "autograd/operand.h"
#include "autograd/ops.h"

enum { X, W, BIAS, RESIDUAL };

void linear_dx(Ctx *c, Tensor *dx, float beta, const Tensor *dy, Tensor *w)
{
    Tensor *values = operand_open(c, w);
    c->dev->k->matmul(c->dev, dx, dy, values, (MatmulArgs){.alpha = 1, .beta = beta});
    operand_close(c, w, values);
}

static void linear_backward(Ctx *c, Node *n)
{
    float beta;
    Tensor *dx = grad_into(c, n->in[X], &beta);
    if (dx) linear_dx(c, dx, beta, grad_of(n, 0), n->saved[W]);
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

Tensor *linear_output(Ctx *c, const Tensor *x, const Tensor *w, const Tensor *residual, int64_t pad)
{
    int64_t out = tensor_rows(w), has = residual ? residual->ld - out : 0;
    return tensor_new_padded(c, tensor_rows(x), out, has > pad ? has : pad);
}

void linear_forward(Ctx *c, Tensor *y, const Tensor *x, Tensor *w, const Tensor *bias,
                    const Tensor *residual)
{
    const Kernels *k = c->dev->k;
    MatmulArgs args = {
        .trans_b = true, .alpha = 1, .beta = residual ? 1.0f : 0.0f, .add = residual};
    if (operand_is_direct(c, w, tensor_rows(x))) {
        operand_matvec(c, y, residual, x, NULL, w);
    } else {
        Tensor *values = operand_open(c, w);
        k->matmul(c->dev, y, x, values, args);
        operand_close(c, w, values);
    }
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

static const Op logits_op = {.name = "logits"};

Tensor *op_logits(Ctx *c, Tensor *x, Tensor *w)
{
    op_begin(c, &logits_op);
    ASSERT(!c->tape, "logits have no backward pass; linear_xent has");
    int64_t shape[2] = {tensor_rows(x), tensor_rows(w)};
    Tensor *y = tensor_new(c, DT_F32, 2, shape);
    c->dev->k->matmul(c->dev, y, x, w, (MatmulArgs){.trans_b = true, .alpha = 1});
    tape_record(c, &logits_op, 1, (Tensor *[]){y}, 0, NULL);
    return y;
}

static const Op linear_normed_op = {.name = "linear_normed"};

Tensor *op_linear_normed(Ctx *c, Tensor *x, Tensor *norm, float eps, Tensor *w, Tensor *bias)
{
    op_begin(c, &linear_normed_op);
    int64_t rows = tensor_rows(x);
    ASSERT(operand_is_direct(c, w, rows), "linear_normed: %lld rows", (long long)rows);
    Tensor *y = linear_output(c, x, w, NULL, 0);
    Tensor *normed = tensor_new_matrix(c, rows, tensor_cols(x));
    Tensor *rstd = tensor_new(c, DT_F32, 1, &rows);
    operand_matvec(c, y, NULL, x, &(NormBefore){.w = norm, .eps = eps, .y = normed, .rstd = rstd},
                   w);
    scope_drop(c->scope, normed);
    scope_drop(c->scope, rstd);
    if (bias) c->dev->k->bias_fwd(c->dev, y, bias);
    tape_record(c, &linear_normed_op, 1, (Tensor *[]){y}, 0, NULL);
    return y;
}

Tensor *op_linear(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual)
{
    op_begin(c, &linear_op);
    Tensor *y = linear_output(c, x, w, residual, 0);
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
