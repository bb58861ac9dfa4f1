/* The flat arrays of a run's parameters: who keeps what.  Besides scope.c and tape.c this is the third place that counts
 * owners of a storage: parameters and parts share a whole's. */
#include "dist/shard.h"

#include "autograd/tape.h"
#include "base/hash.h"
#include "base/str.h"
#include "dist/shard_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- layout ----------------------------------------------------------------------------------- */

static int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static int64_t slice_cols(const Param *p)
{
    return p->t.n_dims == 1 ? 1 : tensor_cols(&p->t);
}

/* Where p's values lie: a quantised one's as bytes. */
static Tensor *kept_in(Param *p)
{
    return p->t.quant ? &p->t.quant->packed : &p->t;
}

/* Elements of p's storage: the pitch and the room of a frozen matrix belong to it, so that a gathered one is at once
 * what its adapters need. */
static int64_t param_numel(const Param *p)
{
    if (p->t.quant) return tensor_numel(&p->t.quant->packed);
    return tensor_rows(&p->t) * p->t.ld + p->room * p->t.ld;
}

static void append(ParamShard *sh, Param *p)
{
    sh->params[sh->n_params] = p;
    sh->offsets[sh->n_params++] = sh->total;
    sh->total += round_up(param_numel(p), SHARD_ALIGN);
}

/* What of each slice lies in this rank's part. */
static void make_ranges(ParamShard *sh)
{
    for (int i = 0; i < sh->n_params; i++) {
        Param *p = sh->params[i];
        for (int k = 0; k < p->n_slices; k++) {
            int64_t from = sh->offsets[i] + p->slices[k].row0 * slice_cols(p);
            int64_t to = from + p->slices[k].rows * slice_cols(p);
            int64_t low = from > sh->first ? from : sh->first;
            int64_t high = to < sh->first + sh->numel ? to : sh->first + sh->numel;
            if (low >= high) continue;
            sh->ranges[sh->n_ranges++] = (ShardRange){.param = p,
                                                      .slice = k,
                                                      .first = low - from,
                                                      .offset = low - sh->first,
                                                      .numel = high - low,
                                                      .lr_scale = p->lr_scale,
                                                      .decay = p->decay};
        }
    }
}

StatesFormat shard_states_format(const ShardSet *s, const Param *p, int slice)
{
    enum { LEAST = 4096 };
    if (p->fp32_states || param_slice_numel(p, slice) < LEAST) return STATES_FP32;
    for (int k = 0; k < p->n_slices; k++)
        if (p->slices[k].row0 * slice_cols(p) % STATES_BLOCK != 0) return STATES_FP32;
    return s->opts.states;
}

/* The gap behind a parameter goes with its last slice. */
static void alloc_states(ShardSet *s, ParamShard *sh, Device *home)
{
    StatesLayout whole = {0};
    for (int i = 0; i < sh->n_params; i++) {
        const Param *p = sh->params[i];
        int64_t behind = i + 1 < sh->n_params ? sh->offsets[i + 1] : sh->total;
        for (int k = 0; k < p->n_slices; k++) {
            int64_t next = sh->offsets[i] + (p->slices[k].row0 + p->slices[k].rows) * slice_cols(p);
            states_layout_add(&whole, k + 1 < p->n_slices ? next : behind,
                              shard_states_format(s, p, k));
        }
    }
    states_init(&sh->states, home, &whole, sh->numel, (int)(sh->first / sh->numel));
    states_layout_clear(&whole);
}

/* ---- storage ---------------------------------------------------------------------------------- */

static Tensor flat_array(Device *d, DType dtype, int64_t numel, MemCategory category)
{
    Tensor t = tensor_alloc(d, dtype, 1, &numel, category);
    tensor_zero(d, &t);
    return t;
}

/* Elements [first, first + n) of a whole, with a reference. */
static Tensor part_of(const Tensor *whole, int64_t first, int64_t n)
{
    Tensor t = *whole;
    t.shape[0] = t.ld = n;
    t.offset += (size_t)first * dtype_bytes(t.dtype);
    storage_ref(t.storage);
    return t;
}

