/* Weights between a Hugging Face folder and the model, slice by slice of each Param. */
#include "model/hf_files.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/weights.h"
#include "tensor/convert.h"

#include <stdlib.h>
#include <string.h>

/* --- one slice ------------------------------------------------------------------------------------- */

static void describe_shape(StrBuf *b, const int64_t *shape, int n_dims)
{
    strbuf_putc(b, '[');
    for (int i = 0; i < n_dims; i++)
        strbuf_printf(b, "%s%lld", i ? ", " : "", (long long)shape[i]);
    strbuf_putc(b, ']');
}

Status weight_check(const SafeTensor *t, const Param *p, int slice, Err *err)
{
    int64_t want[2] = {p->slices[slice].rows, p->t.shape[1]};
    bool fits = t->n_dims == p->t.n_dims;
    for (int i = 0; i < t->n_dims && fits; i++)
        fits = t->shape[i] == want[i];
    if (!fits) {
        StrBuf b = {0};
        describe_shape(&b, t->shape, t->n_dims);
        strbuf_puts(&b, ", the model needs ");
        describe_shape(&b, want, p->t.n_dims);
        err_set(err, E_INPUT, "%s: %s: has shape %s", t->file, t->name, b.data);
        strbuf_clear(&b);
        return E_INPUT;
    }
    DType dtype;
    if (!safe_dtype_to_tensor(t->dtype, &dtype) ||
        (dtype != DT_F32 && dtype != DT_BF16 && dtype != DT_F16))
        return err_set(err, E_INPUT, "%s: %s: has dtype %s; weights must be F32, BF16 or F16",
                       t->file, t->name, safe_dtype_name(t->dtype));
    return OK;
}

/* Pieces small enough to share between threads, large enough to be worth one. */
enum { CHUNK = 1 << 18 };

typedef struct Conversion {
    float *to;
    const uint8_t *from;
    DType dtype;
    int64_t n;
} Conversion;

static void convert_chunk(void *ud, int64_t i)
{
    Conversion *c = ud;
    int64_t at = i * CHUNK, n = c->n - at < CHUNK ? c->n - at : CHUNK;
    convert_to_f32(c->to + at, c->from + (size_t)at * dtype_bytes(c->dtype), c->dtype, n);
}

float *weight_read_f32(const SafeTensor *t, Pool *pool)
{
    DType dtype = DT_F32;
    safe_dtype_to_tensor(t->dtype, &dtype);
    int64_t n = safe_numel(t);
    float *out = xmalloc((size_t)n * sizeof *out);
    pool_run(pool, (n + CHUNK - 1) / CHUNK, convert_chunk, &(Conversion){out, t->data, dtype, n});
    return out;
}

typedef struct HostCopy {
    uint8_t *to;
    const uint8_t *from;
    DType to_dtype, from_dtype;
    int64_t n;
} HostCopy;

static void host_copy_chunk(void *ud, int64_t chunk)
{
    const HostCopy *c = ud;
    float some[1024];
    int64_t end = (chunk + 1) * CHUNK < c->n ? (chunk + 1) * CHUNK : c->n;
    for (int64_t at = chunk * CHUNK, n; at < end; at += n) {
        n = end - at < 1024 ? end - at : 1024;
        convert_to_f32(some, c->from + (size_t)at * dtype_bytes(c->from_dtype), c->from_dtype, n);
        convert_from_f32(c->to + (size_t)at * dtype_bytes(c->to_dtype), c->to_dtype, some, n);
    }
}

/* Threads for what is large and stays on the host: the device's, or some of its own. */
static void host_run(Device *d, int64_t n, PoolFn *fn, void *ud)
{
    Pool *own = d->pool ? NULL : pool_new(0);
    pool_run(own ? own : d->pool, (n + CHUNK - 1) / CHUNK, fn, ud);
    pool_free(own);
}

