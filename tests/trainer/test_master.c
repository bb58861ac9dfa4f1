/* On a device that computes in bf16 everything that leaves a run or comes into it is the fp32 master: weights files,
 * checkpoints, the fingerprint.  The CPU's memory does for it: nothing is computed here but AdamW. */
#include "base/fs.h"
#include "base/str.h"
#include "model/hf_files.h"
#include "optim/adamw.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "trainer/apply.h"
#include "trainer/saver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A session whose device has bf16 working copies, with all of the model trained. */
static void open_session(Session *s, TrainConfig *c, const char *model)
{
    Err err = {0};
    Log log = {0};
    *c = (TrainConfig){.method = METHOD_FULL};
    *s = (Session){.cfg = c};
    cr_assert_eq(llama_config_load(&s->shape, model, &err), OK, "%s", err.line);
    DeviceOpts opts = {.threads = 2, .region_bytes = (size_t)256 << 20};
    cr_assert_eq(device_open(&s->dev, backend_find("cpu"), &opts, DT_BF16, &err), OK, "%s",
                 err.line);
    llama_init(&s->model, &s->shape, &s->dev, 16);
    s->has_model = true;
    apply_full(&s->model);
    s->comm = s->alone = comm_self();
    s->hosts = &s->alone;
    shards_init(&s->shards, &s->dev, &s->comm, &s->model.params, NULL);
    cr_assert_eq(model_load_weights(&s->model, model, &log, &err), OK, "%s", err.line);
}

/* One step of AdamW with some gradient, too small for the working copies to follow everywhere. */
static void step(Session *s)
{
    Device *d = &s->dev;
    AdamwOpts opts = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    int64_t n_scalars = STEP_N;
    Tensor scalars = tensor_alloc(d, DT_F32, 1, &n_scalars, MEM_OPTIMIZER);
    adamw_begin(d, &scalars, &opts, 1e-5, 1);
    for (int i = 0; i < s->shards.n; i++) {
        ParamShard *sh = &s->shards.items[i];
        d->k->fill_normal(d, &sh->grad, NULL, (uint64_t)i, 0, 1);
        AdamwArray a = {.weights = sh->weights,
                        .low = sh->low,
                        .grad = sh->grad,
                        .states = states_view(&sh->states, 0, sh->numel),
                        .args = adamw_args(&opts)};
        adamw_add_range(&a.args, &opts, sh->numel, 1, true);
        adamw_update(d, &a, &scalars);
    }
    tensor_clear(&scalars);
}

static SafeTensors *open_file(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    free(path);
    return f;
}

/* Every tensor of the file against the parameter's master, converted to the file's dtype. */
static void expect_masters(Session *s, const SafeTensors *f, const char *prefix, SafeDType dtype)
{
    int n = 0;
    for (int i = 0; i < safetensors_count(f); i++) {
        const SafeTensor *t = safetensors_at(f, i);
        int slice;
        if (!str_starts(t->name, prefix)) continue;
        Param *p = paramset_find(&s->model.params, t->name + strlen(prefix), &slice);
        cr_assert_not_null(p, "%s", t->name);
        cr_assert_eq(t->dtype, dtype, "%s", t->name);
        int64_t count = param_slice_numel(p, slice);
        float *master = xmalloc((size_t)count * sizeof *master);
        char *want = xmalloc((size_t)count * sizeof *master);
        DType to = DT_F32;
        safe_dtype_to_tensor(dtype, &to);
        param_read(&s->dev, p, slice, master);
        convert_from_f32(want, to, master, count);
        cr_assert_eq(memcmp(t->data, want, t->bytes), 0, "%s is not its master's", t->name);
        free(master), free(want);
        n++;
    }
    cr_assert_gt(n, 10);
}

static void save(Session *s, const char *dir, DType dtype)
{
    Err err = {0};
    cr_assert_eq(model_save(&s->model, dir, dtype, (uint64_t)1 << 30, &err), OK, "%s", err.line);
}

/* How many working copies are not their masters. */
static int64_t rounded(Session *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->shards.n; i++) {
        const ParamShard *sh = &s->shards.items[i];
        const int16_t *low = tensor_data(&sh->low);
        for (int64_t k = 0; k < sh->numel; k++)
            n += low[k] != 0;
    }
    return n;
}