static void alloc_weights(ShardSet *s, ParamShard *sh)
{
    const ShardHost *host = s->opts.host;
    MemCategory category = sh->params[0]->adapter ? MEM_ADAPTER : MEM_WEIGHT;
    DType dtype = kept_in(sh->params[0])->dtype;
    if (sh->comes_and_goes) {
        sh->whole = tensor_shape(dtype, 1, &sh->total);
        Device *home = host && host->params ? host->pinned : s->dev;
        sh->weights = flat_array(home, dtype, sh->numel, category);
    } else {
        sh->whole = flat_array(s->dev, dtype, sh->total, category);
        sh->weights = part_of(&sh->whole, sh->first, sh->numel);
    }
}

static void alloc_masters(ShardSet *s, ParamShard *sh)
{
    const ShardHost *host = s->opts.host;
    Device *home = host ? host->states : s->dev;
    if (host && sh->weights.storage->dev == s->dev)
        sh->master = flat_array(host->pinned, sh->weights.dtype, sh->numel, MEM_OPTIMIZER);
    else
        sh->master = part_of(&sh->weights, 0, sh->numel);
    sh->whole_low = tensor_shape(DT_I16, 1, &sh->total);
    if (s->dev->compute != DT_F32) sh->low = flat_array(home, DT_I16, sh->numel, MEM_OPTIMIZER);
    alloc_states(s, sh, home);
}

static void alloc_grads(ShardSet *s, ParamShard *sh)
{
    DType dtype = s->opts.grads;
    if (shard_reduces_early(s, sh)) {
        sh->whole_grad = tensor_shape(dtype, 1, &sh->total);
        if (sh->split)
            sh->grad = flat_array(s->dev, dtype, sh->numel, MEM_GRAD);
        else
            sh->grad = sh->whole_grad; /* the storage, too, while there is one */
    } else if (sh->split) {
        sh->whole_grad = flat_array(s->dev, dtype, sh->total, MEM_GRAD);
        sh->grad = part_of(&sh->whole_grad, sh->first, sh->numel);
    } /* else see join_grads */
}

static void alloc_shard(ShardSet *s, ParamShard *sh)
{
    alloc_weights(s, sh);
    if (!sh->trained) return;
    alloc_grads(s, sh);
    alloc_masters(s, sh);
}

void shard_bind(ParamShard *sh)
{
    for (int i = 0; i < sh->n_params; i++) {
        Tensor *t = kept_in(sh->params[i]);
        t->storage = sh->whole.storage;
        t->offset = sh->whole.offset + (size_t)sh->offsets[i] * dtype_bytes(t->dtype);
        sh->params[i]->room_version = 0;
        storage_ref(t->storage);
    }
    sh->bound = true;
}

void shard_unbind(ParamShard *sh)
{
    for (int i = 0; i < sh->n_params && sh->bound; i++) {
        Tensor *t = kept_in(sh->params[i]);
        storage_unref(t->storage);
        t->storage = NULL;
    }
    sh->bound = false;
}

/* The low halves of the master copies; array: of all of them, or empty. */
void shard_bind_low(ParamShard *sh, const Tensor *array)
{
    for (int i = 0; i < sh->n_params; i++) {
        Param *p = sh->params[i];
        storage_unref(p->low.storage);
        p->low = (Tensor){0};
        if (!array->storage) continue;
        p->low = tensor_shape(DT_I16, p->t.n_dims, p->t.shape);
        p->low.storage = array->storage;
        p->low.offset = array->offset + (size_t)sh->offsets[i] * dtype_bytes(DT_I16);
        p->low.name = p->name;
        storage_ref(p->low.storage);
    }
}

void shard_bind_grads(ParamShard *sh)
{
    for (int i = 0; i < sh->n_params; i++) {
        Tensor *grad = sh->params[i]->t.grad;
        grad->storage = sh->whole_grad.storage;
        grad->offset = sh->whole_grad.offset + (size_t)sh->offsets[i] * dtype_bytes(grad->dtype);
    }
}

/* ---- building --------------------------------------------------------------------------------- */

/* Which of a unit's shards a parameter belongs to; -1: none, it keeps a storage of its own. */
enum { SMALL_TRAINED, LARGE_TRAINED, FROZEN, CODES, N_KINDS };

