/* What transformers and PEFT computed from the same files: logits, loss and every gradient within 1e-5 of the
 * tensor's largest value; and, on a GPU in bf16, that they come through the library's attention. */
#include "base/fs.h"
#include "kernels/meter.h"
#include "tests/model/model_run.h"
#include "tests/support/shared.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* In bf16 against the same fp32 numbers: a step of 2^-8 in each of a few dozen roundings; a wrong mask, offset or
 * scale is off by a large part of the norm. */
static double tolerance(const char *what)
{
    if (test_precision() == DT_F32) return 1e-5;
    return strcmp(what, "loss") == 0 ? 0.005 : strcmp(what, "logits") == 0 ? 0.03 : 0.1;
}

static double difference(const float *got, const float *want, int64_t n)
{
    if (test_precision() == DT_F32) return relative_difference(got, want, n);
    double off = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        off += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(off / norm);
}

static const char *const golden[] = {"golden/llama2-tiny", "golden/llama3-tiny",
                                     "golden/qwen2-tiny"};
static const char *const models[] = {
    "models/llama2-d64",  "models/llama2-d128",  "models/llama3-d64", "models/llama3-d128",
    "models/mistral-d64", "models/mistral-d128", "models/qwen2-d64",  "models/qwen2-d128",
    "models/qwen3-d64",   "models/qwen3-d128",
};
enum { N_GOLDEN = sizeof golden / sizeof *golden, N_MODELS = sizeof models / sizeof *models };

static char *fixture(const char *folder, const char *file)
{
    char *rel = str_format("tests/fixtures/%s%s%s", folder, file[0] ? "/" : "", file);
    char *path = source_path(rel);
    free(rel);
    return path;
}

static SafeTensors *open_file(const char *folder, const char *file)
{
    Err err = {0};
    SafeTensors *f;
    char *path = fixture(folder, file);
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    free(path);
    return f;
}

static void expect_close(const char *folder, const char *what, const float *got,
                         const SafeTensors *f, const char *name)
{
    int64_t n;
    const float *want = floats_of(f, name, &n);
    double d = difference(got, want, n);
    cr_expect(d <= tolerance(name), "%s: %s differs by %g of its size", folder, what, d);
}

/* Every "grad.NAME" of the file; and the file has one for every parameter. */
static void expect_gradients(ModelRun *r, const char *folder, const SafeTensors *f)
{
    int n_compared = 0, n_slices = 0;
    for (int i = 0; i < safetensors_count(f); i++) {
        const char *name = safetensors_at(f, i)->name;
        if (!str_starts(name, "grad.")) continue;
        int64_t n;
        float *got = model_gradient(r, name + strlen("grad."), &n);
        cr_assert(got, "%s: no parameter %s", folder, name);
        cr_assert_eq(n, safe_numel(safetensors_at(f, i)), "%s: %s", folder, name);
        expect_close(folder, name, got, f, name);
        free(got);
        n_compared++;
    }
    for (int i = 0; i < r->m.params.n; i++)
        n_slices += r->m.params.items[i]->n_slices;
    cr_expect_eq(n_compared, n_slices, "%s: %d of %d gradients compared", folder, n_compared,
                 n_slices);
}

static void expect_batch(ModelRun *r, const char *folder, const Tokens *t, const SafeTensors *f)
{
    float *logits = model_logits(r, t);
    expect_close(folder, "logits", logits, f, "logits");
    free(logits);
    int64_t n;
    double loss = model_backward(r, t), want = (double)*floats_of(f, "loss", &n);
    cr_expect(fabs(loss - want) <= tolerance("loss") * want, "%s: loss %.8f, expected %.8f", folder,
              loss, want);
    expect_gradients(r, folder, f);
}

/* Heads of 64 and more go to the library's engine, where the precision is its own. */
static void expect_flash(const ModelRun *r)
{
    if (test_precision() == DT_BF16 && r->m.cfg.head_dim >= 64) test_device_expect_flash(&r->dev);
}

static void expect_first_step(const char *folder)
{
    static const char *const configs[] = {"config.json", "config.transformers4.json"};
    for (int k = 0; k < 2; k++) {
        ModelRun r;
        char *dir = fixture(folder, ""), *config = fixture(folder, configs[k]);
        model_open(&r, dir, config, NULL);
        model_train_all(&r);
        SafeTensors *f = open_file(folder, "io.safetensors");
        Tokens t = tokens_from_rows(f, 0, 2);
        expect_batch(&r, folder, &t, f);
        expect_flash(&r);
        tokens_free(&t);
        safetensors_close(f);
        model_close(&r);
        free(dir);
        free(config);
    }
}

Test(golden, logits_loss_and_gradients)
{
    for (int i = 0; i < N_GOLDEN; i++)
        expect_first_step(golden[i]);
}

/* Head widths 64 and 128, each row a document of the same length. */
Test(golden, every_architecture)
{
    for (int i = 0; i < N_MODELS; i++)
        expect_first_step(models[i]);
}

Test(golden, packed_documents)
{
    for (int i = 0; i < N_MODELS; i++) {
        ModelRun r;
        char *dir = fixture(models[i], "");
        model_open(&r, dir, NULL, NULL);
        model_train_all(&r);
        SafeTensors *f = open_file(models[i], "packed_io.safetensors");
        Tokens t = tokens_packed(f);
        expect_batch(&r, models[i], &t, f);
        expect_flash(&r);
        tokens_free(&t);
        safetensors_close(f);
        model_close(&r);
        free(dir);
    }
}