Test(master, an_f32_model_stays_f32_to_the_bit, .timeout = 60)
{
    char *model = source_path("tests/fixtures/models/llama3-d64"), *dir = tmp_dir();
    Session s;
    TrainConfig c;
    open_session(&s, &c, model);
    cr_assert_gt(rounded(&s), 1000);
    save(&s, dir, DT_N);
    SafeTensors *before = open_file(model, "model.safetensors"),
                *after = open_file(dir, "model.safetensors");
    for (int i = 0; i < safetensors_count(after); i++) {
        const SafeTensor *t = safetensors_at(after, i), *was = safetensors_find(before, t->name);
        cr_assert(was && was->dtype == t->dtype && was->bytes == t->bytes, "%s", t->name);
        cr_assert_eq(memcmp(was->data, t->data, t->bytes), 0, "%s", t->name);
    }
    safetensors_close(before);
    safetensors_close(after);
    step(&s);
    save(&s, dir, DT_N);
    after = open_file(dir, "model.safetensors");
    expect_masters(&s, after, "", ST_F32);
    safetensors_close(after);
    session_close(&s);
    tmp_dir_remove(dir);
    free(model);
}

/* A bf16 file is the masters to begin with, and after training one rounding of them: not of the working copies, which lie
 * elsewhere at ties, and not a second one. */
Test(master, a_bf16_model_is_rounded_once, .timeout = 60)
{
    char *model = source_path("tests/fixtures/models/llama2-d64"), *half = tmp_dir(),
         *dir = tmp_dir();
    Session s;
    TrainConfig c;
    open_session(&s, &c, model);
    save(&s, half, DT_BF16);
    session_close(&s);
    open_session(&s, &c, half);
    cr_assert_eq(rounded(&s), 0);
    step(&s);
    cr_assert_gt(rounded(&s), 1000);
    save(&s, dir, DT_N);
    SafeTensors *f = open_file(dir, "model.safetensors");
    expect_masters(&s, f, "", ST_BF16);
    safetensors_close(f);
    Json *config;
    Err err = {0};
    char *path = path_join(dir, "config.json");
    cr_assert_eq(json_parse_file(&config, path, &err), OK, "%s", err.line);
    const char *dtype;
    cr_assert(json_str(json_get(config, "torch_dtype"), &dtype, NULL));
    cr_assert_str_eq(dtype, "bfloat16");
    json_free(config);
    free(path);
    session_close(&s);
    tmp_dir_remove(dir);
    tmp_dir_remove(half);
    free(model);
}

Test(master, a_checkpoint_brings_back_every_bit, .timeout = 60)
{
    char *model = source_path("tests/fixtures/models/qwen3-d64"), *dir = tmp_dir();
    Session s;
    TrainConfig c;
    Err err = {0};
    open_session(&s, &c, model);
    step(&s);
    uint64_t hash = shards_hash(&s.shards);
    Saver *saver;
    char *saved = path_join(dir, "saved");
    cr_assert_eq(saver_new(&saver, &s, &err), OK, "%s", err.line);
    cr_assert_eq(saver_begin(saver, saved, SAVE_ALL, &err), OK, "%s", err.line);
    cr_assert_eq(saver_end(saver, &err), OK, "%s", err.line);
    saver_free(saver);
    SafeTensors *f = open_file(saved, "state.safetensors");
    expect_masters(&s, f, "master.", ST_F32);
    safetensors_close(f);
    f = open_file(saved, "model.safetensors");
    expect_masters(&s, f, "", ST_F32);
    safetensors_close(f);
    session_close(&s);
    open_session(&s, &c, model);
    cr_assert_neq(shards_hash(&s.shards), hash);
    cr_assert_eq(state_file_read(&s, saved, STATE_ALL, &err), OK, "%s", err.line);
    cr_assert_eq(shards_hash(&s.shards), hash);
    session_close(&s);
    tmp_dir_remove(dir);
    free(saved);
    free(model);
}

/* Random weights are the same masters whatever they are computed in. */
Test(master, random_weights_are_those_of_fp32, .timeout = 60)
{
    char *model = source_path("tests/fixtures/models/llama2-d64");
    uint64_t hash[2];
    for (int k = 0; k < 2; k++) {
        Session s;
        TrainConfig c;
        open_session(&s, &c, model);
        if (k) { /* the same with f32 weights */
            LlamaConfig shape = s.shape;
            session_close(&s);
            Err err = {0};
            DeviceOpts opts = {.threads = 2, .region_bytes = (size_t)256 << 20};
            s = (Session){.cfg = &c, .shape = shape};
            cr_assert_eq(device_open(&s.dev, backend_find("cpu"), &opts, DT_F32, &err), OK);
            llama_init(&s.model, &s.shape, &s.dev, 16);
            s.has_model = true;
            apply_full(&s.model);
            s.comm = comm_self();
            shards_init(&s.shards, &s.dev, &s.comm, &s.model.params, NULL);
        }
        model_init_random(&s.model, 7);
        hash[k] = shards_hash(&s.shards);
        session_close(&s);
    }
    cr_assert_eq(hash[0], hash[1]);
    free(model);
}
