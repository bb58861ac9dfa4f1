/* Updating in backward and clipping by block: the same bits as after the whole backward pass, less memory, the same
 * checkpoints; what the clipped gradient of a block is. */
#include "base/fs.h"
#include "base/str.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"
#include "trainer/step.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static Training run(const char *model, const char *out, const char *const *more)
{
    char *data = source_path("tests/fixtures/models/llama3-d64/packed.jsonl");
    char *rel = str_format("tests/fixtures/%s", model), *path = source_path(rel);
    char *config = str_format("model: {path: \"%s\"}\nmethod: full\n"
                              "data: {train: \"%s\", format: tokens, max_length: 64, cache: off}\n"
                              "batch: {global: 4}\n"
                              "optim: {lr: 0.002, weight_decay: 0.1, clip_by: block, clip: 0.2}\n"
                              "train: {max_steps: 8}\nsave: {every: 4}\n"
                              "log: {tensorboard: false}\noutput: \"%s\"\n",
                              path, data, out);
    Training t = training_run(config, more);
    free(data), free(rel), free(path), free(config);
    return t;
}

typedef struct Case {
    const char *model, *overrides[4];
} Case;

/* Separate and tied heads, biases, head norms, recompute, no clipping at all. */
static const Case cases[] = {
    {"models/llama3-d64", {NULL}},
    {"models/llama3-d64", {"train.recompute=full", NULL}},
    {"models/llama3-d64", {"train.recompute=selective", "optim={clip: 0, clip_by: global}", NULL}},
    {"models/qwen2-d64", {NULL}},
    {"models/qwen3-d64", {"optim.clip=1000", NULL}},
    {"golden/qwen2-tiny", {"train.recompute=attention", NULL}},
};

TestSuite(update, .timeout = 200); /* one for all: CONTRIBUTING.md */

Test(update, in_backward_has_the_bits_of_after)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Case *c = &cases[i];
        const char *more[6] = {"train.update=after"};
        int n = 1;
        for (; c->overrides[n - 1]; n++)
            more[n] = c->overrides[n - 1];
        char *dir[2] = {tmp_dir(), tmp_dir()};
        Training t[2];
        for (int k = 0; k < 2; k++) {
            more[0] = k ? "train.update=in_backward" : "train.update=after";
            t[k] = run(c->model, dir[k], more);
            training_print(&t[k]);
            cr_assert_eq(t[k].status, OK, "%s", c->model);
            cr_assert_eq(training_steps(&t[k]), 8);
        }
        for (int step = 0; step < 8; step++) {
            cr_expect_eq(training_value(&t[0], step, "loss"), training_value(&t[1], step, "loss"),
                         "%s, step %d: loss", c->model, step);
            double norm = training_value(&t[0], step, "grad_norm");
            cr_expect_float_eq(training_value(&t[1], step, "grad_norm"), norm, 1e-6 * norm,
                               "%s, step %d: norm", c->model, step);
        }
        cr_expect_eq(t[0].result.hash, t[1].result.hash, "%s", c->model);
        cr_expect(same_file(dir[0], dir[1], "checkpoint-8/state.safetensors"), "%s", c->model);
        for (int k = 0; k < 2; k++) {
            training_clear(&t[k]);
            tmp_dir_remove(dir[k]);
        }
    }
}

Test(update, a_run_in_backward_goes_on_where_it_stopped)
{
    char *whole = tmp_dir(), *parts = tmp_dir();
    const char *const *in_backward = LIST("train.update=in_backward");
    Training a = run("models/qwen2-d64", whole, in_backward);
    Training b = run("models/qwen2-d64", parts, LIST("train={update: in_backward, max_steps: 8}"));
    training_clear(&b);
    char *last = path_join(parts, "checkpoint-8");
    Err err = {0};
    cr_assert_eq(dir_remove(last, &err), OK, "%s", err.line);
    b = run("models/qwen2-d64", parts, in_backward);
    cr_expect_eq(b.result.resumed_from, 4);
    cr_expect_eq(a.result.hash, b.result.hash);
    training_clear(&a);
    training_clear(&b);
    free(last);
    tmp_dir_remove(whole);
    tmp_dir_remove(parts);
}

