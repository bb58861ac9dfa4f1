/* NaN and infinity stop a run before the optimizer: step and tensor are named, the last checkpoint stays. */
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

static Training run(const char *model, const char *out, const char *const *more)
{
    char *data = source_path("tests/fixtures/models/llama2-d64/batches.jsonl");
    char *config = str_format(
        "model: {path: \"%s\"}\nmethod: full\n"
        "data: {train: \"%s\", format: tokens, max_length: 64, cache: off, packing: off}\n"
        "batch: {global: 2}\noptim: {lr: 0.001, schedule: constant}\n"
        "train: {max_steps: 40}\nsave: {every: 1}\noutput: \"%s\"\n",
        model, data, out);
    Training t = training_run(config, more);
    free(data);
    free(config);
    return t;
}

/* A copy of the model with one value of one tensor replaced. */
static char *poisoned_model(const char *tensor, float value)
{
    char *from = source_path("tests/fixtures/models/llama2-d64"), *dir = tmp_dir();
    char *config = path_join(from, "config.json"), *config_to = path_join(dir, "config.json");
    char *weights = path_join(from, "model.safetensors"), *to = path_join(dir, "model.safetensors");
    char *bytes;
    size_t len;
    Err err = {0};
    SafeTensors *s;
    cr_assert_eq(file_copy(config, config_to, &err), OK);
    cr_assert_eq(file_read(&bytes, &len, weights, &err), OK);
    cr_assert_eq(safetensors_parse(&s, (const uint8_t *)bytes, len, "m", &err), OK);
    const SafeTensor *t = safetensors_find(s, tensor);
    cr_assert_not_null(t);
    memcpy(bytes + (t->data - (const uint8_t *)bytes) + 40, &value, sizeof value);
    safetensors_close(s);
    cr_assert_eq(file_write_atomic(to, bytes, len, &err), OK);
    free(bytes), free(weights), free(to), free(config), free(config_to), free(from);
    return dir;
}

static void expect_line(const Training *t, const char *start, const char *part)
{
    cr_expect_eq(t->status, E_FAILED);
    cr_expect(str_starts(t->err.line, start), "%s", t->err.line);
    cr_expect(strstr(t->err.line, part) != NULL, "%s", t->err.line);
}

/* Codes have no NaN: such a base would train on as if nothing were wrong. */
Test(nonfinite, base_to_be_quantised_is_named, .timeout = 200)
{
    static const char *const bases[] = {"nf4", "fp4", "int8", "fp8"};
    for (int i = 0; i < 8; i++) {
        const char *tensor = "model.layers.1.mlp.up_proj.weight";
        char *model = poisoned_model(tensor, i % 2 ? INFINITY : NAN), *out = tmp_dir();
        char *base = str_format("model.quantize=%s", bases[i / 2]);
        Training t = run(model, out, LIST("method=qlora", base));
        cr_expect_eq(t.status, E_INPUT, "%s", base);
        cr_assert_eq(t.problems.n, 1, "%s", base);
        const char *line = t.problems.lines[0];
        cr_expect(strstr(line, "model.path: ") && strstr(line, tensor), "%s: %s", base, line);
        training_clear(&t);
        tmp_dir_remove(model), tmp_dir_remove(out);
        free(base);
    }
}

Test(nonfinite, weight_is_named, .timeout = 200)
{
    static const char *const tensors[] = {"model.layers.1.self_attn.k_proj.weight",
                                          "model.layers.0.mlp.up_proj.weight", "model.norm.weight",
                                          "lm_head.weight"};
    /* beside an adapter a matrix has a pitch */
    static const char *const methods[] = {"method=full", "method=lora"};
    for (int i = 0; i < 8; i++) {
        const char *tensor = tensors[i % 4];
        char *model = poisoned_model(tensor, i % 2 ? INFINITY : NAN), *out = tmp_dir();
        Training t = run(model, out, LIST(methods[i / 4]));
        char *start =
            str_format("step 1: weight %s holds 1 values that are not finite; stopped before the "
                       "optimizer, nothing was changed; there is no checkpoint",
                       tensor);
        expect_line(&t, start, "");
        free(start);
        training_clear(&t);
        tmp_dir_remove(model);
        tmp_dir_remove(out);
    }
}

Test(nonfinite, weight_is_named_by_an_evaluation, .timeout = 200)
{
    char *model = poisoned_model("model.norm.weight", NAN), *out = tmp_dir();
    char *rows = source_path("tests/fixtures/models/llama2-d64/packed.jsonl");
    char *eval = str_format("data.eval=%s", rows);
    Training t = run(model, out, LIST(eval, "eval={every: 10, at_start: true}"));
    expect_line(&t, "evaluation after step 0: weight model.norm.weight holds 1 values that", "");
    training_clear(&t);
    free(eval), free(rows);
    tmp_dir_remove(model);
    tmp_dir_remove(out);
}