static void write_on_host(const SafeTensor *t, Device *d, Param *p, int slice)
{
    DType *stored = &p->slices[slice].stored;
    safe_dtype_to_tensor(t->dtype, stored);
    HostCopy c = {param_host_slice(p, slice), t->data, p->t.dtype, *stored, safe_numel(t)};
    host_run(d, c.n, host_copy_chunk, &c);
}

/* Encoding needs all of it. */
static void write_quantised(const SafeTensor *t, Device *d, Upload *u, Param *p, int slice)
{
    param_open(p);
    Tensor values = param_slice_begin(d, p, slice);
    upload_add(u, &values, NULL, t->data, p->slices[slice].stored);
    upload_flush(u); /* values is a scratch that is encoded now */
    param_slice_end(d, p, slice, &values);
    param_close(p, true);
}

void weight_write(const SafeTensor *t, Device *d, Upload *u, Param *p, int slice)
{
    ParamPiece pieces[PARAM_MAX_PIECES];
    if (p->on_host) {
        write_on_host(t, d, p, slice);
        return;
    }
    DType *stored = &p->slices[slice].stored;
    safe_dtype_to_tensor(t->dtype, stored);
    if (p->t.quant) {
        write_quantised(t, d, u, p, slice);
        return;
    }
    int n = param_pieces(p, slice, pieces);
    for (int i = 0; i < n; i++)
        upload_add(u, &pieces[i].values, pieces[i].low.storage ? &pieces[i].low : NULL,
                   t->data + (size_t)pieces[i].first * dtype_bytes(*stored), *stored);
}

/* --- loading --------------------------------------------------------------------------------------- */

static const char head_name[] = "lm_head.weight";

/* Buffers that old checkpoints carry, and what a tied head makes superfluous. */
static bool is_ignored(const Llama *m, const char *name)
{
    size_t len;
    int slice;
    if (quant_file_owns(&m->cfg.quant, name, &len)) {
        char *weight = str_format("%.*s.weight", (int)len, name);
        bool ours = paramset_find(&m->params, weight, &slice) != NULL;
        free(weight);
        return ours;
    }
    return str_ends(name, "rotary_emb.inv_freq") ||
           (m->cfg.tie_word_embeddings && str_eq(name, head_name));
}

/* A slice's tensor.  Of a tied pair a file may hold either one; the head of a model that was untied after the fact
 * starts as the embedding. */
static const SafeTensor *find_tensor(const Llama *m, const Param *p, int slice,
                                     const SafeTensors *f)
{
    const char *name = p->slices[slice].name;
    if (!m->cfg.tie_word_embeddings || (p != &m->embed && p != &m->head))
        return safetensors_find(f, name);
    const SafeTensor *t = safetensors_find(f, m->embed.name);
    return t ? t : safetensors_find(f, head_name);
}

static Status check_param(const Llama *m, const Param *p, const SafeTensors *f, const char *dir,
                          Err *err)
{
    if (p->t.quant && m->cfg.quant.method) return OK; /* codes are checked as they are read */
    for (int i = 0; i < p->n_slices; i++) {
        if (llama_decoded_part(m, p, i)) continue;
        const SafeTensor *t = find_tensor(m, p, i, f);
        if (!t) return err_set(err, E_INPUT, "%s: tensor %s is missing", dir, p->slices[i].name);
        TRY(weight_check(t, p, i, err));
    }
    return OK;
}

static Status check_params(const Llama *m, const SafeTensors *f, const char *dir, Err *err)
{
    for (int i = 0; i < m->params.n; i++)
        if (!m->params.items[i]->adapter) TRY(check_param(m, m->params.items[i], f, dir, err));
    return OK;
}

Status model_check_weights(const Llama *m, const char *dir, Err *err)
{
    SafeTensors *f;
    TRY(safetensors_open(&f, dir, err));
    Status s = check_params(m, f, dir, err);
    safetensors_close(f);
    return s;
}

static char *module_of(const Param *p, int slice)
{
    const char *name = p->slices[slice].name;
    return xstrndup(name, strlen(name) - strlen(".weight"));
}

