#include "tests/model/model_run.h"

#include "base/fs.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POSITIONS = 256 };

void model_open(ModelRun *r, const char *dir, const char *config, const char *adapter)
{
    Err err = {0};
    *r = (ModelRun){0};
    test_device_open(&r->dev, (size_t)256 << 20, 1);
    r->arena = arena_new(1 << 16);
    LlamaConfig cfg;
    cr_assert_eq(llama_config_load(&cfg, config ? config : dir, &err), OK, "%s", err.line);
    llama_init(&r->m, &cfg, &r->dev, POSITIONS);
    cr_assert_eq(llama_quantize_as(&r->m, dir, &err), OK, "%s", err.line);
    if (adapter) {
        LoraOpts lora;
        cr_assert_eq(lora_opts_load(&lora, NULL, adapter, &err), OK, "%s", err.line);
        cr_assert_eq(lora_attach(&r->lora, &r->m, &lora, &err), OK, "%s", err.line);
        lora_opts_clear(&lora);
        r->has_lora = true;
    }
    llama_alloc(&r->m);
    Log log = {.to = stderr, .level = LOG_WARN};
    cr_assert_eq(model_load_weights(&r->m, dir, &log, &err), OK, "%s", err.line);
    if (adapter) cr_assert_eq(lora_load(&r->lora, &r->m, adapter, &err), OK, "%s", err.line);
}

static void free_grads(ModelRun *r)
{
    for (int i = 0; r->grads && i < r->m.params.n; i++) {
        tensor_clear(&r->grads[i]);
        r->m.params.items[i]->t.grad = NULL;
    }
    free(r->grads);
    r->grads = NULL;
}

void model_close(ModelRun *r)
{
    free_grads(r);
    if (r->has_lora) lora_detach(&r->lora, &r->m);
    llama_clear(&r->m);
    arena_free(r->arena);
    device_close(&r->dev);
}

void model_train_all(ModelRun *r)
{
    for (int i = 0; i < r->m.params.n; i++)
        param_set_trained(r->m.params.items[i], true);
    llama_collect_params(&r->m);
}

/* --- a batch on the device --------------------------------------------------------------------------- */

typedef struct DeviceBatch {
    Tensor ids, positions, samples, cu;
    Batch batch;
} DeviceBatch;

static Tensor upload(Device *d, DType dtype, int64_t n, const void *host)
{
    Tensor t = tensor_alloc(d, dtype, 1, &n, MEM_ACTIVATION);
    tensor_write(d, &t, host);
    return t;
}

static void batch_init(DeviceBatch *b, Device *d, const Tokens *t)
{
    int32_t *positions = xmalloc((size_t)t->n * sizeof *positions);
    int64_t *samples = xmalloc((size_t)t->n * sizeof *samples);
    int64_t longest = 0;
    for (int doc = 0; doc < t->n_docs; doc++) {
        for (int32_t i = t->cu[doc]; i < t->cu[doc + 1]; i++) {
            positions[i] = i - t->cu[doc];
            samples[i] = doc;
        }
        if (t->cu[doc + 1] - t->cu[doc] > longest) longest = t->cu[doc + 1] - t->cu[doc];
    }
    b->ids = upload(d, DT_I32, t->n, t->ids);
    b->positions = upload(d, DT_I32, t->n, positions);
    b->samples = upload(d, DT_I64, t->n, samples);
    b->cu = upload(d, DT_I32, t->n_docs + 1, t->cu);
    b->batch = (Batch){.ids = &b->ids,
                       .positions = &b->positions,
                       .samples = &b->samples,
                       .docs = {&b->cu, t->cu, t->n_docs, longest}};
    free(positions);
    free(samples);
}

static void batch_clear(DeviceBatch *b)
{
    tensor_clear(&b->ids);
    tensor_clear(&b->positions);
    tensor_clear(&b->samples);
    tensor_clear(&b->cu);
}

float *model_logits(ModelRun *r, const Tokens *t)
{
    DeviceBatch b;
    batch_init(&b, &r->dev, t);
    Ctx c = {.dev = &r->dev, .scope = scope_new(&r->dev, r->arena), .arena = r->arena};
    Tensor *logits = llama_logits(&c, &r->m, llama_forward(&c, &r->m, &b.batch));
    float *out = xmalloc((size_t)tensor_numel(logits) * sizeof *out);
    tensor_read_f32(&r->dev, logits, out);
    scope_free(c.scope);
    batch_clear(&b);
    arena_reset(r->arena);
    return out;
}