/* Forgetting what a segment computed and computing it again gives the same bits: where sums have an order. */
static void expect_same_bits(Recompute level)
{
    const char *backend = getenv("LORAC_TEST_BACKEND");
    if (backend && strcmp(backend, "cpu") != 0)
        cr_skip_test("sums by atomics; runtime.deterministic has a test of its own");
    for (int i = 0; i < N_GOLDEN; i++) {
        ModelRun a, b;
        char *dir = fixture(golden[i], "");
        model_open(&a, dir, NULL, NULL);
        model_open(&b, dir, NULL, NULL);
        model_train_all(&a);
        model_train_all(&b);
        for (int64_t l = 0; l < b.m.cfg.n_layers; l++)
            b.m.segments[l].recompute = level;
        SafeTensors *f = open_file(golden[i], "io.safetensors");
        Tokens t = tokens_from_rows(f, 0, 2);
        cr_expect_eq(model_backward(&a, &t), model_backward(&b, &t));
        for (int p = 0; p < a.m.params.n; p++)
            for (int s = 0; s < a.m.params.items[p]->n_slices; s++) {
                int64_t n;
                const char *name = a.m.params.items[p]->slices[s].name;
                float *ga = model_gradient(&a, name, &n), *gb = model_gradient(&b, name, &n);
                cr_expect_eq(memcmp(ga, gb, (size_t)n * sizeof *ga), 0, "%s: %s", golden[i], name);
                free(ga);
                free(gb);
            }
        tokens_free(&t);
        safetensors_close(f);
        model_close(&a);
        model_close(&b);
        free(dir);
    }
}

Test(golden, recompute_changes_no_bit)
{
    for (int level = RECOMPUTE_NONE + 1; level < RECOMPUTE_LEVELS; level++)
        expect_same_bits((Recompute)level);
}

Test(golden, adapters_of_peft)
{
    static const char *const kinds[] = {"lora", "rslora", "dora"};
    for (int i = 0; i < N_GOLDEN; i++)
        for (int k = 0; k < 3; k++) {
            ModelRun r;
            char *final = str_format("%s_final", kinds[k]);
            char *file = str_format("%s_logits.safetensors", kinds[k]);
            char *dir = fixture(golden[i], ""), *adapter = fixture(golden[i], final);
            model_open(&r, dir, NULL, adapter);
            SafeTensors *io = open_file(golden[i], "io.safetensors");
            SafeTensors *f = open_file(golden[i], file);
            Tokens t = tokens_from_rows(io, 0, 2);
            float *logits = model_logits(&r, &t);
            expect_close(golden[i], file, logits, f, "logits");
            /* that the adapter matters at all */
            int64_t n;
            const float *without = floats_of(io, "logits", &n);
            cr_expect_gt(relative_difference(logits, without, n), 1e-3);
            free(logits);
            tokens_free(&t);
            safetensors_close(io);
            safetensors_close(f);
            model_close(&r);
            free(dir);
            free(adapter);
            free(final);
            free(file);
        }
}

static int64_t calls_of(const Meter *m, const char *kernel)
{
    for (int i = 0; i < N_KERNELS; i++)
        if (strcmp(kernel_name(i), kernel) == 0) return m->kernels[i].calls;
    cr_assert(false, "no kernel %s", kernel);
    return 0;
}

/* The logits of a pass, and how many norms of base and of base and adapter it measured. */
static float *logits_with_norms(ModelRun *r, const Tokens *t, int64_t of_base, int64_t of_both)
{
    Meter meter;
    meter_attach(&meter, &r->dev, NULL, false);
    float *logits = model_logits(r, t);
    meter_detach(&meter, &r->dev);
    cr_expect_eq(calls_of(&meter, "row_norms"), of_base);
    cr_expect_eq(calls_of(&meter, "adapted_norms"), of_both);
    return logits;
}

/* DoRA's norms are measured where the adapter is another than before, and the base's once. */
Test(golden, norms_follow_the_adapter)
{
    ModelRun r;
    Err err = {0};
    char *dir = fixture(golden[0], ""), *begin = fixture(golden[0], "dora_init"),
         *end = fixture(golden[0], "dora_final");
    model_open(&r, dir, NULL, begin);
    SafeTensors *io = open_file(golden[0], "io.safetensors"),
                *f = open_file(golden[0], "dora_logits.safetensors");
    Tokens t = tokens_from_rows(io, 0, 2);
    float *first = logits_with_norms(&r, &t, r.lora.n, r.lora.n);
    float *again = logits_with_norms(&r, &t, 0, 0);
    cr_expect_eq(memcmp(first, again, (size_t)(t.n * r.m.cfg.vocab_size) * sizeof *first), 0);
    cr_assert_eq(lora_load(&r.lora, &r.m, end, &err), OK, "%s", err.line);
    float *other = logits_with_norms(&r, &t, 0, r.lora.n);
    expect_close(golden[0], "dora_logits", other, f, "logits");
    free(first), free(again), free(other);
    tokens_free(&t);
    safetensors_close(io);
    safetensors_close(f);
    model_close(&r);
    free(dir), free(begin), free(end);
}