/* What is large comes and goes, or stays. */
static bool large_ones_come_and_go(const ShardSet *s)
{
    return (s->run->size > 1 && s->opts.zero == 3) || (s->opts.host && s->opts.host->params);
}

static int kind_of(const ShardSet *s, const Param *p, int64_t trained_in_unit)
{
    if (p->on_host || (!p->trained && !large_ones_come_and_go(s))) return -1;
    if (!p->trained) return p->t.quant ? CODES : FROZEN;
    return !p->adapter && trained_in_unit >= s->opts.least ? LARGE_TRAINED : SMALL_TRAINED;
}

static bool is_split(const ShardSet *s, int kind)
{
    if (s->run->size == 1 || kind == SMALL_TRAINED) return false;
    return s->opts.zero > (kind == LARGE_TRAINED ? 0 : 2);
}

static int64_t trained_numel(const ParamSet *params, int unit)
{
    int64_t n = 0;
    for (int i = 0; i < params->n; i++)
        if (params->items[i]->unit == unit && params->items[i]->trained &&
            !params->items[i]->adapter)
            n += tensor_numel(&params->items[i]->t);
    return n;
}

static void build_shard(ShardSet *s, ParamShard *sh, int unit, int kind, int *n_grads)
{
    const ParamSet *ps = s->params;
    int64_t large = trained_numel(ps, unit);
    int n = 0, slices = 0;
    for (int i = 0; i < ps->n; i++) {
        if (ps->items[i]->unit != unit || kind_of(s, ps->items[i], large) != kind) continue;
        n++;
        slices += ps->items[i]->n_slices;
    }
    if (n == 0) return;
    bool split = is_split(s, kind);
    int n_parts = split ? s->run->size : 1;
    *sh = (ParamShard){.unit = unit,
                       .trained = kind <= LARGE_TRAINED,
                       .split = split,
                       .comes_and_goes = kind != SMALL_TRAINED && large_ones_come_and_go(s)};
    sh->params = xcalloc((size_t)n, sizeof(Param *));
    sh->offsets = xcalloc((size_t)n, sizeof *sh->offsets);
    for (int i = 0; i < ps->n; i++)
        if (ps->items[i]->unit == unit && kind_of(s, ps->items[i], large) == kind)
            append(sh, ps->items[i]);
    sh->total = round_up(sh->total, (int64_t)SHARD_ALIGN * n_parts);
    sh->numel = sh->total / n_parts;
    sh->first = n_parts > 1 ? s->run->rank * sh->numel : 0;
    alloc_shard(s, sh);
    if (sh->trained) {
        sh->ranges = xcalloc((size_t)slices, sizeof *sh->ranges);
        make_ranges(sh);
    }
    for (int i = 0; i < n; i++) {
        Param *p = sh->params[i];
        ASSERT(!param_is_there(p) && (!p->trained || tensor_is_dense(&p->t)),
               "%s has a storage or a pitch", p->name);
        if (split || sh->comes_and_goes || s->opts.host) p->home = &s->home;
        if (!sh->trained) continue;
        Tensor *grad = &s->grads[(*n_grads)++];
        *grad = tensor_shape(s->opts.grads, p->t.n_dims, p->t.shape);
        grad->name = p->name;
        p->t.grad = grad;
    }
    if (sh->whole.storage) shard_bind(sh);
    if (!sh->params[0]->home) shard_bind_low(sh, &sh->low);
    if (sh->whole_grad.storage) shard_bind_grads(sh);
    s->n++;
}

static bool summed_together(const ShardSet *s, const ParamShard *sh)
{
    return sh->trained && !sh->split && !shard_reduces_early(s, sh);
}

/* Gradients of what stays whole lie side by side, so that ranks sum them in few collectives. */
static void join_grads(ShardSet *s)
{
    int64_t total = 0, at = 0;
    for (int i = 0; i < s->n; i++)
        if (summed_together(s, &s->items[i])) total += s->items[i].total;
    if (total == 0) return;
    s->together = flat_array(s->dev, s->opts.grads, total, MEM_GRAD);
    for (int i = 0; i < s->n; i++) {
        ParamShard *sh = &s->items[i];
        if (!summed_together(s, sh)) continue;
        sh->whole_grad = part_of(&s->together, at, sh->total);
        sh->grad = part_of(&s->together, at, sh->total);
        shard_bind_grads(sh);
        at += sh->total;
    }
}