/* What the optimizer made of an adapter is found in the step after. */
Test(nonfinite, an_adapter_is_named, .timeout = 200)
{
    char *model = source_path("tests/fixtures/models/llama2-d64"), *from = tmp_dir(),
         *out = tmp_dir();
    Training t = run(model, from,
                     LIST("method=lora", "train.max_steps=1", "lora={targets: [q_proj, v_proj]}"));
    cr_assert_eq(t.status, OK, "%s", t.err.line);
    training_clear(&t);
    char *path = path_join(from, "adapter_model.safetensors"), *bytes;
    size_t len;
    Err err = {0};
    cr_assert_eq(file_read(&bytes, &len, path, &err), OK);
    const float nan =
        NAN; /* the last value of the last tensor, which the names' order says is v_proj's B */
    memcpy(bytes + len - sizeof nan, &nan, sizeof nan);
    cr_assert_eq(file_write_atomic(path, bytes, len, &err), OK);
    char *adapter = str_format("lora={adapter: \"%s\"}", from);
    t = run(model, out, LIST("method=lora", adapter));
    expect_line(&t, "step 1: weight ", ".v_proj.lora_B.weight holds 1 values that are not finite");
    training_clear(&t);
    free(adapter), free(bytes), free(path), free(model);
    tmp_dir_remove(from);
    tmp_dir_remove(out);
}

/* A weight so large that a product overflows: the weights themselves are finite. */
static void expect_overflow(const char *tensor, const char *loss)
{
    char *model = poisoned_model(tensor, 1e38f), *out = tmp_dir();
    char *line = str_format("step 1: the loss is %s; ", loss);
    Training t = run(model, out, LIST("optim.clip=0"));
    cr_expect_eq(t.status, E_FAILED);
    cr_expect(str_starts(t.err.line, line) || str_starts(t.err.line, "step 1: gradient of "), "%s",
              t.err.line);
    training_clear(&t);
    free(line);
    tmp_dir_remove(model);
    tmp_dir_remove(out);
}

Test(nonfinite, loss_or_gradient_is_named, .timeout = 200)
{
    expect_overflow("model.norm.weight", "inf");
    /* inf - inf: a NaN whose sign x86 sets, and which is not shown */
    expect_overflow("model.layers.0.input_layernorm.weight", "nan");
}

/* A rate that makes the weights explode after some good steps: the checkpoint before stays as it was and is named. */
Test(nonfinite, last_good_checkpoint_stays, .timeout = 200)
{
    char *model = source_path("tests/fixtures/models/llama2-d64"), *out = tmp_dir();
    Training t = run(model, out, LIST("optim={lr: 1e30, clip: 0}"));
    cr_assert_eq(t.status, E_INPUT); /* beyond the range of the key */
    training_clear(&t);
    t = run(model, out, LIST("optim={lr: 1000, clip: 0, weight_decay: 1000}"));
    int done = training_steps(&t);
    cr_assert_geq(done, 1);
    cr_assert_lt(done, 40);
    char *start = str_format("step %d: ", done + 1),
         *last = str_format("the last checkpoint is %s/checkpoint-%d", out, done);
    expect_line(&t, start, last);
    training_clear(&t);
    free(start), free(last);

    /* what it holds is finite and whole: the run can go on from it (and fails at the same step again) */
    Training again = run(model, out, LIST("optim={lr: 1000, clip: 0, weight_decay: 1000}"));
    cr_expect_eq(again.result.resumed_from, done);
    char *path = str_format("%s/checkpoint-%d/state.safetensors", out, done);
    SafeTensors *s;
    Err err = {0};
    cr_assert_eq(safetensors_open(&s, path, &err), OK, "%s", err.line);
    for (int i = 0; i < safetensors_count(s); i++) {
        const SafeTensor *x = safetensors_at(s, i);
        for (int64_t k = 0; k < safe_numel(x); k++) {
            float v;
            memcpy(&v, x->data + 4 * k, 4);
            cr_assert(isfinite(v), "%s", x->name);
        }
    }
    safetensors_close(s);
    free(path);
    training_clear(&again);
    free(model);
    tmp_dir_remove(out);
}

/* Blocks are updated before the rest of the gradient is known: the message says so, and what is there to go on from. */
Test(nonfinite, in_backward_the_block_is_named, .timeout = 200)
{
    char *model = source_path("tests/fixtures/models/llama2-d64"), *out = tmp_dir();
    const char *const *more =
        LIST("train.update=in_backward", "optim={lr: 1000, clip: 0, weight_decay: 1000}");
    Training t = run(model, out, more);
    int done = training_steps(&t);
    cr_assert_geq(done, 1);
    char *start = str_format("step %d: ", done + 1),
         *last = str_format("the last checkpoint is %s/checkpoint-%d", out, done);
    expect_line(&t, start, last);
    expect_line(
        &t, start,
        "stopped in the middle of the update, the next start continues from the last checkpoint");
    training_clear(&t);
    Training again = run(model, out, more);
    cr_expect_eq(again.result.resumed_from, done);
    training_clear(&again);
    tmp_dir_remove(out);
    free(start), free(last), free(model);

    model = poisoned_model("model.norm.weight", 1e25f), out = tmp_dir();
    t = run(model, out, LIST("train.update=in_backward", "optim.clip=0"));
    expect_line(&t, "step 1: the gradient of the norm and head is not finite; ", "");
    training_clear(&t);
    tmp_dir_remove(model);
    tmp_dir_remove(out);
}
