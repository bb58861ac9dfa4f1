/* lora.init pissa in whole runs: it begins as the base, what it saves is the trained model on the base as it was, and neither
 * ranks nor an interruption change it. */
#include "base/fs.h"
#include "base/str.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static char *config_for(const char *out)
{
    char *model = source_path("tests/fixtures/models/llama3-d64");
    char *text =
        str_format("model: {path: \"%s\"}\n"
                   "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off, "
                   "packing: off, eval: \"%s/batches.jsonl\"}\n"
                   "batch: {global: 6, micro: 2}\n"
                   "lora: {rank: 4, alpha: 8}\n"
                   "optim: {lr: 0.02}\n"
                   "train: {max_steps: 12}\n"
                   "eval: {at_start: true}\n"
                   "log: {tensorboard: false}\n"
                   "output: \"%s\"\n",
                   model, model, model, out);
    free(model);
    return text;
}

static Training run(const char *out, const char *const *more, int ranks)
{
    char *config = config_for(out);
    Training t = training_run_ranks(config, more, ranks, NULL, NULL);
    training_print(&t);
    cr_assert_eq(t.status, OK);
    free(config);
    return t;
}

/* The first and the last evaluation of a run. */
static double evaluated(const Training *t, bool last)
{
    double value = -1;
    for (int i = 0; i < t->n_lines; i++) {
        double v;
        if (!json_number(json_get(t->lines[i], "eval_loss"), &v)) continue;
        value = v;
        if (!last) break;
    }
    cr_assert_gt(value, 0);
    return value;
}

/* The folder's adapter on the base as it was has the loss of the model that was trained. */
static void expect_loads(const char *out, double trained, const char *name)
{
    char *next = tmp_dir(), *adapter = str_format("lora={adapter: \"%s\"}", out);
    char *config = config_for(next);
    strstr(config, "lora: {rank")[0] = '#'; /* the folder says it all */
    Training t = training_run(config, LIST(adapter, "train.max_steps=1"));
    training_print(&t);
    cr_assert_eq(t.status, OK);
    double loaded = evaluated(&t, false);
    cr_expect_float_eq(loaded, trained, 2e-6 * trained, "%s: loaded %.8f, trained %.8f", name,
                       loaded, trained);
    training_clear(&t);
    tmp_dir_remove(next);
    free(adapter), free(config);
}

/* Exact and randomised, with the other scale and with ranks of their own. */
static const char *const ways[][3] = {
    {"lora={init: pissa, pissa_iterations: 0}", NULL},
    {"lora={init: pissa, rank: 25, alpha: 40}", NULL}, /* larger than a piece, whose rows it cuts */
    {"lora={init: pissa, rslora: true, rank_pattern: {q_proj: 8}, alpha_pattern: {down_proj: 3}}",
     NULL},
    {"lora={init: pissa, rank: 8, targets: [q_proj, v_proj, up_proj], dropout: 0.1}", NULL},
};

Test(pissa, is_saved_for_the_base_as_it_was, .timeout = 200)
{
    char *plain_out = tmp_dir();
    Training plain = run(plain_out, LIST("train.max_steps=1"), 1);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char *out = tmp_dir();
        Training t = run(out, ways[i], 1);
        double base = evaluated(&plain, false), first = evaluated(&t, false);
        cr_expect_float_eq(first, base, 2e-6 * base, "%s: begins at %.8f, the base at %.8f",
                           ways[i][0], first, base);
        double trained = evaluated(&t, true);
        cr_expect_gt(fabs(trained - first), 1e-3 * first, "it learned nothing");
        expect_loads(out, trained, ways[i][0]);
        training_clear(&t);
        tmp_dir_remove(out);
    }
    training_clear(&plain);
    tmp_dir_remove(plain_out);
}

