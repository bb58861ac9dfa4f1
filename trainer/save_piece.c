#include "trainer/save_piece.h"

#include "base/str.h"
#include "tensor/convert.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 18 }; /* numbers that are converted and written at once */

/* The arrays of a shard that are saved, as they lie on the device: weights, what they lack of their masters, and those of
 * the states by their names in the file. */
enum { WEIGHTS = STATE_MASTER, LOW = STATE_ARRAYS, N_ARRAYS };

/* Beside elements [begin, begin + n); no storage: there is none. */
static Tensor array_view(const ParamShard *sh, SaveParts parts, int a, int64_t begin, int64_t n)
{
    ShardRange part = {.offset = begin, .numel = n};
    if (a == WEIGHTS) return shard_view(&sh->master, &part);
    if (a == LOW) return sh->low.storage ? shard_view(&sh->low, &part) : (Tensor){0};
    return parts == SAVE_ALL ? state_view(sh, a, begin, n) : (Tensor){0};
}

static size_t array_bytes(const ParamShard *sh, const ShardRange *r, SaveParts parts, int a,
                          int64_t n)
{
    Tensor t = array_view(sh, parts, a, r->offset, 1);
    int64_t numel = a == LOW ? n : state_array_numel(a, n);
    return t.storage ? (size_t)numel * dtype_bytes(t.dtype) : 0;
}

size_t save_piece_bytes(const ParamShard *sh, const ShardRange *r, SaveParts parts, int64_t n)
{
    size_t bytes = 0;
    for (int a = 0; a < N_ARRAYS; a++)
        bytes += array_bytes(sh, r, parts, a, n);
    return (bytes + 7) / 8 * 8;
}

/* Array a lies behind those before it here, the wider ones first so that each is aligned. */
static char *array_data(const SavePiece *p, SaveParts parts, int a)
{
    static const int order[2][N_ARRAYS] = {
        {STATE_M, STATE_V, STATE_M_ABSMAX, STATE_V_ABSMAX, WEIGHTS, LOW},
        {STATE_M_ABSMAX, STATE_V_ABSMAX, WEIGHTS, LOW, STATE_M, STATE_V}};
    const int *in_order =
        order[states_run(&p->shard->states, p->range->offset)->format == STATES_INT8];
    char *at = p->data;
    for (int i = 0; in_order[i] != a; i++)
        at += array_bytes(p->shard, p->range, parts, in_order[i], p->n);
    return at;
}

/* ---- reading ---------------------------------------------------------------------------------- */

void save_pieces_each(const ShardSet *s, SavePieceFn *fn, void *ud)
{
    for (int i = 0; i < s->n; i++) {
        const ParamShard *sh = &s->items[i];
        int64_t from, share;
        shard_share(s, sh, &from, &share);
        for (int k = 0; k < sh->n_ranges; k++) {
            const ShardRange *r = &sh->ranges[k];
            int64_t first = from > r->offset ? from - r->offset : 0;
            int64_t end = from + share - r->offset < r->numel ? from + share - r->offset : r->numel;
            while (first < end)
                first += fn(ud, sh, r, first, end - first);
        }
    }
}

void save_piece_read(Device *d, const SavePiece *p, SaveParts parts)
{
    for (int a = 0; a < N_ARRAYS; a++) {
        Tensor t = array_view(p->shard, parts, a, p->range->offset + p->first, p->n);
        if (!t.storage) continue;
        Device *at = t.storage->dev; /* d, or one of host memory */
        at->backend->copy(at, array_data(p, parts, a), tensor_data(&t), tensor_bytes(&t),
                          COPY_FROM_DEVICE);
    }
}

/* ---- writing ---------------------------------------------------------------------------------- */

/* Where a piece goes and what is needed on the way. */
typedef struct Writer {
    const SavePiece *piece;
    SaveFiles *files;
    SaveParts parts;
    const SavePlace *places;
    float *master; /* (BLOCK) */
    void *rounded; /* BLOCK numbers of the weights' dtype */
} Writer;

/* What belongs to numbers [at, at + n) of the piece. */
static Status write_array(const Writer *w, int place, int64_t at, int64_t n, const void *data,
                          Err *err)
{
    const SavePiece *p = w->piece;
    bool blocks = place == STATE_M_ABSMAX || place == STATE_V_ABSMAX;
    int64_t first = p->range->first + p->first + at;
    return save_files_write(w->files, &w->places[place], blocks ? first / STATES_BLOCK : first,
                            blocks ? state_array_numel(place, n) : n, data, err);
}

