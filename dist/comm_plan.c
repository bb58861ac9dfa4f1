#include "dist/comm_plan.h"

#include <string.h>

static void plan_all_reduce(Comm *c, Device *d, Tensor *t)
{
}

static void plan_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
}

static void plan_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
}

static void plan_all_to_all(Comm *c, Device *d, Tensor *pieces, const Tensor *whole)
{
}

static void plan_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
}

/* The others say the same. */
static void plan_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    for (int i = 0; i < c->size; i++)
        memcpy((char *)all + (size_t)i * bytes, mine, bytes);
}

static Status plan_split(Comm *c, Comm *out, int color, Err *err)
{
    out->ops = c->ops;
    return OK;
}

static const CommOps plan_ops = {
    .name = "plan",
    .any_memory = true,
    .all_reduce = plan_all_reduce,
    .all_gather = plan_all_gather,
    .reduce_scatter = plan_reduce_scatter,
    .broadcast = plan_broadcast,
    .all_to_all = plan_all_to_all,
    .exchange = plan_exchange,
    .split = plan_split,
};

Comm comm_plan(int size)
{
    return (Comm){.size = size, .local_size = size, .ops = &plan_ops};
}
