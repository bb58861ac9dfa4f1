/* What ranks send each other around and inside of a pass: gradients after it, or behind it (stage 2), parameters before
 * their use (stage 3).  The hooks here are all that sharding adds to a segment. */
#include "dist/shard_impl.h"

#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/transfer.h"

#include <stdlib.h>

/* ---- parameters ------------------------------------------------------------------------------- */

/* Whether the stage moves anything around a use of this shard. */
static bool moves(const ShardSet *s, const ParamShard *sh)
{
    return sh->comes_and_goes || shard_reduces_early(s, sh) || (sh->split && sh->trained);
}

Tensor shard_bring_part(ShardSet *s, ParamShard *sh, Tensor *whole, const Tensor *part,
                        int64_t *came)
{
    *came = 0;
    if (part->storage->dev == s->dev) return *part;
    Tensor there = shard_view(whole, &(ShardRange){.offset = sh->first, .numel = sh->numel});
    *came = transfer_begin(s->dev, STREAM_UP, &there, part);
    if (sh->split) transfer_await(s->dev, STREAM_COMM, *came);
    return there;
}

static void gather(ShardSet *s, ParamShard *sh, const char *name)
{
    if (!sh->comes_and_goes || sh->whole.storage) return;
    sh->whole.storage = storage_new(s->dev, tensor_bytes(&sh->whole), MEM_COMM);
    Tensor part = shard_bring_part(s, sh, &sh->whole, &sh->weights, &sh->gathering);
    if (!sh->split) return;
    s->comm->of = name;
    sh->gathering = comm_all_gather(s->run, s->dev, &sh->whole, &part);
}

void shard_await(ShardSet *s, ParamShard *sh)
{
    comm_wait(s->comm, s->dev, sh->gathering);
    sh->gathering = 0;
}

void shard_release(ShardSet *s, ParamShard *sh)
{
    if (!sh->comes_and_goes || !sh->whole.storage) return;
    shard_await(s, sh); /* one that was fetched in vain may still be on its way */
    shard_unbind(sh);
    storage_unref(sh->whole.storage);
    sh->whole.storage = NULL;
}

void shard_need(ShardSet *s, ParamShard *sh, const char *name)
{
    gather(s, sh, name);
    shard_await(s, sh);
    if (!sh->bound) shard_bind(sh);
}

/* ---- gradients -------------------------------------------------------------------------------- */

/* What lies between parameters must add nothing. */
static void zero_gaps(ShardSet *s, ParamShard *sh)
{
    for (int i = 0; i < sh->n_params; i++) {
        ShardRange gap = {.offset = sh->offsets[i] + tensor_numel(&sh->params[i]->t)};
        gap.numel = (i + 1 < sh->n_params ? sh->offsets[i + 1] : sh->total) - gap.offset;
        Tensor view = shard_view(&sh->whole_grad, &gap);
        if (gap.numel > 0) tensor_zero(s->dev, &view);
    }
}

/* A place for the gradients of a pass. */
static void open_grads(ShardSet *s, ParamShard *sh)
{
    if (!shard_reduces_early(s, sh) || sh->whole_grad.storage) return;
    sh->whole_grad.storage = storage_new(s->dev, tensor_bytes(&sh->whole_grad), MEM_GRAD);
    if (!sh->split) sh->grad.storage = sh->whole_grad.storage;
    zero_gaps(s, sh);
    shard_bind_grads(sh);
    for (int i = 0; i < sh->n_params; i++)
        sh->params[i]->t.grad_written = false;
}

static void zero_unreached(ShardSet *s, ParamShard *sh)
{
    for (int i = 0; i < sh->n_params; i++)
        if (!sh->params[i]->t.grad_written) tensor_zero(s->dev, sh->params[i]->t.grad);
}

static Tensor scratch(ShardSet *s, DType dtype, int64_t numel)
{
    return tensor_alloc(s->dev, dtype, 1, &numel, MEM_COMM);
}

/* Gradients of all ranks come together as they are and are added in f32: to what is there, but where the sum goes on
 * to other groups. */