/* Master copies [at, at + n) of the piece. */
static const float *master_of(const Writer *w, int64_t at, int64_t n)
{
    const SavePiece *p = w->piece;
    const char *weights = array_data(p, w->parts, WEIGHTS);
    if (!p->shard->low.storage) return (const float *)(const void *)weights + at;
    convert_join(w->master, (const uint16_t *)(const void *)weights + at,
                 (const int16_t *)(const void *)array_data(p, w->parts, LOW) + at, n);
    return w->master;
}

/* Numbers [first, first + n) of the twin, in the weights' dtype, in fresh memory. */
static char *twin_of(const Writer *w, int64_t first, int64_t n)
{
    DType dtype = w->places[SAVE_AS_WEIGHTS].dtype;
    char *out = xmalloc((size_t)n * dtype_bytes(dtype));
    convert_from_f32(out, dtype, w->piece->range->param->twin + first, n);
    return out;
}

/* Numbers of a matrix whose twin stands beside it: whole rows of both at once, or what there is of one. */
static Status write_beside(const Writer *w, int64_t first, int64_t n, const char *data, Err *err)
{
    const SavePlace *place = &w->places[SAVE_AS_WEIGHTS];
    int64_t cols = tensor_cols(&w->piece->range->param->t), col = first % cols;
    size_t e = dtype_bytes(place->dtype);
    char *twin = twin_of(w, first, n), *rows = xmalloc(2 * (size_t)n * e);
    Status s = OK;
    for (int64_t i = 0, step; i < n && s == OK; i += step, col = 0) {
        int64_t at = 2 * (first + i) - col; /* of the row, and the column in it */
        step = n - i < cols - col ? n - i : cols - col;
        if (step < cols) {
            s = save_files_write(w->files, place, at, step, data + (size_t)i * e, err);
            if (s == OK)
                s = save_files_write(w->files, place, at + cols, step, twin + (size_t)i * e, err);
            continue;
        }
        step = (n - i) / cols * cols;
        size_t width = (size_t)cols * e;
        for (int64_t k = 0; k < step / cols; k++) {
            size_t from = (size_t)(i + k * cols) * e;
            memcpy(rows + 2 * (size_t)k * width, data + from, width);
            memcpy(rows + (2 * (size_t)k + 1) * width, twin + from, width);
        }
        s = save_files_write(w->files, place, at, 2 * step, rows, err);
    }
    free(twin);
    free(rows);
    return s;
}

/* The weights as others read them, with what stands below or beside them there (Param.twin). */
static Status write_weights(const Writer *w, int64_t at, int64_t n, const void *data, Err *err)
{
    const SavePiece *p = w->piece;
    const Param *param = p->range->param;
    int64_t first = p->range->first + p->first + at;
    if (param->twin && param->twin_beside) return write_beside(w, first, n, data, err);
    TRY(write_array(w, SAVE_AS_WEIGHTS, at, n, data, err));
    if (!param->twin) return OK;
    char *twin = twin_of(w, first, n);
    Status s = save_files_write(w->files, &w->places[SAVE_AS_WEIGHTS],
                                tensor_numel(&param->t) + first, n, twin, err);
    free(twin);
    return s;
}

static Status write_block(const Writer *w, int64_t at, int64_t n, Err *err)
{
    const float *master = master_of(w, at, n);
    DType dtype = w->places[SAVE_AS_WEIGHTS].dtype;
    if (w->parts == SAVE_ALL) TRY(write_array(w, STATE_MASTER, at, n, master, err));
    if (dtype == DT_F32) return write_weights(w, at, n, master, err);
    convert_from_f32(w->rounded, dtype, master, n);
    return write_weights(w, at, n, w->rounded, err);
}

Status save_piece_write(const SavePiece *p, SaveFiles *f, SaveParts parts, Err *err)
{
    int slice = state_tensors_slice(&f->tensors, p->range->param, p->range->slice);
    int n_arrays = f->tensors.first[slice + 1] - f->tensors.first[slice];
    int64_t most = p->n < BLOCK ? p->n : BLOCK;
    Writer w = {p,
                f,
                parts,
                f->places[slice],
                xmalloc((size_t)most * sizeof(float)),
                xmalloc((size_t)most * sizeof(float))};
    Status s = OK;
    for (int64_t at = 0; at < p->n && s == OK; at += BLOCK)
        s = write_block(&w, at, p->n - at < BLOCK ? p->n - at : BLOCK, err);
    for (int i = STATE_M; i < n_arrays && s == OK && parts == SAVE_ALL; i++)
        s = write_array(&w, i, 0, p->n, array_data(p, parts, i), err);
    free(w.master);
    free(w.rounded);
    return s;
}
