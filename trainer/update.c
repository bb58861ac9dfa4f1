#include "trainer/update.h"

#include "base/str.h"
#include "optim/clip.h"
#include "optim/host_adamw.h"

#include <math.h>
#include <stdlib.h>

typedef struct Unit {
    ParamShard *shard;
    HostAdamwChunk *arrays; /* live has a storage where the master lives apart from the weights */
    int n_arrays;
    Tensor share;   /* (1) of Update.shares */
    Tensor squares; /* (1) of Update.squares */
    bool waiting;   /* its gradient is complete, and it is not updated yet */
} Unit;

struct Update {
    Device *dev;
    ShardSet *shards;
    UpdateOpts opts;
    const Tensor *loss_sum;
    Unit *units; /* one a shard; what is frozen has no arrays */
    int n;
    Tensor **grads; /* the flat gradients that this rank counts */
    int n_grads;
    Tensor scalars; /* (STEP_N) f32 */
    Tensor
        shares; /* (n) f32: this rank's part of the units' sums of squares, while it is summed over ranks */
    Tensor squares;  /* (n) f32: the units' sums of squares, over all ranks */
    HostAdamw *host; /* NULL: the device updates */
};

/* ---- the arrays ------------------------------------------------------------------------------- */

static Tensor flat_part(const Tensor *flat, int64_t begin, int64_t end)
{
    if (!flat->storage) return (Tensor){0};
    return shard_view(flat, &(ShardRange){.offset = begin, .numel = end - begin});
}

static void add_array(Unit *x, const AdamwArgs *args, int64_t begin, int64_t end)
{
    const ParamShard *sh = x->shard;
    x->arrays = xrealloc(x->arrays, (size_t)(x->n_arrays + 1) * sizeof *x->arrays);
    HostAdamwChunk *c = &x->arrays[x->n_arrays++];
    *c = (HostAdamwChunk){
        .array = {.weights = flat_part(&sh->master, begin, end),
                  .low = flat_part(&sh->low, begin, end),
                  .grad =
                      shard_view(&sh->grad, &(ShardRange){.offset = begin, .numel = end - begin}),
                  .states = states_view(&sh->states, begin, end - begin),
                  .args = *args}};
    if (sh->weights.storage != sh->master.storage) c->live = flat_part(&sh->weights, begin, end);
}

/* A unit is one array, or several: where a table of ranges is full, where states are kept in another format, and so that none
 * is longer than `most`.  The gap behind a parameter goes with it: it holds zeros, which stay. */
static void add_arrays(Unit *x, const AdamwOpts *opts, int64_t most)
{
    const ParamShard *sh = x->shard;
    if (sh->n_ranges == 0) return; /* this rank's part of a small unit may be a gap */
    AdamwArgs args = adamw_args(opts);
    int64_t begin = sh->ranges[0].offset, at = begin;
    for (int i = 0; i < sh->n_ranges; i++) {
        const ShardRange *r = &sh->ranges[i];
        int64_t end = i + 1 < sh->n_ranges ? r[1].offset : sh->numel;
        while (at < end) {
            int64_t to = end - begin < most ? end : begin + most;
            bool full = at == to || at >= states_run(&sh->states, begin)->end;
            if (!full && adamw_add_range(&args, opts, to - at, r->lr_scale, r->decay)) {
                at = to;
                continue;
            }
            add_array(x, &args, begin, at);
            args = adamw_args(opts);
            begin = at;
        }
    }
    add_array(x, &args, begin, at);
}

static bool by_units(const Update *u)
{
    return u->opts.in_backward || u->opts.clip_by == CLIP_BLOCK;
}

/* ---- a unit ----------------------------------------------------------------------------------- */

