/* The rows that are trained on, so that the head computes no others. */
#include "autograd/ops.h"

typedef struct GatherArgs {
    const Tensor *rows;
} GatherArgs;

static void gather_rows_backward(Ctx *c, Node *n)
{
    const GatherArgs *args = n->args;
    float beta;
    Tensor *dx = grad_into(c, n->in[0], &beta);
    if (dx) c->dev->k->scatter_rows(c->dev, dx, beta, grad_of(n, 0), args->rows);
}

static const Op gather_rows_op = {.name = "gather_rows", .backward = gather_rows_backward};

Tensor *op_gather_rows(Ctx *c, Tensor *x, const Tensor *rows)
{
    op_begin(c, &gather_rows_op);
    Tensor *y = tensor_new_matrix(c, tensor_numel(rows), tensor_cols(x));
    c->dev->k->gather_rows(c->dev, y, x, rows);

    Node *n = tape_record(c, &gather_rows_op, 1, (Tensor *[]){y}, 1, (Tensor *[]){x});
    if (n) {
        GatherArgs *args = arena_alloc(c->arena, sizeof *args);
        args->rows = rows;
        n->args = args;
    }
    return y;
}
