/* Optimizer state by checkpoint tensor.  Written from one host buffer of the largest tensor. */
#include "trainer/state_file.h"

#include "base/fs.h"
#include "base/str.h"
#include "tensor/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { N_ARRAYS = 3 };

static const char *const array_names[N_ARRAYS] = {"master", "m", "v"};

typedef struct Entry {
    Tensor view; /* on the device; no storage: the master copy */
    const ShardRange *range;
    char *name;
    int64_t shape[2];
    int n_dims;
} Entry;

typedef struct Entries {
    Device *dev;
    Entry *items;
    SafeTensor *tensors;
    int n;
    int64_t largest; /* elements */
    float *buffer;
} Entries;

static void add(Entries *e, const ParamShard *sh, const ShardRange *r, int which)
{
    const Tensor *arrays[N_ARRAYS] = {NULL, &sh->m, &sh->v};
    const Param *p = r->param;
    Entry *x = &e->items[e->n++];
    *x = (Entry){.view = arrays[which] ? shard_view(arrays[which], r) : (Tensor){0},
                 .range = r,
                 .name = str_format("%s.%s", array_names[which], shard_range_name(r)),
                 .shape = {p->slices[r->slice].rows, p->t.n_dims == 1 ? 0 : tensor_cols(&p->t)},
                 .n_dims = p->t.n_dims};
    if (r->numel > e->largest) e->largest = r->numel;
}

static void entry_read(Entries *e, const Entry *x)
{
    if (x->view.storage)
        tensor_read(e->dev, &x->view, e->buffer);
    else
        param_read(e->dev, x->range->param, x->range->slice, e->buffer);
}

static void entry_write(Entries *e, Entry *x)
{
    if (x->view.storage)
        tensor_write(e->dev, &x->view, e->buffer);
    else
        param_write(e->dev, x->range->param, x->range->slice, e->buffer);
}

static void entries_open(Entries *e, const Session *s, int n_arrays)
{
    const ShardSet *set = &s->shards;
    int n = 0;
    for (int i = 0; i < set->n; i++)
        n += set->items[i].n_ranges;
    *e = (Entries){.dev = (Device *)&s->dev};
    e->items = xcalloc((size_t)(n * n_arrays), sizeof *e->items);
    e->tensors = xcalloc((size_t)(n * n_arrays), sizeof *e->tensors);
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < set->items[i].n_ranges; k++)
            for (int a = 0; a < n_arrays; a++)
                add(e, &set->items[i], &set->items[i].ranges[k], a);
    for (int i = 0; i < e->n; i++)
        e->tensors[i] = (SafeTensor){.name = e->items[i].name,
                                     .dtype = ST_F32,
                                     .n_dims = e->items[i].n_dims,
                                     .shape = e->items[i].shape,
                                     .bytes = (size_t)e->items[i].range->numel * sizeof(float)};
    e->buffer = xmalloc((size_t)e->largest * sizeof *e->buffer);
}

static void entries_close(Entries *e)
{
    for (int i = 0; i < e->n; i++)
        free(e->items[i].name);
    free(e->items);
    free(e->tensors);
    free(e->buffer);
}

static Status write_tensor(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    Entries *e = ud;
    for (int i = 0; i < e->n; i++) {
        if (!str_eq(e->items[i].name, t->name)) continue;
        entry_read(e, &e->items[i]);
        file_out_write(f, e->buffer, t->bytes);
        return OK;
    }
    return err_set(err, E_FAILED, "no tensor %s", t->name);
}

Status state_file_write(const Session *s, const char *dir, Err *err)
{
    Entries e;
    entries_open(&e, s, N_ARRAYS);
    char *path = path_join(dir, "state.safetensors");
    Status status = safetensors_write(path, e.tensors, e.n, NULL, write_tensor, &e, err);
    free(path);
    entries_close(&e);
    return status;
}

static bool same_shape(const SafeTensor *t, const Entry *x)
{
    bool same = t->dtype == ST_F32 && t->n_dims == x->n_dims;
    for (int i = 0; same && i < x->n_dims; i++)
        same = t->shape[i] == x->shape[i];
    return same;
}

static Status read_entries(Entries *e, const SafeTensors *f, const char *path, Err *err)
{
    for (int i = 0; i < e->n; i++) {
        Entry *x = &e->items[i];
        const SafeTensor *t = safetensors_find(f, x->name);
        if (!t) return err_set(err, E_INPUT, "%s: has no tensor %s", path, x->name);
        if (!same_shape(t, x))
            return err_set(err, E_INPUT, "%s: %s has another shape than the model's", path,
                           x->name);
        memcpy(e->buffer, t->data, t->bytes); /* the file's bytes may be unaligned */
        entry_write(e, x);
    }
    return OK;
}

Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err)
{
    Entries e;
    char *path = path_join(dir, "state.safetensors");
    SafeTensors *f = NULL;
    Status status = safetensors_open(&f, path, err);
    entries_open(&e, s, parts == STATE_ALL ? N_ARRAYS : 1);
    if (status == OK) status = read_entries(&e, f, path, err);
    if (status == OK && parts == STATE_ALL && safetensors_count(f) != e.n)
        status = err_set(err, E_INPUT, "%s: holds %d tensors, the model trains %d", path,
                         safetensors_count(f) / N_ARRAYS, e.n / N_ARRAYS);
    if (status == OK) shards_changed(&s->shards);
    entries_close(&e);
    safetensors_close(f);
    free(path);
    return status;
}