static void reduce_exactly(ShardSet *s, ParamShard *sh)
{
    sh->send = scratch(s, s->opts.grads, sh->total);
    if (s->across) sh->received = scratch(s, DT_F32, sh->numel);
    Tensor *into = s->across ? &sh->received : &sh->grad;
    float beta = !s->across && sh->summed ? 1 : 0;
    sh->reducing = comm_reduce_exactly(s->run, s->dev, into, beta, &sh->whole_grad, &sh->send);
    if (s->across) sh->reducing = comm_all_reduce(s->across, s->dev, into);
}

/* Starts the sum of whole_grad into parts: straight into `grad` where nothing is there yet and it travels as it is, by
 * way of buffers otherwise. */
static void reduce(ShardSet *s, ParamShard *sh, const char *name)
{
    s->comm->of = name;
    if (!sh->split) {
        sh->reducing = comm_all_reduce(s->comm, s->dev, &sh->whole_grad);
        return;
    }
    if (s->opts.exact) {
        reduce_exactly(s, sh);
        return;
    }
    DType travels = s->opts.reduce;
    bool as_it_is = s->opts.grads == travels;
    if (!as_it_is) {
        sh->send = scratch(s, travels, sh->total);
        s->dev->k->copy(s->dev, &sh->send, &sh->whole_grad);
    }
    if (!as_it_is || sh->summed) sh->received = scratch(s, travels, sh->numel);
    Tensor *into = sh->received.storage ? &sh->received : &sh->grad;
    sh->reducing =
        comm_reduce_scatter(s->run, s->dev, into, as_it_is ? &sh->whole_grad : &sh->send);
    if (s->across) sh->reducing = comm_all_reduce(s->across, s->dev, into);
}

/* Adds what came to `grad`. */
static void reduced(ShardSet *s, ParamShard *sh)
{
    comm_wait(s->comm, s->dev, sh->reducing);
    sh->reducing = 0;
    if (sh->received.storage && !sh->summed) {
        s->dev->k->copy(s->dev, &sh->grad, &sh->received);
    } else if (sh->received.storage && sh->received.dtype != sh->grad.dtype) {
        Tensor same = scratch(s, sh->grad.dtype, sh->numel);
        s->dev->k->copy(s->dev, &same, &sh->received);
        s->dev->k->axpy(s->dev, &sh->grad, 1, &same);
        tensor_clear(&same);
    } else if (sh->received.storage) {
        s->dev->k->axpy(s->dev, &sh->grad, 1, &sh->received);
    }
    sh->summed = true;
    tensor_clear(&sh->send);
    tensor_clear(&sh->received);
}

static void free_grads(ParamShard *sh)
{
    storage_unref(sh->whole_grad.storage);
    sh->whole_grad.storage = NULL;
    if (!sh->split) sh->grad.storage = NULL;
    shard_bind_grads(sh);
}

/* The buffer of a gradient that goes to the host is freed when the next one goes: until then its way hides behind the
 * backward pass of the unit before. */
static void let_go(ShardSet *s)
{
    ParamShard *sh = s->left;
    if (!sh) return;
    device_await(s->dev, s->dev, sh->leaving);
    free_grads(sh);
    s->left = NULL;
}

/* So is that of a reduction under way when the next one starts; the pass's last one hides behind what the optimizer does
 * meanwhile. */
static void settle(ShardSet *s)
{
    ParamShard *sh = s->pending;
    if (!sh) return;
    ASSERT(!s->opts.in_backward || !sh->summed, "unit %d: a second backward pass", sh->unit);
    reduced(s, sh);
    sh->leaving = s->done ? s->done(s->done_ud, sh) : 0;
    let_go(s);
    if (sh->leaving > 0 && !sh->split)
        s->left = sh;
    else
        free_grads(sh); /* a split one's sum has a place of its own */
    s->pending = NULL;
}

static void close_grads(ShardSet *s, ParamShard *sh, const char *name)
{
    if (!sh->whole_grad.storage || !shard_reduces_early(s, sh)) return;
    settle(s);
    zero_unreached(s, sh);
    reduce(s, sh, name);
    s->pending = sh;
    if (s->comm->size == 1) settle(s); /* nothing is under way */
}

void shards_begin_step(ShardSet *s)
{
    ASSERT(s->opts.in_backward == (s->done != NULL), "who takes the gradients?");
    s->sent_ahead = 0;
    for (int i = 0; i < s->n; i++) {
        ParamShard *sh = &s->items[i];
        sh->summed = false;
        for (int k = 0; k < sh->n_params; k++)
            sh->params[k]->t.grad_written = false;
    }
}

