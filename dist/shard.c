/* The flat arrays of trained parameters.  Besides scope.c and tape.c this is the third place that counts
 * owners of a storage: a parameter shares its arrays'. */
#include "dist/shard.h"

#include "autograd/tape.h"
#include "base/hash.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

static int64_t round_up(int64_t n)
{
    return (n + SHARD_ALIGN - 1) / SHARD_ALIGN * SHARD_ALIGN;
}

static int64_t slice_start(const Param *p, int slice)
{
    int64_t cols = p->t.n_dims == 1 ? 1 : tensor_cols(&p->t);
    return p->slices[slice].row0 * cols;
}

/* Appends the ranges of p; a fused matrix stays one piece, because the model reads it as one. */
static void add_param(ParamShard *sh, Param *p)
{
    for (int i = 0; i < p->n_slices; i++)
        sh->ranges[sh->n_ranges++] = (ShardRange){.param = p,
                                                  .slice = i,
                                                  .offset = sh->numel + slice_start(p, i),
                                                  .numel = param_slice_numel(p, i),
                                                  .lr_scale = p->lr_scale,
                                                  .decay = p->decay};
    sh->numel += round_up(tensor_numel(&p->t));
}

static Tensor flat_array(Device *d, DType dtype, int64_t numel, MemCategory category)
{
    Tensor t = tensor_alloc(d, dtype, 1, &numel, category);
    tensor_zero(d, &t);
    return t;
}

static void alloc_shard(ShardSet *s, ParamShard *sh)
{
    Device *d = s->dev;
    bool adapter = sh->ranges[0].param->adapter;
    sh->weights = flat_array(d, d->compute, sh->numel, adapter ? MEM_ADAPTER : MEM_WEIGHT);
    if (d->compute != DT_F32) sh->low = flat_array(d, DT_I16, sh->numel, MEM_OPTIMIZER);
    sh->grad = flat_array(d, DT_F32, sh->numel, MEM_GRAD);
    sh->m = flat_array(d, DT_F32, sh->numel, MEM_OPTIMIZER);
    sh->v = flat_array(d, DT_F32, sh->numel, MEM_OPTIMIZER);
}

/* A view of p's shape into a flat array, `at` elements from its start. */
static Tensor part_of(const Tensor *flat, const Param *p, int64_t at)
{
    Tensor t = tensor_shape(flat->dtype, p->t.n_dims, p->t.shape);
    t.storage = flat->storage;
    t.offset = flat->offset + (size_t)at * dtype_bytes(flat->dtype);
    t.name = p->name;
    return t;
}

/* Points p at its part of the arrays; range: the first of its slices. */
static void bind_param(ParamShard *sh, const ShardRange *range, Tensor *grad)
{
    Param *p = range->param;
    ASSERT(!p->t.storage && tensor_is_dense(&p->t), "%s has a storage or a pitch", p->name);
    Tensor weights = part_of(&sh->weights, p, range->offset);
    p->t.storage = weights.storage;
    p->t.offset = weights.offset;
    storage_ref(p->t.storage);
    if (sh->low.storage) {
        p->low = part_of(&sh->low, p, range->offset);
        storage_ref(p->low.storage);
    }
    *grad = part_of(&sh->grad, p, range->offset);
    p->t.grad = grad;
}

static void build_shard(ShardSet *s, ParamShard *sh, int unit, int *n_bound)
{
    int n = 0;
    for (int i = 0; i < s->params->n; i++)
        if (s->params->items[i]->unit == unit && s->params->items[i]->trained)
            n += s->params->items[i]->n_slices;
    sh->unit = unit;
    sh->ranges = xcalloc((size_t)n, sizeof *sh->ranges);
    for (int i = 0; i < s->params->n; i++)
        if (s->params->items[i]->unit == unit && s->params->items[i]->trained)
            add_param(sh, s->params->items[i]);
    alloc_shard(s, sh);
    for (int i = 0; i < n; i++)
        if (sh->ranges[i].slice == 0) bind_param(sh, &sh->ranges[i], &s->grads[(*n_bound)++]);
}

void shards_init(ShardSet *s, Device *d, Comm *comm, const ParamSet *params)
{
    *s = (ShardSet){.dev = d, .comm = comm, .params = params};
    int last = -1;
    s->grads = xcalloc((size_t)params->n, sizeof *s->grads);
    s->items = xcalloc((size_t)params->n, sizeof *s->items);
    int n_bound = 0;
    for (int i = 0; i < params->n; i++) {
        Param *p = params->items[i];
        if (!p->trained) {
            param_alloc(d, p);
            continue;
        }
        ASSERT(p->unit >= last, "%s: units of parameters must ascend", p->name);
        if (p->unit == last) continue;
        last = p->unit;
        build_shard(s, &s->items[s->n++], p->unit, &n_bound);
    }
}

void shards_clear(ShardSet *s)
{
    for (int i = 0; s->params && i < s->params->n; i++)
        if (s->params->items[i]->trained) s->params->items[i]->t.grad = NULL;
    for (int i = 0; i < s->n; i++) {
        ParamShard *sh = &s->items[i];
        tensor_clear(&sh->weights);
        tensor_clear(&sh->low);
        tensor_clear(&sh->grad);
        tensor_clear(&sh->m);
        tensor_clear(&sh->v);
        free(sh->ranges);
    }
    free(s->items);
    free(s->grads);
    *s = (ShardSet){0};
}

Tensor shard_view(const Tensor *flat, const ShardRange *r)
{
    Tensor t = tensor_shape(flat->dtype, 1, &r->numel);
    t.storage = flat->storage;
    t.offset = flat->offset + (size_t)r->offset * dtype_bytes(flat->dtype);
    return t;
}

const char *shard_range_name(const ShardRange *r)
{
    return r->param->slices[r->slice].name;
}

void shards_changed(ShardSet *s)
{
    for (int i = 0; i < s->params->n; i++)
        if (s->params->items[i]->trained) param_changed(s->params->items[i]);
}

void shards_begin_step(ShardSet *s)
{
    for (int i = 0; i < s->params->n; i++)
        s->params->items[i]->t.grad_written = false;
}

void shards_finish_grads(ShardSet *s)
{
    for (int i = 0; i < s->params->n; i++) {
        Param *p = s->params->items[i];
        if (p->trained && !p->t.grad_written) tensor_zero(s->dev, p->t.grad);
    }
    for (int i = 0; i < s->n; i++)
        comm_all_reduce(s->comm, s->dev, &s->items[i].grad, COMM_SUM);
}

int64_t shards_numel(const ShardSet *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->items[i].n_ranges; k++)
            n += s->items[i].ranges[k].numel;
    return n;
}

uint64_t shards_hash(const ShardSet *s)
{
    uint64_t h = 0;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->items[i].n_ranges; k++) {
            const ShardRange *r = &s->items[i].ranges[k];
            float *host = xmalloc((size_t)r->numel * sizeof *host);
            param_read(s->dev, r->param, r->slice, host);
            h = hash64(shard_range_name(r), strlen(shard_range_name(r)), h);
            h = hash64(host, (size_t)r->numel * sizeof *host, h);
            free(host);
        }
    return h;
}
