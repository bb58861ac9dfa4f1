/* What must not change a run: how a step is cut into micro-batches, packing, recompute, threads. */
#include "base/str.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* 120 documents of 2 to 40 tokens. */
static Training run(const char *out, const char *const *more)
{
    char *model = source_path("tests/fixtures/models/llama3-d64");
    char *config =
        str_format("model: {path: \"%s\"}\n"
                   "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off, "
                   "packing: off}\n"
                   "batch: {global: 8}\n"
                   "optim: {lr: 0.002, weight_decay: 0.1}\n"
                   "train: {max_steps: 20}\n"
                   "log: {tensorboard: false}\n"
                   "output: \"%s\"\n",
                   model, model, out);
    Training t = training_run(config, more);
    training_print(&t);
    cr_assert_eq(t.status, OK);
    free(model);
    free(config);
    return t;
}

typedef struct Way {
    const char *name;
    const char *overrides[8];
} Way;

/* Losses of all ways against the first: relative 1e-6 for 3 steps, 2e-5 for 20. */
static int compare(const Way *ways, int n)
{
    int failed = 0;
    Training first = {0};
    for (int i = 0; i < n; i++) {
        char *out = tmp_dir();
        Training t = run(out, ways[i].overrides);
        tmp_dir_remove(out);
        if (i == 0) {
            first = t;
            continue;
        }
        cr_assert_eq(training_steps(&t), training_steps(&first));
        double early = 0, all = 0;
        for (int k = 0; k < training_steps(&t); k++) {
            double want = training_value(&first, k, "loss");
            double off = fabs(training_value(&t, k, "loss") / want - 1);
            if (k < 3) early = fmax(early, off);
            all = fmax(all, off);
        }
        bool ok = early <= 1e-6 && all <= 2e-5;
        fprintf(stderr, "%-40s 3 steps: %.1e  20 steps: %.1e%s\n", ways[i].name, early, all,
                ok ? "" : "  <-- too far");
        failed += !ok;
        training_clear(&t);
    }
    training_clear(&first);
    return failed;
}

#define DROP "lora={dropout: 0.1, rank: 4}"
#define DORA "lora={dora: true, dropout: 0.1, rank: 4, targets: [q_proj, o_proj, up_proj]}"
#define SOME "lora={rank: 4, targets: [q_proj, o_proj], save_modules: [norm]}"

TestSuite(split, .timeout = 300); /* one for all: CONTRIBUTING.md */

Test(split, micro_batches_do_not_change_the_loss)
{
    static const Way full[] = {{"8 x 1", {"method=full", "batch.micro=8", NULL}},
                               {"full: 4 x 2", {"method=full", "batch.micro=4", NULL}},
                               {"full: 2 x 4", {"method=full", "batch.micro=2", NULL}},
                               {"full: 1 x 8", {"method=full", "batch.micro=1", NULL}}};
    static const Way lora[] = {{"8 x 1", {DROP, "batch.micro=8", NULL}},
                               {"lora with dropout: 2 x 4", {DROP, "batch.micro=2", NULL}},
                               {"lora with dropout: 1 x 8", {DROP, "batch.micro=1", NULL}}};
    static const Way dora[] = {{"8 x 1", {DORA, "batch.micro=8", NULL}},
                               {"dora with dropout: 2 x 4", {DORA, "batch.micro=2", NULL}}};
    static const Way rows[] = {
        {"8", {"method=full", "data.packing=best_fit", "batch.micro=8", NULL}},
        {"packed rows: 1 x 8", {"method=full", "data.packing=best_fit", "batch.micro=1", NULL}}};
    cr_expect_eq(compare(full, 4), 0);
    cr_expect_eq(compare(lora, 3), 0);
    cr_expect_eq(compare(dora, 2), 0);
    cr_expect_eq(compare(rows, 2), 0);
}

/* A step takes all 120 documents, so both ways have the same ones in it. */
Test(split, packing_does_not_change_the_loss)
{
    static const Way full[] = {
        {"padded", {"method=full", "batch.global=200", NULL}},
        {"full: packed", {"method=full", "batch.global=200", "data.packing=best_fit", NULL}},
        {"full: packed, 2 rows at once",
         {"method=full", "batch={global: 200, micro: 2}", "data.packing=best_fit", NULL}}};
    static const Way lora[] = {
        {"padded", {DROP, "batch.global=200", NULL}},
        {"lora with dropout: packed", {DROP, "batch.global=200", "data.packing=best_fit", NULL}}};
    cr_expect_eq(compare(full, 3), 0);
    cr_expect_eq(compare(lora, 2), 0);
}

