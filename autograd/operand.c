/* Decoding around products, and ahead of them. */
#include "autograd/operand.h"

#include "autograd/param.h"
#include "base/str.h"

#include <stdlib.h>

typedef struct Decoded {
    const Tensor *w; /* NULL: nothing is here */
    Tensor values;   /* with a storage of its own */
    uint64_t room_version;
    int64_t
        event; /* when it is decoded, where that is on another stream and nobody has waited yet; else 0 */
    bool open;
} Decoded;

struct Operands {
    Device *dev;
    bool ahead;
    Decoded *items;
    int n;
    const Tensor **order;     /* of a pass */
    int64_t n_order, cap, at; /* at: what is expected next */
};

/* ---- decoding ----------------------------------------------------------------------------------- */

static Tensor values_shape(const Tensor *w)
{
    int64_t shape[2] = {tensor_rows(w) + w->quant->room, tensor_cols(w)};
    Tensor t = tensor_shape(w->dtype, 2, shape);
    t.ld = w->ld;
    t.name = w->name;
    return t;
}

/* Into a storage that has the room, too. */
static void decode(Device *d, Tensor *values, const Tensor *w)
{
    const Quant *q = w->quant;
    values->shape[0] = tensor_rows(w);
    d->k->dequantize(d, values, &q->packed, q->parts, q->n_parts);
}

static Tensor *decode_in_scope(Ctx *c, const Tensor *w)
{
    Tensor t = values_shape(w);
    Tensor *values = scope_tensor(c->scope, t.dtype, 2, t.shape, t.ld, MEM_WORKSPACE);
    values->name = w->name;
    decode(c->dev, values, w);
    return values;
}

/* ---- what is there ------------------------------------------------------------------------------ */

static void await(Operands *o, Decoded *x)
{
    device_await(o->dev, o->dev, x->event);
    x->event = 0;
}

static void drop(Operands *o, Decoded *x)
{
    await(o, x);
    tensor_clear(&x->values);
    *x = (Decoded){0};
}

static Decoded *find(const Operands *o, const Tensor *w)
{
    for (int i = 0; i < o->n; i++)
        if (o->items[i].w == w) return &o->items[i];
    return NULL;
}

static void make(Operands *o, Decoded *x, const Tensor *w)
{
    *x = (Decoded){.w = w, .values = values_shape(w)};
    x->values.storage = storage_new(o->dev, tensor_bytes(&x->values), MEM_WORKSPACE);
    decode(o->dev, &x->values, w);
}

/* ---- what will be asked for --------------------------------------------------------------------- */

void operands_expect(Operands *o, const Tensor *w)
{
    if (o->n_order == o->cap) {
        o->cap = o->cap ? 2 * o->cap : 256;
        o->order = xrealloc(o->order, (size_t)o->cap * sizeof *o->order);
    }
    o->order[o->n_order++] = w;
}

/* Where w stands in the order from `at` on, or a little later where something was left out; the same again stays. */
static void follow(Operands *o, const Tensor *w)
{
    enum { LEFT_OUT = 8 };
    if (o->at > 0 && o->at <= o->n_order && o->order[o->at - 1] == w &&
        (o->at == o->n_order || o->order[o->at] != w))
        return;
    for (int64_t i = o->at; i < o->n_order && i < o->at + LEFT_OUT; i++)
        if (o->order[i] == w) {
            o->at = i + 1;
            return;
        }
}

/* The place of w among the matrices that come next, 0 for the first; n where it is not among the first n of them. */
static int place_of(const Operands *o, const Tensor *w, int n)
{
    const Tensor *seen[64];
    int n_seen = 0;
    for (int64_t i = o->at; i < o->n_order && o->order[i] && n_seen < n; i++) {
        int k = 0;
        while (k < n_seen && seen[k] != o->order[i])
            k++;
        if (k < n_seen) continue;
        if (o->order[i] == w) return n_seen;
        seen[n_seen++] = o->order[i];
    }
    return n;
}

/* A place for w: a free one, or that of what is needed last; NULL where all are open. */
static Decoded *place_for(Operands *o)
{
    Decoded *last = NULL;
    int last_place = -1;
    for (int i = 0; i < o->n; i++) {
        Decoded *x = &o->items[i];
        if (!x->w) return x;
        int place = x->open ? -1 : place_of(o, x->w, o->n);
        if (place > last_place) last = x, last_place = place;
    }
    if (last) drop(o, last);
    return last;
}