/* The sums of squares of units that wait, over all ranks in one collective. */
static void measure_waiting(Update *u)
{
    Comm *c = u->shards->comm;
    tensor_zero(u->dev, &u->shares);
    for (int i = 0; i < u->n; i++) {
        Unit *x = &u->units[i];
        if (x->waiting && shard_counts(u->shards, x->shard))
            u->dev->k->sum_squares(u->dev, &x->share, 0, &x->shard->grad);
    }
    c->of = "norms of blocks";
    comm_wait(c, u->dev, comm_all_reduce(c, u->dev, &u->shares));
    u->dev->k->axpy(u->dev, &u->squares, 1, &u->shares);
}

/* STEP_GRAD_SCALE becomes the unit's; STEP_SKIP is set, and stays, when its norm or the loss is not finite. */
static void clip_unit(Update *u, Unit *x)
{
    u->dev->k->step_scalars(u->dev, &u->scalars, &x->squares, u->loss_sum, (float)u->opts.clip);
}

/* Returns the event until which the gradient is read by something beside the compute stream, or 0. */
static int64_t apply(Update *u, Unit *x)
{
    for (int i = 0; i < x->n_arrays; i++) {
        AdamwArray *a = &x->arrays[i].array;
        a->grad.storage = x->shard->grad.storage; /* which comes and goes in backward */
        if (!u->host) adamw_update(u->dev, a, &u->scalars);
    }
    if (!u->host) {
        shard_updated(u->shards, x->shard);
        return 0;
    }
    if (x->n_arrays == 0) return 0;
    return host_adamw_update(u->host, x->arrays, x->n_arrays, &u->scalars, (int)(x - u->units));
}

/* Units whose gradients are complete, in the order of the forward pass, which needs them in that order.  Returns as apply. */
static int64_t update_waiting(Update *u)
{
    int n = 0;
    int64_t read = 0;
    for (int i = 0; i < u->n; i++)
        n += u->units[i].waiting;
    if (n == 0) return 0;
    measure_waiting(u);
    for (int i = 0; i < u->n; i++) {
        Unit *x = &u->units[i];
        if (!x->waiting) continue;
        clip_unit(u, x);
        int64_t event = apply(u, x);
        if (event > 0) read = event;
        x->waiting = false;
    }
    return read;
}

/* A ShardDone.  A whole gradient goes away after it; a part of one stays, and waits for others: ranks meet for the norms of many
 * units at once, and AdamW runs when there is nothing better to do.  The host has nothing better to do. */
static int64_t unit_done(void *ud, ParamShard *sh)
{
    Update *u = ud;
    Unit *x = &u->units[sh - u->shards->items];
    x->waiting = true;
    return sh->split && !u->host ? 0 : update_waiting(u);
}

/* ---- a step ----------------------------------------------------------------------------------- */

/* Buffers for the longest array that any rank can have: all take as much. */
static void open_host(Update *u)
{
    const ShardHost *host = u->shards->opts.host;
    int64_t longest = 0;
    for (int i = 0; i < u->n; i++) {
        const ParamShard *sh = u->units[i].shard;
        if (sh->trained && sh->numel > longest) longest = sh->numel;
    }
    if (longest > HOST_ADAMW_CHUNK) longest = HOST_ADAMW_CHUNK;
    u->host =
        host_adamw_new(u->dev, host->states, host->pinned, u->shards->opts.grads, longest, u->n);
}

