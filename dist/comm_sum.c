#include "dist/comm_sum.h"

#include "kernels/kernels.h"

Tensor comm_sum_piece(const Tensor *t, int r, int n, int64_t *first)
{
    int64_t all = tensor_numel(t), from = all * r / n, to = all * (r + 1) / n;
    Tensor piece = *t;
    piece.n_dims = 1;
    piece.shape[0] = piece.ld = to - from;
    piece.offset += (size_t)from * dtype_bytes(t->dtype);
    *first = from;
    return piece;
}

void comm_sum_add(Device *d, Tensor *sum, const void *from)
{
    if (tensor_numel(sum) == 0) return;
    Storage there = {.data = (void *)(uintptr_t)from, .bytes = tensor_bytes(sum), .refs = 1};
    Tensor x = tensor_shape(sum->dtype, 1, &sum->shape[0]);
    x.shape[0] = x.ld = tensor_numel(sum);
    x.storage = &there;
    Tensor y = x;
    y.storage = sum->storage;
    y.offset = sum->offset;
    d->k->axpy(d, &y, 1, &x);
}
