/* Optimizer state by checkpoint tensor: what state.safetensors holds, and reading it.  A rank goes through the ranges of its
 * shards. */
#include "trainer/state_file.h"

#include "base/fs.h"
#include "base/str.h"
#include "tensor/convert.h"

#include <stdlib.h>
#include <string.h>

const char state_file_name[] = "state.safetensors";

static const char *const array_names[STATE_ARRAYS] = {"master", "m", "v", "m_absmax", "v_absmax"};

/* ---- the tensors ------------------------------------------------------------------------------ */

static int count_arrays(const ShardSet *shards, const Param *p, int slice)
{
    return shard_states_format(shards, p, slice) == STATES_INT8 ? STATE_ARRAYS : STATE_V + 1;
}

int64_t state_array_numel(int array, int64_t n)
{
    return array >= STATE_M_ABSMAX ? (n + STATES_BLOCK - 1) / STATES_BLOCK : n;
}

static void add_array(StateTensors *l, const Param *p, int slice, int a, bool codes)
{
    int i = l->n++;
    int64_t numel = state_array_numel(a, param_slice_numel(p, slice));
    bool blocks = a >= STATE_M_ABSMAX;
    l->shapes[i][0] = blocks ? numel : p->slices[slice].rows;
    l->shapes[i][1] = p->t.n_dims == 1 ? 0 : tensor_cols(&p->t);
    SafeTensor *t = &l->items[i];
    *t = (SafeTensor){.name = str_format("%s.%s", array_names[a], p->slices[slice].name),
                      .dtype = codes && (a == STATE_M || a == STATE_V) ? ST_U8 : ST_F32,
                      .n_dims = blocks ? 1 : p->t.n_dims,
                      .shape = l->shapes[i]};
    t->bytes = (size_t)numel * (t->dtype == ST_U8 ? 1 : sizeof(float));
}

void state_tensors_list(StateTensors *l, const ShardSet *shards)
{
    const ParamSet *params = shards->params;
    size_t n = 0;
    for (int i = 0; i < params->n; i++)
        n += (size_t)params->items[i]->n_slices;
    *l = (StateTensors){.params = params};
    l->items = xcalloc(n * STATE_ARRAYS, sizeof *l->items);
    l->shapes = xcalloc(n * STATE_ARRAYS, sizeof *l->shapes);
    l->first = xcalloc(n + 1, sizeof *l->first);
    for (int i = 0; i < params->n; i++) {
        const Param *p = params->items[i];
        for (int k = 0; k < p->n_slices && p->trained; k++) {
            for (int a = 0, arrays = count_arrays(shards, p, k); a < arrays; a++)
                add_array(l, p, k, a, arrays == STATE_ARRAYS);
            l->first[++l->n_slices] = l->n;
        }
    }
}

void state_tensors_clear(StateTensors *l)
{
    for (int i = 0; i < l->n; i++)
        free((void *)(uintptr_t)l->items[i].name);
    free(l->items);
    free(l->shapes);
    free(l->first);
    *l = (StateTensors){0};
}

int state_tensors_slice(const StateTensors *l, const Param *param, int slice)
{
    int at = 0;
    for (int i = 0; i < l->params->n; i++) {
        const Param *p = l->params->items[i];
        if (p == param) return at + slice;
        if (p->trained) at += p->n_slices;
    }
    ASSERT(false, "%s is not trained", param->name);
    return -1;
}