/* A matrix's slice that the file has in codes. */
static Status load_codes(Llama *m, Param *p, int slice, const SafeTensors *f, const char *dir,
                         Log *log, Err *err)
{
    char *module = module_of(p, slice);
    Status s = quant_file_load(&m->cfg.quant, m->dev, p->t.quant, slice, module, f, dir, log, err);
    free(module);
    return s;
}

/* The same of a matrix that is plain, for another slice of it is. */
static Status load_decoded(Llama *m, Param *p, int slice, const QuantPart *part,
                           const SafeTensors *f, Upload *u, const char *dir, Log *log, Err *err)
{
    char *module = module_of(p, slice);
    float *values = NULL;
    Status s = quant_file_decode(&values, &m->cfg.quant, m->dev, part, module, f, dir, log, err);
    if (s == OK) {
        SafeTensor t = {.dtype = ST_F32, .data = (const uint8_t *)values};
        weight_write(&t, m->dev, u, p, slice);
        upload_flush(u);
    }
    free(values);
    free(module);
    return s;
}

static Status load_plain(Llama *m, Param *p, const SafeTensors *f, Upload *u, const char *dir,
                         Log *log, Err *err)
{
    Status s = OK;
    for (int i = 0; i < p->n_slices && s == OK; i++) {
        const QuantPart *part = llama_decoded_part(m, p, i);
        if (part)
            s = load_decoded(m, p, i, part, f, u, dir, log, err);
        else
            weight_write(find_tensor(m, p, i, f), m->dev, u, p, i);
    }
    return s;
}

static Status load_param(Llama *m, Param *p, const SafeTensors *f, Upload *u, const char *dir,
                         Log *log, Err *err)
{
    if (!p->home && !param_is_there(p)) return OK;
    if (!p->t.quant || !m->cfg.quant.method) return load_plain(m, p, f, u, dir, log, err);
    Status s = OK;
    param_open(p);
    for (int i = 0; i < p->n_slices && s == OK; i++)
        s = load_codes(m, p, i, f, dir, log, err);
    param_close(p, true);
    return s;
}

/* Transformers 4 ignores such a head too; 5 would take both tensors as they are. */
static void warn_tied(const Llama *m, const SafeTensors *f, const char *dir, Log *log)
{
    const SafeTensor *embed = safetensors_find(f, m->embed.name);
    const SafeTensor *head = safetensors_find(f, head_name);
    if (!m->cfg.tie_word_embeddings || !embed || !head) return;
    if (embed->bytes != head->bytes || memcmp(embed->data, head->data, head->bytes) != 0)
        log_warn(log,
                 "%s: %s is not the embedding, but config.json ties them (tie_word_embeddings); it "
                 "is ignored",
                 dir, head_name);
}

static void warn_unexpected(const Llama *m, const SafeTensors *f, const char *dir, Log *log)
{
    enum { SHOWN = 10 };
    int n = 0;
    for (int i = 0, slice; i < safetensors_count(f); i++) {
        const char *name = safetensors_at(f, i)->name;
        if (is_ignored(m, name) || paramset_find(&m->params, name, &slice)) continue;
        if (n++ < SHOWN) log_warn(log, "%s: tensor %s is not part of this model", dir, name);
    }
    if (n > SHOWN) log_warn(log, "%s: %d more tensors are not part of this model", dir, n - SHOWN);
}

Status model_load_weights(Llama *m, const char *dir, Log *log, Err *err)
{
    SafeTensors *f;
    TRY(safetensors_open(&f, dir, err));
    Status s = check_params(m, f, dir, err);
    Upload *u = upload_open(m->dev);
    for (int i = 0; i < m->params.n && s == OK; i++)
        if (!m->params.items[i]->adapter)
            s = load_param(m, m->params.items[i], f, u, dir, log, err);
    log_verbose(log, "weights: %zu bytes read by this rank", upload_bytes(u));
    upload_close(u);
    if (s == OK) warn_unexpected(m, f, dir, log);
    if (s == OK) warn_tied(m, f, dir, log);
    safetensors_close(f);
    return s;
}