double model_backward(ModelRun *r, const Tokens *t)
{
    Device *d = &r->dev;
    free_grads(r);
    r->grads = xcalloc((size_t)r->m.params.n, sizeof *r->grads);
    for (int i = 0; i < r->m.params.n; i++) {
        Tensor *p = &r->m.params.items[i]->t;
        if (!p->needs_grad) continue;
        r->grads[i] = tensor_alloc(d, DT_F32, p->n_dims, p->shape, MEM_GRAD);
        p->grad = &r->grads[i];
        p->grad_written = false;
    }

    /* A token predicts the label of the next one of its document. */
    int32_t *rows = xmalloc((size_t)t->n * sizeof *rows), *targets = xmalloc((size_t)t->n * 4);
    int64_t n_trained = 0, one = 1;
    for (int doc = 0; doc < t->n_docs; doc++)
        for (int32_t i = t->cu[doc]; i + 1 < t->cu[doc + 1]; i++)
            if (t->labels[i + 1] != -100) {
                rows[n_trained] = i;
                targets[n_trained++] = t->labels[i + 1];
            }
    Tensor rows_t = upload(d, DT_I32, n_trained, rows);
    Tensor targets_t = upload(d, DT_I32, n_trained, targets);
    Tensor loss_sum = tensor_alloc(d, DT_F32, 1, &one, MEM_ACTIVATION);
    tensor_zero(d, &loss_sum);
    DeviceBatch b;
    batch_init(&b, d, t);

    Ctx c = {
        .dev = d, .tape = tape_new(r->arena), .scope = scope_new(d, r->arena), .arena = r->arena};
    scope_push(c.scope);
    Tensor *h = op_gather_rows(&c, llama_forward(&c, &r->m, &b.batch), &rows_t);
    Tensor *loss = op_linear_xent(&c, h, llama_head(&r->m), &targets_t, 1.0f / (float)n_trained,
                                  &loss_sum, NULL, 0);
    tensor_seed_grad(&c, loss, 1);
    scope_pop(c.scope, NULL);
    tape_backward(&c);
    float sum;
    tensor_read_f32(d, &loss_sum, &sum);

    tape_free(c.tape);
    scope_free(c.scope);
    batch_clear(&b);
    tensor_clear(&rows_t);
    tensor_clear(&targets_t);
    tensor_clear(&loss_sum);
    free(rows);
    free(targets);
    arena_reset(r->arena);
    return (double)sum / (double)n_trained;
}

float *model_gradient(ModelRun *r, const char *name, int64_t *n)
{
    int slice;
    Param *p = paramset_find(&r->m.params, name, &slice);
    if (!p || !p->t.grad) return NULL;
    cr_assert(p->t.grad_written, "%s received no gradient", name);
    int64_t cols = p->t.n_dims == 2 ? p->t.shape[1] : 1, all = tensor_numel(p->t.grad);
    *n = p->slices[slice].rows * cols;
    float *whole = xmalloc((size_t)all * sizeof *whole);
    tensor_read_f32(&r->dev, p->t.grad, whole);
    memmove(whole, whole + p->slices[slice].row0 * cols, (size_t)*n * sizeof *whole);
    return whole;
}

/* --- files ------------------------------------------------------------------------------------------- */

static int32_t *ints_of(const SafeTensors *f, const char *name, int64_t first, int64_t n)
{
    const SafeTensor *t = safetensors_find(f, name);
    cr_assert(t && t->dtype == ST_I64 && safe_numel(t) >= first + n, "%s", name);
    int32_t *out = xmalloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, t->data + (size_t)(first + i) * sizeof v, sizeof v);
        out[i] = (int32_t)v;
    }
    return out;
}

Tokens tokens_from_rows(const SafeTensors *f, int64_t first, int64_t n_rows)
{
    const SafeTensor *ids = safetensors_find(f, "input_ids");
    cr_assert(ids);
    int64_t length = ids->shape[ids->n_dims - 1];
    Tokens t = {.n = n_rows * length, .n_docs = (int)n_rows};
    t.ids = ints_of(f, "input_ids", first * length, t.n);
    t.labels = ints_of(f, "labels", first * length, t.n);
    t.cu = xmalloc((size_t)(n_rows + 1) * sizeof *t.cu);
    for (int64_t i = 0; i <= n_rows; i++)
        t.cu[i] = (int32_t)(i * length);
    return t;
}

Tokens tokens_packed(const SafeTensors *f)
{
    Tokens t = {.n = safe_numel(safetensors_find(f, "input_ids")),
                .n_docs = (int)safe_numel(safetensors_find(f, "cu_seqlens")) - 1};
    t.ids = ints_of(f, "input_ids", 0, t.n);
    t.labels = ints_of(f, "labels", 0, t.n);
    t.cu = ints_of(f, "cu_seqlens", 0, t.n_docs + 1);
    return t;
}

void tokens_free(Tokens *t)
{
    free(t->ids);
    free(t->labels);
    free(t->cu);
}

double relative_difference(const float *a, const float *b, int64_t n)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d; /* a NaN must not pass */
        if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
    }
    return worst == 0 ? 0 : worst / largest;
}

const float *floats_of(const SafeTensors *f, const char *name, int64_t *n)
{
    const SafeTensor *t = safetensors_find(f, name);
    cr_assert(t && t->dtype == ST_F32 && (uintptr_t)t->data % sizeof(float) == 0, "%s", name);
    *n = safe_numel(t);
    return (const float *)(const void *)t->data;
}
