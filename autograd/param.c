/* Names and slices of parameters; their storage comes from param_alloc or from a shard. */
#include "autograd/param.h"

#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdlib.h>

void param_init(Param *p, const char *name, DType dtype, int64_t rows, int64_t cols, int unit)
{
    int64_t shape[2] = {rows, cols};
    *p = (Param){.t = tensor_shape(dtype, cols ? 2 : 1, shape),
                 .name = xstrdup(name),
                 .n_slices = 1,
                 .unit = unit,
                 .decay = cols != 0,
                 .lr_scale = 1};
    p->t.is_param = true;
    p->t.name = p->name;
    p->slices[0] = (ParamSlice){xstrdup(name), 0, rows, DT_F32};
}

static void slices_clear(Param *p)
{
    for (int i = 0; i < p->n_slices; i++)
        free(p->slices[i].name);
    p->n_slices = 0;
}

void param_set_slices(Param *p, int n, const char *const *names, const int64_t *rows)
{
    ASSERT(n >= 1 && n <= PARAM_MAX_SLICES, "%s: %d slices", p->name, n);
    slices_clear(p);
    int64_t row0 = 0;
    for (int i = 0; i < n; i++) {
        p->slices[i] = (ParamSlice){xstrdup(names[i]), row0, rows[i], DT_F32};
        row0 += rows[i];
    }
    p->n_slices = n;
    ASSERT(row0 == p->t.shape[0], "%s: slices cover %lld of %lld rows", p->name, (long long)row0,
           (long long)p->t.shape[0]);
}

void param_clear(Param *p)
{
    slices_clear(p);
    free(p->name);
    free(p->twin);
    storage_unref(p->t.storage);
    storage_unref(p->low.storage);
    if (p->t.quant) tensor_clear(&p->t.quant->packed);
    free(p->host);
    *p = (Param){0};
}

void param_alloc(Device *d, Param *p)
{
    ASSERT(!param_is_there(p), "%s has a storage", p->name);
    if (p->on_host) {
        p->host = xcalloc((size_t)tensor_numel(&p->t), dtype_bytes(p->t.dtype));
        return;
    }
    if (p->t.quant) {
        Tensor *packed = &p->t.quant->packed;
        packed->storage = storage_new(d, tensor_bytes(packed), MEM_WEIGHT);
        d->backend->zero(d, packed->storage->data, tensor_bytes(packed));
        return;
    }
    size_t row = (size_t)p->t.ld * dtype_bytes(p->t.dtype);
    size_t bytes = tensor_bytes(&p->t) + (size_t)p->room * row;
    p->t.storage = storage_new(d, bytes, p->adapter ? MEM_ADAPTER : MEM_WEIGHT);
    p->t.offset = 0;
    if (p->room > 0 || !tensor_is_dense(&p->t)) d->backend->zero(d, p->t.storage->data, bytes);
}

void param_set_room(Param *p, int64_t rows, int64_t cols)
{
    ASSERT(!p->t.storage && p->t.n_dims == 2, "%s has a storage or is no matrix", p->name);
    p->room = rows;
    p->t.ld = p->t.shape[1] + cols;
    if (p->t.quant) p->t.quant->room = rows;
}

void param_set_quant(Param *p, Quant *q)
{
    ASSERT(!param_is_there(p) && !p->trained, "%s has a storage or is trained", p->name);
    ASSERT(q->n_parts == p->n_slices && q->n_parts <= QUANT_MAX_PARTS, "%s: %d parts", p->name,
           q->n_parts);
    size_t bytes = 0;
    for (int i = 0; i < q->n_parts; i++) {
        ASSERT(q->parts[i].rows == p->slices[i].rows && q->parts[i].cols == p->t.shape[1],
               "%s: part %d does not fit", p->name, i);
        quant_place(&q->parts[i], &bytes);
    }
    int64_t n = (int64_t)bytes;
    q->packed = tensor_shape(DT_U8, 1, &n);
    q->packed.name = p->name;
    q->room = p->room;
    p->t.quant = q;
}

void param_set_on_host(Param *p)
{
    ASSERT(!param_is_there(p) && !p->trained && !p->t.quant && p->room == 0,
           "%s has a storage, is trained, quantised or has room", p->name);
    p->on_host = true;
}

bool param_is_there(const Param *p)
{
    return p->t.storage || p->host || (p->t.quant && p->t.quant->packed.storage);
}

static Tensor slice_scratch(Device *d, const Param *p, int slice)
{
    const QuantPart *q = &p->t.quant->parts[slice];
    return tensor_alloc(d, p->t.dtype, 2, (int64_t[]){q->rows, q->cols}, MEM_WORKSPACE);
}

Tensor param_slice_begin(Device *d, Param *p, int slice)
{
    ASSERT(!p->on_host, "%s is on the host", p->name);
    return p->t.quant ? slice_scratch(d, p, slice) : param_slice_view(p, slice);
}

void param_slice_end(Device *d, Param *p, int slice, Tensor *values)
{
    Quant *q = p->t.quant;
    if (!q) return;
    const QuantPart *part = &q->parts[slice];
    int64_t one = 1;
    Tensor sums[2] = {tensor_shape(DT_F32, 1, &one), tensor_shape(DT_F32, 1, &one)};
    for (int i = 0; i < 2; i++) {
        sums[i].storage = q->packed.storage;
        sums[i].offset = q->packed.offset + part->sums + (size_t)i * sizeof(float);
    }
    d->k->quantize(d, &q->packed, part, values);
    d->k->sum_squares(d, &sums[0], 0, values);
    Tensor decoded = slice_scratch(d, p, slice);
    d->k->dequantize(d, &decoded, &q->packed, part, 1);
    d->k->axpy(d, &decoded, -1, values);
    d->k->sum_squares(d, &sums[1], 0, &decoded);
    tensor_clear(&decoded);
    tensor_clear(values);
}