Test(pissa, ranks_and_stages_change_nothing, .timeout = 200)
{
    char *one = tmp_dir();
    Training a = run(one, LIST("lora.init=pissa"), 1);
    static const char *const stages[] = {"parallel.zero=0", "parallel.zero=3"};
    for (int z = 0; z < 2; z++) {
        char *three = tmp_dir();
        Training b = run(three, LIST("lora.init=pissa", stages[z]), 3);
        for (int k = 0; k < training_steps(&a); k++)
            cr_expect_float_eq(training_value(&b, k, "loss"), training_value(&a, k, "loss"), 1e-5,
                               "%s, step %d", stages[z], k);
        expect_loads(three, evaluated(&b, true), stages[z]);
        training_clear(&b);
        tmp_dir_remove(three);
    }
    training_clear(&a);
    tmp_dir_remove(one);
}

/* The base loses its part again, the same one; the adapter of the end has the same bytes. */
Test(pissa, resumes_to_the_same_bytes, .timeout = 200)
{
    char *whole = tmp_dir(), *cut = tmp_dir();
    Err err = {0};
    const char *const *how = LIST("lora.init=pissa", "save={every: 6}", "runtime.threads=2");
    Training a = run(whole, how, 1), b = run(cut, how, 1);
    static const char *const gone[] = {"checkpoint-12", "adapter_model.safetensors",
                                       "adapter_config.json"};
    for (int i = 0; i < 3; i++) {
        char *path = path_join(cut, gone[i]);
        cr_assert_eq(i ? (Status)(remove(path) != 0) : dir_remove(path, &err), OK, "%s", path);
        free(path);
    }
    training_clear(&b);
    b = run(cut, how, 1);
    cr_expect_eq(b.result.resumed_from, 6);
    cr_expect_eq(a.result.hash, b.result.hash);
    cr_expect(same_file(whole, cut, "adapter_model.safetensors"));
    cr_expect(same_file(whole, cut, "checkpoint-12/adapter_model.safetensors"));
    training_clear(&a);
    training_clear(&b);
    tmp_dir_remove(whole);
    tmp_dir_remove(cut);
}

/* Quantising what is left of the base, which is smaller, loses less of it: the first loss is nearer to the base's. */
Test(pissa, quantises_what_is_left, .timeout = 200)
{
    char *dirs[3] = {tmp_dir(), tmp_dir(), tmp_dir()};
    Training plain = run(dirs[0], LIST("train.max_steps=1"), 1);
    Training nf4 = run(dirs[1], LIST("train.max_steps=1", "method=qlora"), 1);
    Training pissa = run(dirs[2], LIST("method=qlora", "lora={init: pissa, rank: 16}"), 1);
    double base = evaluated(&plain, false), lost = fabs(evaluated(&nf4, false) - base),
           kept = fabs(evaluated(&pissa, false) - base);
    cr_expect_lt(kept, lost, "off by %g, without pissa %g", kept, lost);
    cr_expect_gt(fabs(evaluated(&pissa, true) - evaluated(&pissa, false)), 1e-3 * base);
    training_clear(&plain), training_clear(&nf4), training_clear(&pissa);
    for (int i = 0; i < 3; i++)
        tmp_dir_remove(dirs[i]);
}

Test(pissa, what_does_not_go_is_refused_by_name)
{
    static const struct {
        const char *override, *message;
    } cases[] = {
        {"lora={init: pissa, dora: true}", "does not go with lora.dora"},
        {"lora={pissa_iterations: 2}", "only with lora.init pissa"},
        {"lora={init: pissa, rank: 40}", "has no 40 singular vectors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = tmp_dir(), *config = config_for(out);
        Training t = training_run(config, LIST(cases[i].override));
        cr_expect_eq(t.status, E_INPUT, "%s", cases[i].override);
        cr_expect(t.problems.n > 0 && strstr(t.problems.lines[0], cases[i].message), "%s: %s",
                  cases[i].override, t.problems.n ? t.problems.lines[0] : "nothing");
        training_clear(&t);
        free(config);
        tmp_dir_remove(out);
    }
}