/* The unit of a tensor: 0 the embedding, then the blocks, then norm and head. */
static int unit_of(const char *name)
{
    const char *layer = strstr(name, "layers.");
    if (layer) return 1 + atoi(layer + strlen("layers."));
    return strstr(name, "embed_tokens") ? 0 : 9;
}

/* After one step m is (1 - beta1) times the gradient that AdamW saw: of norm `clip` in every block. */
Test(update, each_block_is_clipped_by_its_own_norm)
{
    char *dir = tmp_dir();
    Training t =
        run("models/llama3-d64", dir, LIST("optim.clip=0.01", "train.max_steps=1", "save.every=1"));
    training_print(&t);
    cr_assert_eq(t.status, OK);
    double norm = training_value(&t, 0, "grad_norm"), squares[10] = {0};
    cr_assert_gt(norm, 0.1); /* so that every block is above */
    char *path = path_join(dir, "checkpoint-1/state.safetensors");
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    for (int i = 0; i < safetensors_count(f); i++) {
        const SafeTensor *x = safetensors_at(f, i);
        if (!str_starts(x->name, "m.")) continue;
        for (int64_t k = 0; k < safe_numel(x); k++) {
            float v;
            memcpy(&v, x->data + 4 * k, sizeof v);
            squares[unit_of(x->name)] += (double)v * (double)v;
        }
    }
    int n = 0;
    for (int i = 0; i < 10; i++) {
        if (squares[i] == 0) continue;
        cr_expect_float_eq(sqrt(squares[i]) / 0.1, 0.01, 1e-6, "unit %d: %g", i,
                           sqrt(squares[i]) / 0.1);
        n++;
    }
    cr_expect_geq(n, 4);
    safetensors_close(f);
    free(path);
    training_clear(&t);
    tmp_dir_remove(dir);
}

Test(update, what_it_cannot_do_is_refused_by_name)
{
    static const struct {
        const char *overrides[4], *line;
    } bad[] = {
        {{"optim.clip_by=global", NULL},
         "command line: train.update: in_backward does not know the global norm in time"},
        {{"batch.micro=2", NULL},
         "command line: train.update: in_backward cannot accumulate gradients"},
        {{"method=lora", NULL}, "command line: train.update: in_backward is for method full"},
        {{"train.gradients=bf16", NULL}, "command line: train.gradients: bf16 is for method full"},
        {{"optim.clip=0", NULL}, "test.yaml:5: optim.clip_by: optim.clip is 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *more[6] = {"train.update=in_backward", bad[i].overrides[0]};
        char *dir = tmp_dir();
        Training t = run("models/llama3-d64", dir, more);
        cr_expect_eq(t.status, E_INPUT);
        cr_expect(t.problems.n > 0 && str_starts(t.problems.lines[0], bad[i].line), "%s: %s",
                  bad[i].overrides[0], t.problems.n ? t.problems.lines[0] : "no problem");
        training_clear(&t);
        tmp_dir_remove(dir);
    }
}

/* Blocks for collectives: only where these run beside products, more of them where fewer tokens hide a unit, fewer for two ranks
 * than for eight. */
Test(update, blocks_for_collectives)
{
    const ShardOpts whole = {.zero = 1}, parts = {.zero = 3}, grads = {.zero = 2},
                    early = {.zero = 1, .in_backward = true};
    cr_expect_eq(step_ctas(&parts, 1, true, 4096), 0);
    cr_expect_eq(step_ctas(&whole, 8, true, 4096), 0);
    cr_expect_eq(step_ctas(&grads, 8, false, 4096), 0);  /* adapters go after the passes */
    cr_expect_eq(step_ctas(&parts, 8, false, 16384), 0); /* only gathered */
    cr_expect_eq(step_ctas(&grads, 8, true, 16384), 4);
    cr_expect_eq(step_ctas(&early, 8, true, 16384), 4);
    cr_expect_eq(step_ctas(&parts, 8, true, 8192), 8);
    cr_expect_eq(step_ctas(&parts, 8, true, 4096), 0); /* no cap would hide them */
}
