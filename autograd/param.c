/* Names and slices of parameters; their storage comes from param_alloc or from a shard. */
#include "autograd/param.h"

#include "base/str.h"
#include "tensor/convert.h"

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
    p->slices[0] = (ParamSlice){xstrdup(name), 0, rows};
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
        p->slices[i] = (ParamSlice){xstrdup(names[i]), row0, rows[i]};
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
    storage_unref(p->t.storage);
    storage_unref(p->low.storage);
    *p = (Param){0};
}

void param_alloc(Device *d, Param *p)
{
    ASSERT(!p->t.storage, "%s has a storage", p->name);
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
}

void param_open(Param *p)
{
    if (p->home) p->home->open(p->home->ud, p);
}

void param_close(Param *p, bool changed)
{
    if (p->home) p->home->close(p->home->ud, p, changed);
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

void param_read(Device *d, const Param *p, int slice, float *host)
{
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

void param_write(Device *d, Param *p, int slice, const float *host)
{
    Tensor view = param_slice_view(p, slice), low = param_slice_low(p, slice);
    if (!low.storage) {
        tensor_write_f32(d, &view, host);
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