/* What stays whole, in pieces of a size that any kind of Comm takes; returns the last one's call. */
static int64_t sum_together(ShardSet *s)
{
    enum { MOST = 1 << 26 }; /* elements: 256 MiB of f32 */
    int64_t n = tensor_numel(&s->together), call = 0;
    s->comm->of = "gradients";
    for (int64_t at = 0; at < n; at += MOST) {
        ShardRange piece = {.offset = at, .numel = n - at < MOST ? n - at : MOST};
        Tensor t = shard_view(&s->together, &piece);
        call = comm_all_reduce(s->comm, s->dev, &t);
    }
    return call;
}

/* Units whose gradients go in the passes and that none has reached. */
static void finish_early(ShardSet *s, ParamShard *sh)
{
    if (sh->summed) return;
    if (!s->opts.in_backward) {
        tensor_zero(s->dev, &sh->grad);
        return;
    }
    open_grads(s, sh);
    close_grads(s, sh, "gradients");
}

void shards_finish_grads(ShardSet *s)
{
    /* all at once on their way, then in turn */
    size_t sent = s->comm->sent_bytes;
    for (int i = 0; i < s->n; i++) {
        ParamShard *sh = &s->items[i];
        if (!sh->trained || shard_reduces_early(s, sh)) continue;
        zero_unreached(s, sh);
        if (sh->split) reduce(s, sh, "gradients");
    }
    int64_t together = s->together.storage ? sum_together(s) : 0;
    settle(s);
    for (int i = 0; i < s->n; i++)
        if (s->items[i].trained && shard_reduces_early(s, &s->items[i]))
            finish_early(s, &s->items[i]);
    settle(s);
    let_go(s);
    s->sent_uncovered = s->comm->sent_bytes - sent;
    for (int i = 0; i < s->n; i++)
        if (s->items[i].reducing) reduced(s, &s->items[i]);
    comm_wait(s->comm, s->dev, together);
}

/* ---- after the optimizer ------------------------------------------------------------------------ */

static bool reads(const ShardUse *u, const ParamShard *sh)
{
    for (int i = 0; i < u->n_units; i++)
        if (u->units[i] == sh->unit) return true;
    return false;
}

void shard_updated(ShardSet *s, ParamShard *sh)
{
    for (int k = 0; k < sh->n_params && sh->trained; k++)
        param_changed(sh->params[k]);
    size_t sent = s->comm->sent_bytes;
    if (sh->comes_and_goes) {
        /* nothing else hides the first gather of a pass */
        if (s->n_uses > 0 && s->opts.ahead > 0 && reads(&s->uses[0], sh))
            gather(s, sh, s->uses[0].name);
        s->sent_ahead += s->comm->sent_bytes - sent;
        return;
    }
    if (!sh->trained || !sh->split) return;
    s->comm->of = "parameters";
    sh->gathering = comm_all_gather(s->run, s->dev, &sh->whole, &sh->weights);
    /* whoever has no hook to wait where a unit is used waits here */
    if (s->n_uses == 0) shard_await(s, sh);
}

void shard_follow_master(ShardSet *s, ParamShard *sh)
{
    if (sh->master.storage && sh->master.storage != sh->weights.storage)
        transfer_copy(s->dev, &sh->weights, &sh->master);
}

void shards_updated(ShardSet *s)
{
    shard_close_open(s);
    for (int i = 0; i < s->n; i++) {
        shard_follow_master(s, &s->items[i]);
        shard_updated(s, &s->items[i]);
    }
}

/* ---- hooks ------------------------------------------------------------------------------------ */

typedef void Each(ShardSet *s, ParamShard *sh, const char *name);

static void each(const ShardUse *u, Each *fn)
{
    ShardSet *s = u->set;
    for (int i = 0; i < u->n_units; i++)
        for (int k = s->units[u->units[i]]; k < s->units[u->units[i] + 1]; k++)
            fn(s, &s->items[k], u->name);
}

static void do_release(ShardSet *s, ParamShard *sh, const char *name)
{
    (void)name;
    shard_release(s, sh);
}