/* --- random weights -------------------------------------------------------------------------------- */

/* Numbers that the host draws itself: uniform ones, which only adapters have, and those are small; normal ones of what lies
 * on the host. */
typedef struct Draws {
    float *to;
    uint64_t key;
    double scale;
    int64_t n;
    bool normal;
} Draws;

static void draw_chunk(void *ud, int64_t chunk)
{
    Draws *d = ud;
    int64_t end = (chunk + 1) * CHUNK < d->n ? (chunk + 1) * CHUNK : d->n;
    for (int64_t i = chunk * CHUNK; i < end; i++)
        d->to[i] = d->normal ? (float)(d->scale * rng_normal(d->key, (uint64_t)i))
                             : (float)((2 * rng_uniform(d->key, (uint64_t)i) - 1) * d->scale);
}

void weight_draw(Device *d, Param *p, int slice, WeightDraw draw, double scale, uint64_t seed)
{
    const char *name = p->slices[slice].name;
    int64_t n = param_slice_numel(p, slice);
    Draws draws = {NULL, rng_mix(seed, hash64(name, strlen(name), 0)), scale, n,
                   draw == DRAW_NORMAL};
    if (draw == DRAW_NORMAL && !p->on_host) {
        Tensor low = param_slice_low(p, slice), values = param_slice_begin(d, p, slice);
        d->k->fill_normal(d, &values, low.storage ? &low : NULL, draws.key, 0, scale);
        param_slice_end(d, p, slice, &values);
        return;
    }
    draws.to = xmalloc((size_t)n * sizeof *draws.to);
    if (p->on_host)
        host_run(d, n, draw_chunk, &draws);
    else
        pool_run(d->pool, (n + CHUNK - 1) / CHUNK, draw_chunk, &draws);
    param_write(d, p, slice, draws.to);
    free(draws.to);
}

static void fill(Device *d, Param *p, int slice, float value)
{
    int64_t n = param_slice_numel(p, slice);
    float *host = xmalloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = value;
    param_write(d, p, slice, host);
    free(host);
}

void model_init_random(Llama *m, uint64_t seed)
{
    for (int i = 0; i < m->params.n; i++) {
        Param *p = m->params.items[i];
        if (p->adapter || (!param_is_there(p) && !p->home)) continue;
        param_open(p);
        for (int s = 0; s < p->n_slices; s++)
            if (p->t.n_dims == 2)
                weight_draw(m->dev, p, s, DRAW_NORMAL, m->cfg.initializer_range, seed);
            else
                fill(m->dev, p, s, str_ends(p->name, ".bias") ? 0.0f : 1.0f);
        param_close(p, true);
    }
}

/* --- saving ---------------------------------------------------------------------------------------- */

static DType dtype_in_file(const WeightSource *s, const Param *p, int slice)
{
    return s->dtype == DT_N ? p->slices[slice].stored : s->dtype;
}

/* The values with the twin below or beside them, in fresh memory instead. */
static float *add_twin(const Param *p, float *values)
{
    int64_t rows = p->t.shape[0], cols = p->t.shape[1];
    int64_t width = p->twin_beside ? cols : rows * cols; /* of what lies together */
    float *both = xmalloc(2 * (size_t)(rows * cols) * sizeof *both);
    for (int64_t i = 0; i < rows * cols; i += width) {
        memcpy(both + 2 * i, values + i, (size_t)width * sizeof *both);
        memcpy(both + 2 * i + width, p->twin + i, (size_t)width * sizeof *both);
    }
    free(values);
    return both;
}

