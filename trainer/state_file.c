/* Optimizer state by checkpoint tensor.  A rank goes through the ranges of its shards; what is whole on every rank, the first
 * one writes. */
#include "trainer/state_file.h"

#include "base/fs.h"
#include "base/str.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is kept of a slice; the last two of states in 8 bits alone. */
enum { MASTER, M, V, M_ABSMAX, V_ABSMAX, N_ARRAYS };

static const char *const array_names[N_ARRAYS] = {"master", "m", "v", "m_absmax", "v_absmax"};

/* ---- layout ----------------------------------------------------------------------------------- */

/* The arrays of all trained slices, one behind the other, in the order of the parameters. */
typedef struct Layout {
    const ShardSet *shards;
    SafeTensor *tensors;
    char **names;
    int64_t (*shapes)[2];
    uint64_t *offsets; /* of a tensor's bytes in the file, where it was laid out */
    int n, n_slices;
} Layout;

static int count_arrays(const Layout *l, const Param *p, int slice)
{
    return shard_states_format(l->shards, p, slice) == STATES_INT8 ? N_ARRAYS : V + 1;
}

static int64_t count_blocks(int64_t n)
{
    return (n + STATES_BLOCK - 1) / STATES_BLOCK;
}

static void add_array(Layout *l, const Param *p, int slice, int a, bool codes)
{
    int i = l->n++;
    int64_t numel = param_slice_numel(p, slice);
    SafeTensor *t = &l->tensors[i];
    l->names[i] = str_format("%s.%s", array_names[a], p->slices[slice].name);
    *t = (SafeTensor){.name = l->names[i],
                      .dtype = codes && (a == M || a == V) ? ST_U8 : ST_F32,
                      .n_dims = p->t.n_dims,
                      .shape = l->shapes[i]};
    l->shapes[i][0] = p->slices[slice].rows;
    l->shapes[i][1] = p->t.n_dims == 1 ? 0 : tensor_cols(&p->t);
    t->bytes = (size_t)numel * (t->dtype == ST_U8 ? 1 : sizeof(float));
    if (a < M_ABSMAX) return;
    t->n_dims = 1;
    l->shapes[i][0] = count_blocks(numel);
    t->bytes = (size_t)count_blocks(numel) * sizeof(float);
}

static void layout_open(Layout *l, const ShardSet *shards)
{
    const ParamSet *params = shards->params;
    size_t n = 0;
    for (int i = 0; i < params->n; i++)
        n += (size_t)params->items[i]->n_slices * N_ARRAYS;
    *l = (Layout){.shards = shards};
    l->tensors = xcalloc(n, sizeof *l->tensors);
    l->names = xcalloc(n, sizeof *l->names);
    l->shapes = xcalloc(n, sizeof *l->shapes);
    l->offsets = xcalloc(n, sizeof *l->offsets);
    for (int i = 0; i < params->n; i++) {
        const Param *p = params->items[i];
        for (int k = 0; k < p->n_slices && p->trained; k++, l->n_slices++)
            for (int a = 0, arrays = count_arrays(l, p, k); a < arrays; a++)
                add_array(l, p, k, a, arrays == N_ARRAYS);
    }
}

static void layout_close(Layout *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->names[i]);
    free(l->tensors);
    free(l->names);
    free(l->shapes);
    free(l->offsets);
}

/* The first tensor of a range's slice. */
static int tensor_of(const Layout *l, const ShardRange *r)
{
    const ParamSet *params = l->shards->params;
    int at = 0;
    for (int i = 0; i < params->n; i++) {
        const Param *p = params->items[i];
        for (int k = 0; k < p->n_slices && p->trained; k++) {
            if (p == r->param && k == r->slice) return at;
            at += count_arrays(l, p, k);
        }
    }
    ASSERT(false, "%s is not trained", r->param->name);
    return -1;
}

/* ---- a range's numbers ------------------------------------------------------------------------ */

static void read_master(Device *d, const ParamShard *sh, const ShardRange *r, float *host)
{
    Tensor weights = shard_view(&sh->weights, r);
    if (!sh->low.storage) {
        tensor_read_f32(d, &weights, host);
        return;
    }
    Tensor low = shard_view(&sh->low, r);
    uint16_t *hi = xmalloc((size_t)r->numel * sizeof *hi);
    int16_t *rest = xmalloc((size_t)r->numel * sizeof *rest);
    tensor_read(d, &weights, hi);
    tensor_read(d, &low, rest);
    convert_join(host, hi, rest, r->numel);
    free(hi);
    free(rest);
}

static void write_master(Device *d, ParamShard *sh, const ShardRange *r, const float *host)
{
    Tensor weights = shard_view(&sh->weights, r);
    if (!sh->low.storage) {
        tensor_write_f32(d, &weights, host);
        return;
    }
    Tensor low = shard_view(&sh->low, r);
    uint16_t *hi = xmalloc((size_t)r->numel * sizeof *hi);
    int16_t *rest = xmalloc((size_t)r->numel * sizeof *rest);
    convert_split(hi, rest, host, r->numel);
    tensor_write(d, &weights, hi);
    tensor_write(d, &low, rest);
    free(hi);
    free(rest);
}

/* Where a range's bytes of an array begin in the slice's, and how many they are. */
typedef struct Piece {
    size_t at, bytes;
    Tensor states; /* they themselves; not of MASTER */
} Piece;

