/* Checks that hold for every kind of Comm, in front of its own collectives. */
#include "dist/comm.h"

static void check_parts(const Comm *c, const Tensor *whole, const Tensor *part)
{
    ASSERT(whole->dtype == part->dtype && tensor_is_dense(whole) && tensor_is_dense(part) &&
               tensor_numel(whole) == c->size * tensor_numel(part),
           "%lld elements in %d parts of %lld", (long long)tensor_numel(whole), c->size,
           (long long)tensor_numel(part));
}

void comm_all_reduce(Comm *c, Device *d, Tensor *t, CommReduce op)
{
    ASSERT(tensor_is_dense(t), "all_reduce of a matrix with a pitch");
    c->ops->all_reduce(c, d, t, op);
}

void comm_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    check_parts(c, whole, part);
    c->ops->all_gather(c, d, whole, part);
}

void comm_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    check_parts(c, whole, part);
    c->ops->reduce_scatter(c, d, part, whole);
}

void comm_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    ASSERT(root >= 0 && root < c->size && tensor_is_dense(t), "root %d of %d", root, c->size);
    c->ops->broadcast(c, d, t, root);
}

void comm_barrier(Comm *c)
{
    c->ops->barrier(c);
}
