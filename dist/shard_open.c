/* Parameters outside of passes: whoever reads or writes their values finds them whole between param_open and
 * param_close, wherever they live. */
#include "dist/shard_impl.h"

#include "base/str.h"
#include "tensor/transfer.h"

#include <stdlib.h>

static ParamShard *shard_of(ShardSet *s, const Param *p)
{
    for (int i = s->units[p->unit]; i < s->units[p->unit + 1]; i++)
        for (int k = 0; k < s->items[i].n_params; k++)
            if (s->items[i].params[k] == p) return &s->items[i];
    ASSERT(false, "%s is in no shard", p->name);
    return NULL;
}

/* What rank 0 tells the others: the shard to gather, or that it is done. */
static void tell(ShardSet *s, int32_t shard)
{
    int32_t *all = xmalloc((size_t)s->comm->size * sizeof *all);
    comm_exchange(s->comm, all, &shard, sizeof shard);
    free(all);
}

/* The master copies' low halves, whole. */
static void gather_low(ShardSet *s, ParamShard *sh)
{
    if (!sh->low.storage || !sh->params[0]->home) return;
    sh->whole_low.storage = storage_new(s->dev, tensor_bytes(&sh->whole_low), MEM_COMM);
    int64_t came;
    Tensor part = shard_bring_part(s, sh, &sh->whole_low, &sh->low, &came);
    s->comm->of = "master copies";
    if (sh->split) came = comm_all_gather(s->run, s->dev, &sh->whole_low, &part);
    comm_wait(s->comm, s->dev, came);
    shard_bind_low(sh, &sh->whole_low);
}

static void open_shard(ShardSet *s, ParamShard *sh)
{
    shard_follow_master(s, sh);
    shard_need(s, sh, "parameters");
    gather_low(s, sh);
    s->open = sh;
}

/* This rank's part of a whole. */
static void keep_part(ShardSet *s, const ParamShard *sh, Tensor *part, const Tensor *whole)
{
    if (!part->storage || part->storage == whole->storage) return;
    Tensor from = shard_view(whole, &(ShardRange){.offset = sh->first, .numel = sh->numel});
    transfer_copy(s->dev, part, &from);
}

static void keep_parts(ShardSet *s, ParamShard *sh)
{
    keep_part(s, sh, &sh->weights, &sh->whole);
    if (sh->master.storage != sh->weights.storage) keep_part(s, sh, &sh->master, &sh->whole);
    if (sh->whole_low.storage) keep_part(s, sh, &sh->low, &sh->whole_low);
}

void shard_close_open(ShardSet *s)
{
    ParamShard *sh = s->open;
    if (!sh) return;
    if (s->changed) keep_parts(s, sh);
    if (s->changed && s->opts.host)
        s->dev->backend->sync(s->dev); /* the host may write there next */
    s->changed = false;
    if (sh->whole_low.storage) {
        shard_bind_low(sh, &(Tensor){0});
        storage_unref(sh->whole_low.storage);
        sh->whole_low.storage = NULL;
    }
    s->open = NULL;
    shard_release(s, sh);
}

/* Only one is open at a time: neighbours in a file are mostly in one unit. */
void shard_home_open(void *ud, Param *p)
{
    ShardSet *s = ud;
    ParamShard *sh = shard_of(s, p);
    if (sh == s->open) return;
    if (s->leading) tell(s, (int32_t)(sh - s->items));
    shard_close_open(s);
    open_shard(s, sh);
}

void shard_home_close(void *ud, Param *p, bool changed)
{
    ShardSet *s = ud;
    if (!changed) return;
    ParamShard *sh = s->open;
    ASSERT(sh && sh == shard_of(s, p), "%s is not open", p->name);
    s->changed = true;
}

/* A slice's rows as they lie in the whole: `cols` numbers each, every `pitch` elements, from `start`; this rank has elements
 * [begin, end) of them. */
typedef struct Rows {
    const ParamShard *sh;
    int64_t start, rows, cols, pitch, begin, end;
} Rows;

static Tensor piece_of(const Tensor *part, const Rows *w, int64_t at, int64_t rows, int64_t cols)
{
    if (!part->storage) return (Tensor){0};
    Tensor t =
        tensor_shape(part->dtype, rows > 1 ? 2 : 1, (int64_t[]){rows > 1 ? rows : cols, cols});
    if (rows > 1) t.ld = w->pitch;
    t.storage = part->storage;
    t.offset = part->offset + (size_t)(w->start + at - w->sh->first) * dtype_bytes(part->dtype);
    return t;
}

/* Rows [row, row + rows) from column `col` on, `cols` of them. */
static int add_piece(ParamPiece *out, const Rows *w, int64_t row, int64_t rows, int64_t col,
                     int64_t cols)
{
    if (rows <= 0 || cols <= 0) return 0;
    int64_t at = row * w->pitch + col;
    const Tensor *values = w->sh->trained ? &w->sh->master : &w->sh->weights;
    *out = (ParamPiece){piece_of(values, w, at, rows, cols),
                        piece_of(&w->sh->low, w, at, rows, cols), row * w->cols + col};
    return 1;
}

static int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

int shard_home_pieces(void *ud, Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES])
{
    ShardSet *s = ud;
    const ParamShard *sh = shard_of(s, p);
    int i = 0, n = 0;
    if (sh == s->open) shard_close_open(s); /* what was written to the whole comes first */
    while (sh->params[i] != p)
        i++;
    bool dense = tensor_is_dense(&p->t); /* one long row then */
    int64_t cols = p->t.n_dims == 2 ? tensor_cols(&p->t) : 1,
            pitch = p->t.n_dims == 2 ? p->t.ld : 1;
    Rows w = {.sh = sh,
              .start = sh->offsets[i] + p->slices[slice].row0 * pitch,
              .rows = dense ? 1 : p->slices[slice].rows,
              .cols = dense ? p->slices[slice].rows * cols : cols};
    w.pitch = dense ? w.cols : pitch;
    w.begin = sh->first > w.start ? sh->first - w.start : 0;
    w.end = at_most(sh->first + sh->numel - w.start, w.rows * w.pitch);
    if (w.begin >= w.end) return 0;
    int64_t row = w.begin / w.pitch, col = w.begin % w.pitch, last = w.end / w.pitch;
    if (col > 0) {
        n += add_piece(out, &w, row, 1, col, at_most(w.end - row * w.pitch, w.cols) - col);
        row++;
    }
    n += add_piece(out + n, &w, row, last - row, 0, w.cols);
    if (row <= last) n += add_piece(out + n, &w, last, 1, 0, at_most(w.end % w.pitch, w.cols));
    return n;
}

void shards_lead(ShardSet *s)
{
    shards_end_pass(s);
    s->leading = s->comm->size > 1;
}

void shards_dismiss(ShardSet *s)
{
    if (s->leading) tell(s, -1);
    s->leading = false;
    shards_end_pass(s);
}

void shards_follow(ShardSet *s)
{
    int32_t none = -1, *all = xmalloc((size_t)s->comm->size * sizeof *all);
    shards_end_pass(s);
    for (;;) {
        comm_exchange(s->comm, all, &none, sizeof none);
        if (all[0] < 0) break;
        shard_close_open(s);
        open_shard(s, &s->items[all[0]]);
    }
    free(all);
    shards_end_pass(s);
}