static Piece piece_of(const ParamShard *sh, const ShardRange *r, int a)
{
    int64_t first = r->first, n = r->numel;
    size_t each = sizeof(float);
    Piece p = {0};
    if (a != MASTER) {
        AdamwStates s = states_view(&sh->states, r->offset, r->numel);
        p.states = a == M ? s.m : a == V ? s.v : a == M_ABSMAX ? s.m_max : s.v_max;
        each = dtype_bytes(p.states.dtype);
    }
    if (a >= M_ABSMAX) first /= STATES_BLOCK, n = count_blocks(n);
    p.at = (size_t)first * each;
    p.bytes = (size_t)n * each;
    return p;
}

/* ---- writing ---------------------------------------------------------------------------------- */

static Status system_error(Err *err, const char *path)
{
    return err_set(err, E_FAILED, "%s: %s", path, strerror(errno));
}

static Status write_at(int fd, const void *data, size_t n, uint64_t at, const char *path, Err *err)
{
    for (const char *from = data; n > 0;) {
        ssize_t k = pwrite(fd, from, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return system_error(err, path);
        from += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return OK;
}

/* Offsets of all tensors; the rank that leads writes the header and gives the file its size. */
static Status begin_file(Layout *l, const char *path, bool leads, Err *err)
{
    StrBuf json = {0};
    int *order = xcalloc((size_t)l->n + 1, sizeof *order);
    Status s = safetensors_header(&json, order, l->tensors, l->n, NULL, err);
    uint64_t at = 8 + json.len;
    for (int k = 0; k < l->n && s == OK; k++) {
        l->offsets[order[k]] = at;
        at += l->tensors[order[k]].bytes;
    }
    if (s == OK && leads) {
        unsigned char length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (unsigned char)((uint64_t)json.len >> (8 * i));
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0 || ftruncate(fd, (off_t)at) != 0) s = system_error(err, path);
        if (s == OK) s = write_at(fd, length, sizeof length, 0, path, err);
        if (s == OK) s = write_at(fd, json.data, json.len, sizeof length, path, err);
        if (fd >= 0 && close(fd) != 0 && s == OK) s = system_error(err, path);
    }
    strbuf_clear(&json);
    free(order);
    return s;
}

static Status write_range(Session *s, const Layout *l, const ParamShard *sh, const ShardRange *r,
                          int fd, const char *path, Err *err)
{
    int first = tensor_of(l, r), n = count_arrays(l, r->param, r->slice);
    void *host = xmalloc((size_t)r->numel * sizeof(float));
    Status status = OK;
    for (int a = 0; a < n && status == OK; a++) {
        Piece p = piece_of(sh, r, a);
        if (a == MASTER)
            read_master(&s->dev, sh, r, host);
        else
            tensor_read(&s->dev, &p.states, host);
        status = write_at(fd, host, p.bytes, l->offsets[first + a] + p.at, path, err);
    }
    free(host);
    return status;
}

static Status write_ranges(Session *s, const Layout *l, const char *path, Err *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return system_error(err, path);
    Status status = OK;
    for (int i = 0; i < s->shards.n; i++) {
        const ParamShard *sh = &s->shards.items[i];
        if (!shard_counts(&s->shards, sh)) continue;
        for (int k = 0; k < sh->n_ranges && status == OK; k++)
            status = write_range(s, l, sh, &sh->ranges[k], fd, path, err);
    }
    if (status == OK && fsync(fd) != 0) status = system_error(err, path);
    if (close(fd) != 0 && status == OK) status = system_error(err, path);
    return status;
}

Status state_file_write(Session *s, const char *dir, Err *err)
{
    Layout l;
    layout_open(&l, &s->shards);
    char *path = path_join(dir, "state.safetensors");
    shards_end_pass(&s->shards);
    Status status = begin_file(&l, path, session_leads(s), err);
    status = comm_agree(s->hosts, status, err);
    if (status == OK) status = comm_agree(s->hosts, write_ranges(s, &l, path, err), err);
    free(path);
    layout_close(&l);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------- */

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

static Status check_file(const Layout *l, const SafeTensors *f, StateParts parts, const char *path,
                         Err *err)
{
    for (int i = 0; i < l->n; i++)
        if (parts == STATE_ALL || str_starts(l->names[i], "master."))
            TRY(check_tensor(&l->tensors[i], f, path, err));
    if (parts == STATE_ALL && safetensors_count(f) != l->n)
        return err_set(err, E_INPUT, "%s: holds %d tensors, the %d that are trained need %d", path,
                       safetensors_count(f), l->n_slices, l->n);
    return OK;
}

static void read_range(Session *s, const Layout *l, const SafeTensors *f, StateParts parts,
                       ParamShard *sh, const ShardRange *r)
{
    int first = tensor_of(l, r);
    int n = parts == STATE_ALL ? count_arrays(l, r->param, r->slice) : 1;
    void *host = xmalloc((size_t)r->numel * sizeof(float));
    for (int a = 0; a < n; a++) {
        const SafeTensor *t = safetensors_find(f, l->names[first + a]);
        Piece p = piece_of(sh, r, a);
        memcpy(host, t->data + p.at, p.bytes); /* the file's bytes may be unaligned */
        if (a == MASTER)
            write_master(&s->dev, sh, r, host);
        else
            tensor_write(&s->dev, &p.states, host);
    }
    free(host);
}

Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err)
{
    Layout l;
    layout_open(&l, &s->shards);
    char *path = path_join(dir, "state.safetensors");
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
    layout_close(&l);
    return status;
}