void param_open(Param *p)
{
    if (p->home) p->home->open(p->home->ud, p);
}

void param_close(Param *p, bool changed)
{
    if (p->home) p->home->close(p->home->ud, p, changed);
}

int param_pieces(Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES])
{
    ASSERT(!p->t.quant, "%s has codes", p->name);
    if (p->home) return p->home->pieces(p->home->ud, p, slice, out);
    out[0] = (ParamPiece){param_slice_view(p, slice), param_slice_low(p, slice), 0};
    return 1;
}

void param_changed(Param *p)
{
    p->version++;
}

static Tensor slice_of(const Tensor *t, const ParamSlice *s)
{
    if (t->n_dims == 2) return tensor_slice_rows(t, s->row0, s->rows);
    Tensor v = *t;
    v.offset += (size_t)s->row0 * dtype_bytes(v.dtype);
    v.shape[0] = v.ld = s->rows;
    return v;
}

Tensor param_slice_view(const Param *p, int slice)
{
    return slice_of(&p->t, &p->slices[slice]);
}

Tensor param_slice_low(const Param *p, int slice)
{
    return p->low.storage ? slice_of(&p->low, &p->slices[slice]) : (Tensor){0};
}

int64_t param_slice_numel(const Param *p, int slice)
{
    return p->slices[slice].rows * (p->t.n_dims == 2 ? p->t.shape[1] : 1);
}

void *param_host_slice(const Param *p, int slice)
{
    ASSERT(p->host, "%s has no values yet", p->name);
    int64_t cols = p->t.n_dims == 2 ? p->t.shape[1] : 1;
    return (char *)p->host + (size_t)(p->slices[slice].row0 * cols) * dtype_bytes(p->t.dtype);
}

void param_read(Device *d, const Param *p, int slice, float *host)
{
    const Quant *q = p->t.quant;
    if (p->on_host) {
        convert_to_f32(host, param_host_slice(p, slice), p->t.dtype, param_slice_numel(p, slice));
        return;
    }
    if (q) {
        Tensor values = slice_scratch(d, p, slice);
        d->k->dequantize(d, &values, &q->packed, &q->parts[slice], 1);
        tensor_read_f32(d, &values, host);
        tensor_clear(&values);
        return;
    }
    Tensor view = param_slice_view(p, slice), low = param_slice_low(p, slice);
    if (!low.storage) {
        tensor_read_f32(d, &view, host);
        return;
    }
    int64_t n = param_slice_numel(p, slice);
    uint16_t *hi = xmalloc((size_t)n * sizeof *hi);
    int16_t *rest = xmalloc((size_t)n * sizeof *rest);
    tensor_read(d, &view, hi);
    tensor_read(d, &low, rest);
    convert_join(host, hi, rest, n);
    free(hi);
    free(rest);
}

static void host_row_norms(Device *d, const Param *p, int slice, float *norms)
{
    int64_t cols = p->t.shape[1];
    float *host = xmalloc((size_t)param_slice_numel(p, slice) * sizeof *host);
    param_read(d, p, slice, host);
    for (int64_t r = 0; r < p->slices[slice].rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < cols; i++)
            sum += (double)host[r * cols + i] * (double)host[r * cols + i];
        norms[r] = (float)sqrt(sum);
    }
    free(host);
}

void param_row_norms(Device *d, const Param *p, int slice, float *norms)
{
    const Quant *q = p->t.quant;
    if (p->on_host || p->low.storage) {
        host_row_norms(d, p, slice, norms);
        return;
    }
    Tensor values = q ? slice_scratch(d, p, slice) : param_slice_view(p, slice);
    if (q) d->k->dequantize(d, &values, &q->packed, &q->parts[slice], 1);
    Tensor out = tensor_alloc(d, DT_F32, 1, &p->slices[slice].rows, MEM_WORKSPACE);
    d->k->row_norms(d, &out, &values);
    tensor_read(d, &out, norms);
    tensor_clear(&out);
    if (q) tensor_clear(&values);
}

void param_write(Device *d, Param *p, int slice, const float *host)
{
    if (p->on_host) {
        convert_from_f32(param_host_slice(p, slice), p->t.dtype, host, param_slice_numel(p, slice));
        return;
    }
    Tensor low = param_slice_low(p, slice);
    Tensor view = param_slice_begin(d, p, slice);
    if (!low.storage) {
        tensor_write_f32(d, &view, host);
        param_slice_end(d, p, slice, &view);
        return;
    }
    int64_t n = param_slice_numel(p, slice);
    uint16_t *hi = xmalloc((size_t)n * sizeof *hi);
    int16_t *rest = xmalloc((size_t)n * sizeof *rest);
    convert_split(hi, rest, host, n);
    tensor_write(d, &view, hi);
    tensor_write(d, &low, rest);
    free(hi);
    free(rest);
}

void param_set_trained(Param *p, bool trained)
{
    p->trained = p->t.needs_grad = trained;
}

void paramset_add(ParamSet *s, Param *p)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->items = xrealloc(s->items, (size_t)s->cap * sizeof(Param *));
    }
    s->items[s->n++] = p;
}

void paramset_clear(ParamSet *s)
{
    free(s->items);
    *s = (ParamSet){0};
}

Param *paramset_find(const ParamSet *s, const char *slice_name, int *slice)
{
    for (int i = 0; i < s->n; i++)
        for (int j = 0; j < s->items[i]->n_slices; j++)
            if (str_eq(s->items[i]->slices[j].name, slice_name)) {
                *slice = j;
                return s->items[i];
            }
    return NULL;
}