Update *update_new(ShardSet *shards, const UpdateOpts *opts, const Tensor *loss_sum)
{
    Update *u = xcalloc(1, sizeof *u);
    *u = (Update){
        .dev = shards->dev, .shards = shards, .opts = *opts, .loss_sum = loss_sum, .n = shards->n};
    ASSERT(opts->in_backward == shards->opts.in_backward, "shards and update disagree");
    ASSERT(!opts->in_backward || opts->clip == 0 || opts->clip_by == CLIP_BLOCK,
           "the global norm is not known in backward");
    int64_t n_scalars = STEP_N, n_squares = u->n;
    u->scalars = tensor_alloc(u->dev, DT_F32, 1, &n_scalars, MEM_OPTIMIZER);
    u->shares = tensor_alloc(u->dev, DT_F32, 1, &n_squares, MEM_OPTIMIZER);
    u->squares = tensor_alloc(u->dev, DT_F32, 1, &n_squares, MEM_OPTIMIZER);
    u->units = xcalloc((size_t)u->n, sizeof *u->units);
    u->grads = xcalloc((size_t)u->n, sizeof *u->grads);
    for (int i = 0; i < u->n; i++) {
        Unit *x = &u->units[i];
        x->shard = &shards->items[i];
        x->share = flat_part(&u->shares, i, i + 1);
        x->squares = flat_part(&u->squares, i, i + 1);
        if (!x->shard->trained) continue;
        add_arrays(x, &opts->adamw, shards->opts.host ? HOST_ADAMW_CHUNK : INT64_MAX);
        if (shard_counts(shards, x->shard)) u->grads[u->n_grads++] = &x->shard->grad;
    }
    if (shards->opts.host) open_host(u);
    if (opts->in_backward) {
        shards->done = unit_done;
        shards->done_ud = u;
    }
    return u;
}

void update_free(Update *u)
{
    if (!u) return;
    u->shards->done = NULL;
    host_adamw_free(u->host);
    for (int i = 0; i < u->n; i++)
        free(u->units[i].arrays);
    tensor_clear(&u->scalars);
    tensor_clear(&u->shares);
    tensor_clear(&u->squares);
    free(u->units);
    free(u->grads);
    free(u);
}

void update_begin(Update *u, double lr, int64_t t)
{
    adamw_begin(u->dev, &u->scalars, &u->opts.adamw, lr, t);
    tensor_zero(u->dev, &u->squares);
    shards_begin_step(u->shards);
}

void update_measure(Update *u, Tensor *sum_squares)
{
    update_waiting(u); /* while the last unit's gradient is on its way */
    shards_finish_grads(u->shards);
    if (!by_units(u)) {
        clip_sum_squares(u->dev, sum_squares, u->grads, u->n_grads);
        return;
    }
    if (u->opts.in_backward) {
        update_waiting(u);
    } else {
        for (int i = 0; i < u->n; i++)
            u->units[i].waiting = u->units[i].shard->trained;
        measure_waiting(u);
    }
    /* the units' are of all ranks: one rank tells them */
    if (u->shards->comm->rank == 0)
        u->dev->k->sum(u->dev, sum_squares, 0, &u->squares);
    else
        tensor_zero(u->dev, sum_squares);
}

static void apply_all(Update *u, const Tensor *sum_squares)
{
    bool blocks = u->opts.clip_by == CLIP_BLOCK;
    clip_by_global_norm(u->dev, &u->scalars, sum_squares, u->loss_sum, blocks ? 0 : u->opts.clip);
    for (int i = 0; i < u->n; i++) {
        Unit *x = &u->units[i];
        if (blocks && x->n_arrays > 0) clip_unit(u, x);
        apply(u, x);
        x->waiting = false;
    }
}

void update_apply(Update *u, const Tensor *sum_squares)
{
    if (!u->opts.in_backward) apply_all(u, sum_squares);
    if (u->host) {
        host_adamw_finish(u->host);
        for (int i = 0; i < u->n; i++)
            shard_updated(u->shards, u->units[i].shard);
        return;
    }
    for (int i = 0; i < u->n && u->opts.in_backward; i++)
        if (!u->units[i].shard->trained) shard_updated(u->shards, u->units[i].shard);
}

bool update_finite(Update *u)
{
    float scalars[STEP_N];
    tensor_read(u->dev, &u->scalars, scalars);
    return scalars[STEP_SKIP] == 0.0f;
}

int update_bad_unit(Update *u)
{
    if (!by_units(u)) return -1;
    int bad = -1;
    float *squares = xmalloc((size_t)u->n * sizeof *squares);
    tensor_read(u->dev, &u->squares, squares);
    for (int i = 0; i < u->n; i++)
        if (!isfinite(squares[i])) bad = u->units[i].shard->unit;
    free(squares);
    return bad;
}