Tensor state_view(const ParamShard *sh, int array, int64_t begin, int64_t n)
{
    AdamwStates s = states_view(&sh->states, begin, n);
    switch (array) {
    case STATE_M:
        return s.m;
    case STATE_V:
        return s.v;
    case STATE_M_ABSMAX:
        return s.m_max;
    }
    ASSERT(array == STATE_V_ABSMAX, "array %d", array);
    return s.v_max;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* Each array may be on the device or in host memory. */
static void write_view(Tensor *view, const void *host)
{
    tensor_write(view->storage->dev, view, host);
}

static void write_master(ParamShard *sh, const ShardRange *r, const float *host)
{
    Tensor master = shard_view(&sh->master, r);
    if (!sh->low.storage) {
        write_view(&master, host);
        return;
    }
    Tensor low = shard_view(&sh->low, r);
    uint16_t *hi = xmalloc((size_t)r->numel * sizeof *hi);
    int16_t *rest = xmalloc((size_t)r->numel * sizeof *rest);
    convert_split(hi, rest, host, r->numel);
    write_view(&master, hi);
    write_view(&low, rest);
    free(hi);
    free(rest);
}

static bool same_shape(const SafeTensor *t, const SafeTensor *want)
{
    bool same = t->n_dims == want->n_dims;
    for (int i = 0; same && i < want->n_dims; i++)
        same = t->shape[i] == want->shape[i];
    return same;
}

static Status check_tensor(const SafeTensor *want, const SafeTensors *f, const char *path, Err *err)
{
    const SafeTensor *t = safetensors_find(f, want->name);
    if (!t) return err_set(err, E_INPUT, "%s: has no tensor %s", path, want->name);
    if (!same_shape(t, want))
        return err_set(err, E_INPUT, "%s: %s has another shape than the model's", path, want->name);
    if (t->dtype != want->dtype)
        return err_set(err, E_INPUT, "%s: %s is %s and must be %s; optim.states was another", path,
                       want->name, safe_dtype_name(t->dtype), safe_dtype_name(want->dtype));
    return OK;
}

static Status check_file(const StateTensors *l, const SafeTensors *f, StateParts parts,
                         const char *path, Err *err)
{
    for (int i = 0; i < l->n; i++)
        if (parts == STATE_ALL || str_starts(l->items[i].name, "master."))
            TRY(check_tensor(&l->items[i], f, path, err));
    if (parts == STATE_ALL && safetensors_count(f) != l->n)
        return err_set(err, E_INPUT, "%s: holds %d tensors, the %d that are trained need %d", path,
                       safetensors_count(f), l->n_slices, l->n);
    return OK;
}

static void read_range(Session *s, const StateTensors *l, const SafeTensors *f, StateParts parts,
                       ParamShard *sh, const ShardRange *r)
{
    int slice = state_tensors_slice(l, r->param, r->slice), first = l->first[slice];
    int n = parts == STATE_ALL ? l->first[slice + 1] - first : 1;
    void *host = xmalloc((size_t)r->numel * sizeof(float));
    for (int a = 0; a < n; a++) {
        const SafeTensor *t = safetensors_find(f, l->items[first + a].name);
        size_t each = t->dtype == ST_U8 ? 1 : sizeof(float);
        int64_t at = a >= STATE_M_ABSMAX ? r->first / STATES_BLOCK : r->first;
        /* the file's bytes may be unaligned */
        memcpy(host, t->data + (size_t)at * each, (size_t)state_array_numel(a, r->numel) * each);
        if (a == STATE_MASTER) {
            write_master(sh, r, host);
        } else {
            Tensor view = state_view(sh, a, r->offset, r->numel);
            write_view(&view, host);
        }
    }
    free(host);
}

Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err)
{
    StateTensors l;
    state_tensors_list(&l, &s->shards);
    char *path = path_join(dir, state_file_name);
    SafeTensors *f = NULL;
    shards_end_pass(&s->shards);
    Status status = safetensors_open(&f, path, err);
    if (status == OK) status = check_file(&l, f, parts, path, err);
    status = comm_agree(s->hosts, status, err);
    for (int i = 0; i < s->shards.n && status == OK; i++)
        for (int k = 0; k < s->shards.items[i].n_ranges; k++)
            read_range(s, &l, f, parts, &s->shards.items[i], &s->shards.items[i].ranges[k]);
    if (status == OK) shards_updated(&s->shards);
    safetensors_close(f);
    free(path);
    state_tensors_clear(&l);
    return status;
}
