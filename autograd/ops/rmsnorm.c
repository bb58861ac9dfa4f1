/* RMSNorm over the last dimension. */
#include "autograd/ops.h"

enum { X, W, RSTD };

typedef struct NormArgs {
    float eps;
} NormArgs;

static void rmsnorm_backward(Ctx *c, Node *n)
{
    float beta, dw_beta;
    Tensor *dx = grad_into(c, n->in[X], &beta);
    Tensor *dw = grad_into(c, n->in[W], &dw_beta);
    c->dev->k->rmsnorm_bwd(c->dev, dx, beta, dw, dw_beta, grad_of(n, 0), tape_saved(c, n, X),
                           n->saved[RSTD], n->saved[W]);
}

static void rmsnorm_remake(Ctx *c, Node *n)
{
    const NormArgs *args = n->args;
    const Tensor *x = tape_saved(c, n, X);
    c->dev->k->rmsnorm_fwd(c->dev, tape_output(c, n, 0), n->saved[RSTD], x, n->saved[W], args->eps);
}

static const Op rmsnorm_op = {.name = "rmsnorm",
                              .backward = rmsnorm_backward,
                              .remake = rmsnorm_remake,
                              .remade_from = RECOMPUTE_SELECTIVE};

Tensor *op_rmsnorm(Ctx *c, Tensor *x, Tensor *w, float eps, int64_t pad)
{
    op_begin(c, &rmsnorm_op);
    Tensor *y = tensor_new_padded(c, tensor_rows(x), tensor_cols(x), pad);
    int64_t rows = tensor_rows(x);
    Tensor *rstd = tensor_new(c, DT_F32, 1, &rows);
    c->dev->k->rmsnorm_fwd(c->dev, y, rstd, x, w, eps);

    Node *n = tape_record(c, &rmsnorm_op, 1, (Tensor *[]){y}, 2, (Tensor *[]){x, w});
    if (n) {
        NormArgs *args = arena_alloc(c->arena, sizeof *args);
        args->eps = eps;
        n->args = args;
        tape_save(n, X, x);
        tape_save(n, W, w);
        tape_save(n, RSTD, rstd);
    }
    return y;
}
