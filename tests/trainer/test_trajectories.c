/* Whole runs against transformers and PEFT (tests/fixtures/golden): loss, gradient norm and rate of every step,
 * and the parameters at the end. */
#include "base/str.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    const char *name;  /* NAME.json has the log */
    const char *final; /* what the reference saved, below the model's folder */
    const char *mine;  /* what we write, below the output */
    const char *data;
    const char *overrides[4];
    double tolerance; /* of loss and norm; 0: 2e-5 */
} Case;

#define ADAPTER "adapter_model.safetensors"

static const Case golden_cases[] = {
    {"sft", "sft_final.safetensors", "model.safetensors", "batches.jsonl", {"train.max_steps=20"}},
    {"sft_accum2",
     NULL,
     NULL,
     "batches.jsonl",
     {"train.max_steps=10", "batch={global: 4, micro: 2}"}},
    {"lora",
     "lora_final/" ADAPTER,
     ADAPTER,
     "batches.jsonl",
     {"train.max_steps=20", "method=lora", "lora.adapter=lora_init"}},
    {"rslora",
     "rslora_final/" ADAPTER,
     ADAPTER,
     "batches.jsonl",
     {"train.max_steps=6", "method=lora", "lora.adapter=rslora_init"}},
    {"dora",
     "dora_final/" ADAPTER,
     ADAPTER,
     "batches.jsonl",
     {"train.max_steps=6", "method=lora", "lora.adapter=dora_init"}},
    {0}};

/* Packed: six documents of unequal length a step. */
static const Case model_cases[] = {
    {"sft", NULL, NULL, "batches.jsonl", {"train.max_steps=20"}},
    {"lora",
     "lora_final/" ADAPTER,
     ADAPTER,
     "batches.jsonl",
     {"train.max_steps=20", "method=lora", "lora.adapter=lora_init"}},
    {"packed_sft", NULL, NULL, "packed.jsonl", {"train.max_steps=20", "batch.global=6"}},
    {"packed_lora",
     NULL,
     NULL,
     "packed.jsonl",
     {"train.max_steps=20", "batch={global: 6, micro: 2}", "method=lora",
      "lora.adapter=lora_init"}},
    {0}};

/* Against the same logs, whose states are f32.  The tolerance was set after seeing 1.1e-3: what two to three digits of m and v
 * cost in 20 steps. */
static const Case int8_cases[] = {
    {"sft", NULL, NULL, "batches.jsonl", {"train.max_steps=20", "optim.states=int8"}, 2e-3}, {0}};

static const char *const golden[] = {"golden/llama2-tiny", "golden/llama3-tiny",
                                     "golden/qwen2-tiny", NULL};
static const char *const models[] = {"models/llama2-d64",
                                     "models/llama3-d64",
                                     "models/mistral-d64",
                                     "models/qwen2-d64",
                                     "models/qwen3-d64",
                                     "models/llama2-d128",
                                     "models/llama3-d128",
                                     "models/mistral-d128",
                                     "models/qwen2-d128",
                                     "models/qwen3-d128",
                                     NULL};

/* The reference's optimizer: golden/README.md. */
static const char *const config =
    "method: full\n"
    "data: {format: tokens, packing: off, shuffle: false, max_length: 48, cache: off}\n"
    "batch: {global: 2}\n"
    "optim: {lr: 0.002, beta2: 0.95, weight_decay: 0.1, warmup_steps: 3}\n"
    "log: {tensorboard: false}\n";

static bool check_log(const char *name, const Training *t, const char *path, double tolerance)
{
    Json *root;
    Err err = {0};
    cr_assert_eq(json_parse_file(&root, path, &err), OK, "%s", err.line);
    const Json *log = json_get(root, "log");
    cr_assert_eq(training_steps(t), (int)json_size(log), "%s: %d steps", name, training_steps(t));
    double worst = 0, worst_norm = 0;
    for (size_t i = 0; i < json_size(log); i++) {
        double loss, norm, lr;
        const Json *want = json_at(log, i);
        cr_assert(json_number(json_get(want, "loss"), &loss));
        cr_assert(json_number(json_get(want, "grad_norm"), &norm));
        cr_assert(json_number(json_get(want, "lr"), &lr));
        worst = fmax(worst, fabs(training_value(t, (int)i, "loss") - loss));
        worst_norm = fmax(worst_norm, fabs(training_value(t, (int)i, "grad_norm") / norm - 1));
        cr_assert_float_eq(training_value(t, (int)i, "lr"), lr, 1e-12);
    }
    json_free(root);
    bool ok = worst <= tolerance && worst_norm <= tolerance;
    fprintf(stderr, "%-24s loss within %.1e, gradient norm within %.1e%s\n", name, worst,
            worst_norm, ok ? "" : "  <-- too far");
    return ok;
}