void shards_init(ShardSet *s, Device *d, Comm *comm, const ParamSet *params, const ShardOpts *opts)
{
    *s = (ShardSet){.dev = d, .comm = comm, .params = params};
    if (opts) s->opts = *opts;
    s->run = s->opts.run ? s->opts.run : comm;
    s->across = s->opts.across;
    s->home = (ParamHome){shard_home_open, shard_home_close, shard_home_pieces, s};
    int last = -1, n_grads = 0;
    for (int i = 0; i < params->n; i++) {
        ASSERT(params->items[i]->unit >= last, "%s: units of parameters must ascend",
               params->items[i]->name);
        last = params->items[i]->unit;
    }
    s->n_units = last + 1;
    s->grads = xcalloc((size_t)params->n, sizeof *s->grads);
    s->items = xcalloc((size_t)s->n_units * N_KINDS, sizeof *s->items);
    s->units = xcalloc((size_t)s->n_units + 1, sizeof *s->units);
    for (int unit = 0; unit < s->n_units; unit++) {
        int64_t large = trained_numel(params, unit);
        for (int i = 0; i < params->n; i++)
            if (params->items[i]->unit == unit && kind_of(s, params->items[i], large) < 0)
                param_alloc(d, params->items[i]);
        s->units[unit] = s->n;
        for (int kind = 0; kind < N_KINDS; kind++)
            build_shard(s, &s->items[s->n], unit, kind, &n_grads);
    }
    s->units[s->n_units] = s->n;
    join_grads(s);
}

void shards_clear(ShardSet *s)
{
    if (s->items) shards_end_pass(s);
    for (int i = 0; i < s->n; i++) {
        ParamShard *sh = &s->items[i];
        for (int k = 0; k < sh->n_params; k++) {
            if (sh->trained) sh->params[k]->t.grad = NULL;
            sh->params[k]->home = NULL;
        }
        /* parameters that are still bound keep their reference and drop it with param_clear */
        tensor_clear(&sh->whole);
        tensor_clear(&sh->weights);
        tensor_clear(&sh->master);
        tensor_clear(&sh->low);
        tensor_clear(&sh->whole_grad);
        tensor_clear(&sh->grad);
        states_clear(&sh->states);
        free(sh->params);
        free(sh->offsets);
        free(sh->ranges);
    }
    tensor_clear(&s->together);
    free(s->items);
    free(s->units);
    free(s->grads);
    free(s->uses);
    *s = (ShardSet){0};
}

/* ---- views and copies ------------------------------------------------------------------------- */

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

bool shard_counts(const ShardSet *s, const ParamShard *sh)
{
    return sh->split ? !s->across || s->across->rank == 0 : s->comm->rank == 0;
}

void shard_share(const ShardSet *s, const ParamShard *sh, int64_t *first, int64_t *n)
{
    const Comm *same = sh->split ? s->across : s->comm; /* who has these elements */
    int64_t size = same ? same->size : 1, rank = same ? same->rank : 0;
    int64_t most = round_up((sh->numel + size - 1) / size, SHARD_ALIGN);
    *first = rank * most < sh->numel ? rank * most : sh->numel;
    *n = sh->numel - *first < most ? sh->numel - *first : most;
}

int64_t shards_numel(const ShardSet *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->items[i].n_params && s->items[i].trained; k++)
            n += tensor_numel(&s->items[i].params[k]->t);
    return n;
}

uint64_t shards_hash(ShardSet *s)
{
    uint64_t h = 0;
    for (int i = 0; i < s->params->n; i++) {
        Param *p = s->params->items[i];
        if (!p->trained) continue;
        param_open(p);
        for (int k = 0; k < p->n_slices; k++) {
            size_t bytes = (size_t)param_slice_numel(p, k) * sizeof(float);
            float *host = xmalloc(bytes);
            param_read(s->dev, p, k, host);
            h = hash64(p->slices[k].name, strlen(p->slices[k].name), h);
            h = hash64(host, bytes, h);
            free(host);
        }
        param_close(p, false);
    }
    shards_end_pass(s);
    return h;
}
