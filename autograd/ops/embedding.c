/* Rows of the embedding by token id. */
#include "autograd/ops.h"

typedef struct EmbeddingArgs {
    const Tensor *ids;
} EmbeddingArgs;

static void embedding_backward(Ctx *c, Node *n)
{
    const EmbeddingArgs *args = n->args;
    float beta;
    Tensor *dw = grad_into(c, n->in[0], &beta);
    if (dw) c->dev->k->embedding_bwd(c->dev, dw, beta, grad_of(n, 0), args->ids);
}

static const Op embedding_op = {.name = "embedding", .backward = embedding_backward};

Tensor *op_embedding(Ctx *c, const Tensor *ids, Tensor *w)
{
    op_begin(c, &embedding_op);
    Tensor *y = tensor_new_matrix(c, tensor_numel(ids), tensor_cols(w));
    c->dev->k->embedding_fwd(c->dev, y, w, ids);

    Node *n = tape_record(c, &embedding_op, 1, (Tensor *[]){y}, 1, (Tensor *[]){w});
    if (n) {
        EmbeddingArgs *args = arena_alloc(c->arena, sizeof *args);
        args->ids = ids;
        n->args = args;
    }
    return y;
}

Tensor *op_embedding_staged(Ctx *c, const void *rows, int64_t n, int64_t cols)
{
    op_begin(c, &embedding_op);
    Tensor *y = tensor_new_matrix(c, n, cols);
    c->dev->backend->copy(c->dev, tensor_data(y), rows, tensor_bytes(y), COPY_TO_DEVICE);
    tape_record(c, &embedding_op, 1, (Tensor *[]){y}, 0, NULL);
    return y;
}