/* The first of the next ones that is not there yet, if there is a free place and its codes are there. */
static void look_ahead(Operands *o)
{
    Decoded *free_one = find(o, NULL);
    if (!free_one) return;
    for (int64_t i = o->at; i < o->n_order && o->order[i]; i++) {
        const Tensor *w = o->order[i];
        if (find(o, w)) continue;
        if (place_of(o, w, o->n) == o->n || !w->quant->packed.storage) return;
        int64_t now = device_record(o->dev);
        device_use_stream(o->dev, STREAM_AHEAD);
        device_await(o->dev, o->dev, now);
        make(o, free_one, w);
        free_one->event = device_record(o->dev);
        device_use_stream(o->dev, STREAM_COMPUTE);
        return;
    }
}

/* ---- passes ------------------------------------------------------------------------------------- */

Operands *operands_new(Device *d, int scratches, bool ahead)
{
    Operands *o = xcalloc(1, sizeof *o);
    ASSERT(scratches >= 1 && scratches <= 64, "%d scratches", scratches);
    *o = (Operands){.dev = d, .ahead = ahead, .n = scratches};
    o->items = xcalloc((size_t)scratches, sizeof *o->items);
    return o;
}

void operands_free(Operands *o)
{
    if (!o) return;
    operands_end(o);
    free(o->items);
    free(o->order);
    free(o);
}

void operands_begin(Operands *o)
{
    if (o) o->at = 0;
}

void operands_end(Operands *o)
{
    for (int i = 0; o && i < o->n; i++)
        if (o->items[i].w) drop(o, &o->items[i]);
}

void operands_settle(Operands *o)
{
    for (int i = 0; o && i < o->n; i++)
        await(o, &o->items[i]);
}

/* ---- one product -------------------------------------------------------------------------------- */

/* Events are remembered for a while only. */
static void await_old(Operands *o)
{
    for (int i = 0; i < o->n; i++)
        if (o->dev->n_events - o->items[i].event > DEVICE_EVENTS / 2) await(o, &o->items[i]);
}

Tensor *operand_open(Ctx *c, Tensor *w)
{
    if (!w->quant) return w;
    Operands *o = c->operands;
    if (!o) return decode_in_scope(c, w);
    follow(o, w);
    await_old(o);
    Decoded *x = find(o, w);
    if (x) {
        ASSERT(!x->open, "%s is open", w->name);
        await(o, x);
    } else {
        x = place_for(o);
        if (!x) return decode_in_scope(c, w);
        make(o, x, w);
    }
    x->open = true;
    if (o->ahead) look_ahead(o);
    return &x->values;
}

static Decoded *opened(const Ctx *c, const Tensor *values)
{
    const Operands *o = c->operands;
    for (int i = 0; o && i < o->n; i++)
        if (&o->items[i].values == values) return &o->items[i];
    return NULL;
}

void operand_close(Ctx *c, const Tensor *w, Tensor *values)
{
    if (values == w) return;
    Decoded *x = opened(c, values);
    if (!x) {
        scope_drop(c->scope, values);
        return;
    }
    x->open = false;
    if (place_of(c->operands, w, c->operands->n) == c->operands->n) drop(c->operands, x);
}

uint64_t *operand_room(Ctx *c, Tensor *values)
{
    if (values->is_param) return &((Param *)values)->room_version;
    Decoded *x = opened(c, values);
    return x ? &x->room_version : NULL;
}

Tensor *operand_copy(Ctx *c, Tensor *w)
{
    if (w->quant) return decode_in_scope(c, w);
    Tensor *values = rule_scratch(c, w->dtype, tensor_rows(w), tensor_cols(w));
    c->dev->k->copy(c->dev, values, w);
    return values;
}

bool operand_is_direct(const Ctx *c, const Tensor *w, int64_t n_rows)
{
    if (!w->quant) return false;
    ASSERT(!c->tape || w->quant->outliers == 0, "%s: outliers are apart in evaluation only",
           w->name);
    return !c->tape && (n_rows <= QUANT_MATVEC_ROWS || w->quant->outliers > 0);
}

void operand_matvec(Ctx *c, Tensor *y, const Tensor *add, const Tensor *x, const NormBefore *norm,
                    const Tensor *w)
{
    const Quant *q = w->quant;
    if (q->outliers == 0) {
        c->dev->k->quant_matvec(c->dev, y, add, x, norm, &q->packed, q->parts, q->n_parts);
        return;
    }
    if (norm) {
        c->dev->k->rmsnorm_fwd(c->dev, norm->y, norm->rstd, x, norm->w, norm->eps);
        x = norm->y;
    }
    int64_t row0 = 0;
    for (int i = 0; i < q->n_parts; i++) {
        int64_t rows = q->parts[i].rows;
        Tensor part = tensor_slice_cols(y, row0, rows);
        Tensor plus = add ? tensor_slice_cols(add, row0, rows) : (Tensor){0};
        c->dev->k->quant_mixed(c->dev, &part, add ? &plus : NULL, x, &q->packed, &q->parts[i],
                               q->outliers);
        row0 += rows;
    }
}