/* Losses, norms and final weights, to the bit. */
static void expect_same_bits(const char *name, const char *const *a, const char *const *b)
{
    char *out_a = tmp_dir(), *out_b = tmp_dir();
    Training x = run(out_a, a), y = run(out_b, b);
    for (int k = 0; k < training_steps(&x); k++) {
        cr_expect_eq(training_value(&x, k, "loss"), training_value(&y, k, "loss"), "%s: step %d",
                     name, k);
        cr_expect_eq(training_value(&x, k, "grad_norm"), training_value(&y, k, "grad_norm"),
                     "%s: step %d", name, k);
    }
    cr_expect_eq(x.result.hash, y.result.hash, "%s", name);
    training_clear(&x);
    training_clear(&y);
    tmp_dir_remove(out_a);
    tmp_dir_remove(out_b);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static void expect_recompute_same_bits(const char *level)
{
    char *all = str_format("train.recompute=%s", level);
    char *one = str_format("train={recompute: %s, recompute_layers: [1]}", level);
    const char *const packed = "data.packing=best_fit", *const micro = "batch.micro=4";
    expect_same_bits("full", LIST("method=full"), LIST("method=full", all));
    expect_same_bits("full, packed", LIST("method=full", packed), LIST("method=full", packed, all));
    expect_same_bits("lora", LIST("lora.rank=4", packed), LIST("lora.rank=4", packed, all));
    expect_same_bits("lora with dropout", LIST(DROP), LIST(DROP, all));
    expect_same_bits("lora with dropout, packed, accumulated", LIST(DROP, packed, micro),
                     LIST(DROP, packed, micro, all));
    expect_same_bits("dora with dropout", LIST(DORA, packed, micro),
                     LIST(DORA, packed, micro, all));
    expect_same_bits("one layer", LIST("method=full"), LIST("method=full", one));
    expect_same_bits("adapters above layer 0 only", LIST("lora={layers: [1]}"),
                     LIST("lora={layers: [1]}", all));
    expect_same_bits("adapters on attention, a norm", LIST(SOME), LIST(SOME, all));
    free(all), free(one);
}

Test(split, recompute_changes_no_bit)
{
    expect_recompute_same_bits("selective");
    expect_recompute_same_bits("attention");
    expect_recompute_same_bits("full");
}

Test(split, threads_change_no_bit)
{
    expect_same_bits("full", LIST("method=full", "runtime.threads=1"),
                     LIST("method=full", "runtime.threads=3"));
    expect_same_bits("lora", LIST(DROP, "runtime.threads=1"), LIST(DROP, "runtime.threads=2"));
}

Test(split, seed_decides)
{
    char *out_a = tmp_dir(), *out_b = tmp_dir();
    Training x = run(out_a, LIST(DROP, "train.seed=1")), y = run(out_b, LIST(DROP, "train.seed=2"));
    cr_expect_neq(x.result.hash, y.result.hash);
    cr_expect_neq(training_value(&x, 0, "loss"),
                  training_value(&y, 0, "loss")); /* other documents */
    training_clear(&x);
    training_clear(&y);
    tmp_dir_remove(out_a);
    tmp_dir_remove(out_b);
}

/* Where every step has the same shape, the second asks for no more than the first. */
Test(split, memory_of_a_step_comes_back)
{
    char *out = tmp_dir(), *golden = source_path("tests/fixtures/golden/llama3-tiny");
    char *path = str_format("model.path=%s", golden),
         *data = str_format("data.train=%s/batches.jsonl", golden);
    const char *const ways[][6] = {{path, data, "method=full", "batch.micro=1", NULL},
                                   {path, data, "method=full", "train.recompute=full", NULL},
                                   {path, data, DROP, NULL}};
    for (int i = 0; i < 3; i++) {
        Training t = run(out, ways[i]);
        double live = training_value(&t, 0, "allocated_bytes");
        double peak = training_value(&t, 2, "peak_bytes");
        for (int k = 0; k < training_steps(&t); k++) {
            cr_expect_eq(training_value(&t, k, "allocated_bytes"), live, "way %d, step %d", i, k);
            /* trained tokens differ a little from step to step, and with them the logits' rows */
            if (k > 2)
                cr_expect_leq(training_value(&t, k, "peak_bytes"), peak * 1.05, "way %d, step %d",
                              i, k);
        }
        training_clear(&t);
    }
    free(path), free(data), free(golden);
    tmp_dir_remove(out);
}