static void do_open_grads(ShardSet *s, ParamShard *sh, const char *name)
{
    (void)name;
    open_grads(s, sh);
}

/* A unit that two segments read (a tied embedding) is complete after the second one's backward pass. */
static void count_backward(ShardSet *s, ParamShard *sh, const char *name)
{
    if (--sh->backwards <= 0) close_grads(s, sh, name);
}

/* Gathers what comes next in the pass: forward, then back from the last but one, for the last stays, to the first with
 * something trained. */
static void look_ahead(ShardUse *u, bool backward)
{
    ShardSet *s = u->set;
    int i = u->index;
    for (int k = 0; k < s->opts.ahead; k++) {
        if (!backward && i + 1 == s->n_uses) {
            if (!s->training) return;
            backward = true;
        }
        i += backward ? -1 : 1;
        if (i < 0 || (backward && (i < s->first_trained || s->uses[i].blind))) return;
        each(&s->uses[i], gather);
    }
}

static void enter_forward(void *ud)
{
    ShardUse *u = ud;
    ShardSet *s = u->set;
    each(u, shard_need);
    look_ahead(u, false);
    if (u->hold && s->training)
        each(u, do_open_grads); /* what follows it has its gradient at once */
}

static void leave_forward(void *ud)
{
    ShardUse *u = ud;
    if (!u->hold) each(u, do_release);
}

static void enter_backward(void *ud)
{
    ShardUse *u = ud;
    if (!u->blind) each(u, shard_need);
    look_ahead(u, true);
    each(u, do_open_grads);
}

static void leave_backward(void *ud)
{
    ShardUse *u = ud;
    each(u, do_release);
    each(u, count_backward);
}

static const SegmentHooks hooks = {enter_forward, leave_forward, enter_backward, leave_backward};

void shards_watch(ShardSet *s, Segment *const *segments, const ShardUse *uses, int n)
{
    bool any = false;
    for (int i = 0; i < s->n; i++)
        any |= moves(s, &s->items[i]);
    if (!any) return;
    s->uses = xcalloc((size_t)n, sizeof *s->uses);
    s->n_uses = s->first_trained = n;
    for (int i = n - 1; i >= 0; i--) {
        if (segments[i]->trained) s->first_trained = i;
        s->uses[i] = uses[i];
        s->uses[i].set = s;
        s->uses[i].index = i;
        segments[i]->hooks = &hooks;
        segments[i]->hooks_ud = &s->uses[i];
    }
}

bool shards_meet(const ShardSet *s)
{
    for (int i = 0; i < s->n; i++)
        if ((s->items[i].comes_and_goes && s->items[i].split) ||
            shard_reduces_early(s, &s->items[i]))
            return true;
    return false;
}

void shards_begin_pass(ShardSet *s, bool training)
{
    shard_close_open(s);
    settle(s);
    let_go(s);
    s->training = training;
    for (int i = 0; i < s->n; i++)
        s->items[i].backwards = 0;
    for (int i = 0; i < s->n_uses; i++)
        for (int k = 0; k < s->uses[i].n_units; k++) {
            int unit = s->uses[i].units[k];
            for (int j = s->units[unit]; j < s->units[unit + 1]; j++)
                s->items[j].backwards++;
        }
}

void shards_end_pass(ShardSet *s)
{
    shard_close_open(s);
    for (int i = s->n - 1; i >= 0; i--) {
        shard_await(s, &s->items[i]);
        shard_release(s, &s->items[i]);
        if (s->items[i].whole_grad.storage && &s->items[i] != s->pending && &s->items[i] != s->left)
            close_grads(s, &s->items[i], "what no backward pass reached");
    }
    s->training = false;
}

/* The hooks as a pass calls them: backward ends at the first segment with something trained. */
void shards_idle_pass(ShardSet *s)
{
    shards_begin_pass(s, true);
    for (int i = 0; i < s->n_uses; i++) {
        enter_forward(&s->uses[i]);
        leave_forward(&s->uses[i]);
    }
    for (int i = s->n_uses - 1; i >= s->first_trained; i--) {
        enter_backward(&s->uses[i]);
        leave_backward(&s->uses[i]);
    }
    shards_end_pass(s);
}
