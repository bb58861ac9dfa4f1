/* The flat arrays of trained parameters.  Besides scope.c and tape.c this is the third place that counts
 * owners of a storage, once: a parameter shares its master array's. */
#include "dist/shard.h"

#include "autograd/tape.h"
#include "base/hash.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

static bool shares_master(const ShardSet *s)
{
    return s->dev->compute == DT_F32;
}

static int64_t round_up(int64_t n)
{
    return (n + SHARD_ALIGN - 1) / SHARD_ALIGN * SHARD_ALIGN;
}

static int64_t slice_numel(const Param *p, int slice)
{
    int64_t cols = p->t.n_dims == 1 ? 1 : tensor_cols(&p->t);
    return p->slices[slice].rows * cols;
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
                                                  .numel = slice_numel(p, i),
                                                  .lr_scale = p->lr_scale,
                                                  .decay = p->decay};
    sh->numel += round_up(tensor_numel(&p->t));
}

static Tensor flat_array(Device *d, int64_t numel, MemCategory category, bool zero)
{
    Tensor t = tensor_alloc(d, DT_F32, 1, &numel, category);
    if (zero) tensor_zero(d, &t);
    return t;
}

static void alloc_shard(ShardSet *s, ParamShard *sh)
{
    bool adapter = sh->ranges[0].param->adapter;
    MemCategory weights = adapter ? MEM_ADAPTER : MEM_WEIGHT;
    sh->master = flat_array(s->dev, sh->numel, shares_master(s) ? weights : MEM_OPTIMIZER, true);
    sh->grad = flat_array(s->dev, sh->numel, MEM_GRAD, true);
    sh->m = flat_array(s->dev, sh->numel, MEM_OPTIMIZER, true);
    sh->v = flat_array(s->dev, sh->numel, MEM_OPTIMIZER, true);
}

/* Points p at its part of the arrays; range: the first of its slices. */
static void bind_param(ShardSet *s, ParamShard *sh, const ShardRange *range, Tensor *grad)
{
    Param *p = range->param;
    size_t at = (size_t)range->offset * sizeof(float);
    ASSERT(!p->t.storage && tensor_is_dense(&p->t), "%s has a storage or a pitch", p->name);
    if (shares_master(s)) {
        p->t.storage = sh->master.storage;
        p->t.offset = sh->master.offset + at;
        storage_ref(p->t.storage);
    } else {
        param_alloc(s->dev, p);
    }
    *grad = tensor_shape(DT_F32, p->t.n_dims, p->t.shape);
    grad->storage = sh->grad.storage;
    grad->offset = sh->grad.offset + at;
    grad->name = p->name;
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
        if (sh->ranges[i].slice == 0) bind_param(s, sh, &sh->ranges[i], &s->grads[(*n_bound)++]);
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
        tensor_clear(&sh->master);
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

Tensor shard_working_view(const ShardRange *r)
{
    const Param *p = r->param;
    Tensor t = tensor_shape(p->t.dtype, 1, &r->numel);
    t.storage = p->t.storage;
    t.offset = p->t.offset + (size_t)slice_start(p, r->slice) * dtype_bytes(p->t.dtype);
    return t;
}

const char *shard_range_name(const ShardRange *r)
{
    return r->param->slices[r->slice].name;
}

static void copy_working(ShardSet *s, bool to_master)
{
    if (shares_master(s)) return;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->items[i].n_ranges; k++) {
            const ShardRange *r = &s->items[i].ranges[k];
            Tensor master = shard_view(&s->items[i].master, r);
            Tensor working = shard_working_view(r);
            if (to_master)
                s->dev->k->copy(s->dev, &master, &working);
            else
                s->dev->k->copy(s->dev, &working, &master);
        }
}

void shards_master_from_working(ShardSet *s)
{
    copy_working(s, true);
}

void shards_working_from_master(ShardSet *s)
{
    copy_working(s, false);
    shards_changed(s);
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
            Tensor view = shard_view(&s->items[i].master, r);
            float *host = xmalloc((size_t)r->numel * sizeof *host);
            tensor_read(s->dev, &view, host);
            h = hash64(shard_range_name(r), strlen(shard_range_name(r)), h);
            h = hash64(host, (size_t)r->numel * sizeof *host, h);
            free(host);
        }
    return h;
}