static bool check_tensors(const char *name, const char *got_path, const char *want_path)
{
    SafeTensors *got, *want;
    Err err = {0};
    cr_assert_eq(safetensors_open(&got, got_path, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_open(&want, want_path, &err), OK, "%s", err.line);
    bool ok = true;
    double worst = 0;
    for (int i = 0; i < safetensors_count(want); i++) {
        const SafeTensor *w = safetensors_at(want, i), *g = safetensors_find(got, w->name);
        cr_assert_not_null(g, "%s: no %s", name, w->name);
        cr_assert_eq(g->bytes, w->bytes, "%s: %s", name, w->name);
        double diff = 0, size = 0;
        for (int64_t k = 0; k < safe_numel(w); k++) {
            float a, b;
            memcpy(&a, g->data + 4 * k, 4);
            memcpy(&b, w->data + 4 * k, 4);
            diff += ((double)a - (double)b) * ((double)a - (double)b);
            size += (double)b * (double)b;
        }
        double off = size > 0 ? sqrt(diff / size) : sqrt(diff);
        worst = fmax(worst, off);
        /* a key's bias has gradient 0 (softmax ignores it): what moves it is rounding alone */
        if (off > (str_ends(w->name, "k_proj.bias") ? 1e-3 : 2e-5)) {
            fprintf(stderr, "%s: %s is off by %.1e\n", name, w->name, off);
            ok = false;
        }
    }
    cr_assert_eq(safetensors_count(got), safetensors_count(want));
    fprintf(stderr, "%-24s parameters within %.1e\n", name, worst);
    safetensors_close(got);
    safetensors_close(want);
    return ok;
}

static bool run_case(const char *model, const Case *c)
{
    char *rel = str_format("tests/fixtures/%s", model), *dir = source_path(rel);
    char *out = tmp_dir(), *name = str_format("%s %s", model, c->name);
    char *given[8];
    int n = 0;
    given[n++] = str_format("model.path=%s", dir);
    given[n++] = str_format("data.train=%s/%s", dir, c->data);
    given[n++] = str_format("output=%s", out);
    for (int i = 0; i < 4 && c->overrides[i]; i++)
        given[n++] = str_starts(c->overrides[i], "lora.adapter=")
                         ? str_format("lora.adapter=%s/%s", dir, c->overrides[i] + 13)
                         : xstrdup(c->overrides[i]);
    given[n] = NULL;
    Training t = training_run(config, (const char *const *)given);
    training_print(&t);
    cr_assert_eq(t.status, OK, "%s", name);

    char *log = str_format("%s/%s.json", dir, c->name);
    bool ok = check_log(name, &t, log, c->tolerance > 0 ? c->tolerance : 2e-5);
    if (c->final) {
        char *got = str_format("%s/%s", out, c->mine), *want = str_format("%s/%s", dir, c->final);
        ok &= check_tensors(name, got, want);
        free(got);
        free(want);
    }
    for (int i = 0; i < n; i++)
        free(given[i]);
    free(log);
    training_clear(&t);
    tmp_dir_remove(out);
    free(rel), free(dir), free(name);
    return ok;
}

static int run_all(const char *const *folders, const Case *cases)
{
    int failed = 0;
    for (; *folders; folders++)
        for (const Case *c = cases; c->name; c++)
            failed += !run_case(*folders, c);
    return failed;
}

TestSuite(trajectories, .timeout = 200); /* one for all: CONTRIBUTING.md */

Test(trajectories, equal_the_reference)
{
    cr_assert_eq(run_all(golden, golden_cases), 0);
}

Test(trajectories, equal_transformers_for_every_architecture)
{
    cr_assert_eq(run_all(models, model_cases), 0);
}

Test(trajectories, states_in_8_bits_stay_near)
{
    cr_assert_eq(run_all(golden, int8_cases), 0);
    cr_assert_eq(run_all(models, int8_cases), 0);
}