Status weight_source(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    const WeightSource *s = ud;
    int slice;
    Param *p = paramset_find(s->params, t->name + strlen(s->prefix), &slice);
    ASSERT(p, "%s is no parameter", t->name);
    param_open(p);
    ASSERT(param_is_there(p), "%s has no weights to save", t->name);
    int64_t n = param_slice_numel(p, slice);
    float *host = xmalloc((size_t)n * sizeof *host);
    param_read(s->dev, p, slice, host);
    param_close(p, false);
    if (p->twin) {
        host = add_twin(p, host);
        n *= 2;
    }
    DType dtype = dtype_in_file(s, p, slice);
    if (dtype == DT_F32) {
        file_out_write(f, host, (size_t)n * sizeof *host);
    } else {
        void *out = xmalloc((size_t)n * dtype_bytes(dtype));
        convert_from_f32(out, dtype, host, n);
        file_out_write(f, out, (size_t)n * dtype_bytes(dtype));
        free(out);
    }
    free(host);
    (void)err;
    return OK;
}

void weight_list_add(WeightList *l, const WeightSource *s, const Param *p, int slice)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->items = xrealloc(l->items, (size_t)l->cap * sizeof *l->items);
        l->refs = xrealloc(l->refs, (size_t)l->cap * sizeof *l->refs);
    }
    int64_t *shape = xmalloc(2 * sizeof *shape);
    DType dtype = dtype_in_file(s, p, slice);
    shape[0] = p->slices[slice].rows;
    shape[1] = p->t.shape[1];
    if (p->twin) shape[p->twin_beside] *= 2;
    l->refs[l->n] = (WeightRef){p, slice};
    l->items[l->n++] = (SafeTensor){
        .name = str_format("%s%s", s->prefix, p->slices[slice].name),
        .dtype = safe_dtype_from_tensor(dtype),
        .n_dims = p->t.n_dims,
        .shape = shape,
        .bytes = (size_t)param_slice_numel(p, slice) * dtype_bytes(dtype) * (p->twin ? 2 : 1),
    };
}

void weight_list_clear(WeightList *l)
{
    for (int i = 0; i < l->n; i++) {
        free((void *)(uintptr_t)l->items[i].name);
        free((void *)(uintptr_t)l->items[i].shape);
    }
    free(l->items);
    free(l->refs);
    *l = (WeightList){0};
}

static Status write_text(const char *dir, const char *name, StrBuf *text, Err *err)
{
    char *path = path_join(dir, name);
    Status s = file_write_atomic(path, text->data, text->len, err);
    free(path);
    strbuf_clear(text);
    return s;
}

void model_list_weights(WeightList *out, const Llama *m, DType dtype)
{
    WeightSource source = {m->dev, &m->params, dtype, ""};
    for (int i = 0; i < m->params.n; i++)
        for (int s = 0; s < m->params.items[i]->n_slices && !m->params.items[i]->adapter; s++)
            weight_list_add(out, &source, m->params.items[i], s);
}

Status model_save_config(const Llama *m, const char *dir, DType dtype, Err *err)
{
    LlamaConfig cfg = m->cfg;
    cfg.tie_word_embeddings = m->tied;
    StrBuf text = {0};
    llama_config_write(&text, &cfg, dtype == DT_N ? m->embed.slices[0].stored : dtype);
    TRY(write_text(dir, "config.json", &text, err));
    llama_generation_config_write(&text, &cfg);
    return write_text(dir, "generation_config.json", &text, err);
}

Status model_save_weights(const Llama *m, const char *dir, DType dtype, uint64_t max_shard_bytes,
                          Err *err)
{
    WeightSource source = {m->dev, &m->params, dtype, ""};
    WeightList list = {0};
    model_list_weights(&list, m, dtype);
    Status status = safetensors_write_model(dir, list.items, list.n, max_shard_bytes, weight_source,
                                            &source, err);
    weight_list_clear(&list);
    return status;
}

Status model_save(const Llama *m, const char *dir, DType dtype, uint64_t max_shard_bytes, Err *err)
{
    TRY(model_save_weights(m, dir, dtype, max_shard_bytes, err));
    return model_save_config(m, dir, dtype, err);
}
