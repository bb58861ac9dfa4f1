/* Checkpoints: a run that was interrupted ends in the bytes of one that was not; damaged ones are passed
 * over; a changed config is refused by key; old ones go, the best stays. */
#include "base/fs.h"
#include "base/str.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"
#include "trainer/run_lock.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define DROP      "lora={dropout: 0.1, rank: 4}"

/* Packed, shuffled, two epochs and a bit; 12 steps are not an epoch's end. */
static char *config_for(const char *out)
{
    char *model = source_path("tests/fixtures/models/qwen3-d64");
    char *text =
        str_format("model: {path: \"%s\"}\n"
                   "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off, "
                   "eval: \"%s/batches.jsonl\"}\n"
                   "batch: {global: 4, micro: 2}\n"
                   "optim: {lr: 0.002, weight_decay: 0.1, warmup_steps: 3}\n"
                   "train: {max_steps: 25}\n"
                   "save: {every: 4, keep: 100}\n"
                   "eval: {every: 5}\n"
                   "output: \"%s\"\n",
                   model, model, model, out);
    free(model);
    return text;
}

static Training run(const char *out, const char *const *more)
{
    char *config = config_for(out);
    Training t = training_run(config, more);
    free(config);
    return t;
}

static Training run_ok(const char *out, const char *const *more)
{
    Training t = run(out, more);
    training_print(&t);
    cr_assert_eq(t.status, OK);
    return t;
}

/* An interrupted run: everything after checkpoint-KEEP is gone. */
static void cut_off(const char *out, int64_t keep)
{
    char **names;
    int n;
    Err err = {0};
    cr_assert_eq(dir_list(&names, &n, out, &err), OK);
    for (int i = 0; i < n; i++) {
        char *path = path_join(out, names[i]);
        bool later = str_starts(names[i], "checkpoint-") && strtoll(names[i] + 11, NULL, 10) > keep;
        bool result = str_ends(names[i], ".safetensors") || str_eq(names[i], "adapter_config.json");
        if (later) cr_assert_eq(dir_remove(path, &err), OK);
        if (result) cr_assert_eq(remove(path), 0);
        free(path);
    }
    dir_list_free(names, n);
}

static void resume_ends_in_the_same_bytes(const char *const *how, const char *result)
{
    char *whole = tmp_dir(), *cut = tmp_dir();
    Training a = run_ok(whole, how), b = run_ok(cut, how);
    cr_assert_eq(a.result.hash, b.result.hash);
    for (int64_t keep = 4; keep <= 24; keep += 8) {
        training_clear(&b);
        cut_off(cut, keep);
        b = run_ok(cut, how);
        cr_assert_eq(b.result.resumed_from, keep);
        cr_expect_eq(a.result.hash, b.result.hash, "resumed from %d", (int)keep);
        cr_expect(same_file(whole, cut, result));
        cr_expect(same_file(whole, cut, "checkpoint-25/state.safetensors"));
        cr_assert_eq(a.n_lines, b.n_lines);
        cr_expect_eq(a.result.mean_loss, b.result.mean_loss);
        for (int k = 0; k < training_steps(&a); k++) {
            cr_expect_eq(training_value(&a, k, "step"), training_value(&b, k, "step"));
            cr_expect_eq(training_value(&a, k, "loss"), training_value(&b, k, "loss"), "step %d",
                         k);
            cr_expect_eq(training_value(&a, k, "consumed_samples"),
                         training_value(&b, k, "consumed_samples"));
        }
    }
    training_clear(&a);
    training_clear(&b);
    tmp_dir_remove(whole);
    tmp_dir_remove(cut);
}

TestSuite(resume, .timeout = 200); /* one for all: CONTRIBUTING.md */

Test(resume, full_is_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST("method=full"), "model.safetensors");
}

Test(resume, lora_with_dropout_is_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST(DROP), "adapter_model.safetensors");
}

Test(resume, dora_with_dropout_is_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST("lora={dora: true, dropout: 0.1, rank: 4}"),
                                  "adapter_model.safetensors");
}

Test(resume, qlora_is_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST("method=qlora", "lora={dropout: 0.1, rank: 4}"),
                                  "adapter_model.safetensors");
}

Test(resume, states_in_8_bits_are_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST("method=full", "optim.states=int8"), "model.safetensors");
}

/* On other ranks: codes and absmax are written and read piece by piece. */
Test(resume, states_in_8_bits_know_no_ranks)
{
    char *one = tmp_dir(), *three = tmp_dir();
    const char *const *how = LIST("method=full", "optim.states=int8", "batch={global: 6, micro: 1}",
                                  "train.max_steps=8", "parallel.zero=2");
    Training a = run_ok(one, how);
    char *config = config_for(three);
    Training b = training_run_ranks(config, how, 3, NULL, NULL);
    training_print(&b);
    cr_assert_eq(b.status, OK);
    training_clear(&b);
    cut_off(three, 4);
    b = run_ok(three, how); /* what three wrote, one reads */
    cr_expect_eq(b.result.resumed_from, 4);
    for (int k = 0; k < training_steps(&a); k++)
        cr_expect_float_eq(training_value(&a, k, "loss"), training_value(&b, k, "loss"), 1e-5,
                           "step %d", k);
    free(config);
    training_clear(&a);
    training_clear(&b);
    tmp_dir_remove(one);
    tmp_dir_remove(three);
}

/* Staging memory of two slots of 64 KiB: what is saved goes through them piece by piece. */
Test(resume, streamed_saves_are_bit_exact)
{
    resume_ends_in_the_same_bytes(LIST("method=full", "save.staging=0"), "model.safetensors");
    resume_ends_in_the_same_bytes(LIST("method=full", "save.staging=0", "optim.states=int8"),
                                  "model.safetensors");
}

Test(resume, another_cut_into_micro_batches_may_go_on)
{
    char *out = tmp_dir();
    Training t = run_ok(out, LIST(DROP));
    training_clear(&t);
    cut_off(out, 8);
    t = run_ok(out, LIST(DROP, "batch.micro=4", "train.recompute=full", "save.every=100"));
    cr_assert_eq(t.result.resumed_from, 8);
    cr_assert_eq(t.result.steps, 25);
    training_clear(&t);
    tmp_dir_remove(out);
}

Test(resume, finished_run_changes_nothing)
{
    char *out = tmp_dir();
    Training a = run_ok(out, LIST(DROP)), b = run_ok(out, LIST(DROP));
    cr_expect_eq(b.result.resumed_from, 25);
    cr_expect_eq(a.result.hash, b.result.hash);
    cr_expect_eq(a.n_lines, b.n_lines);
    training_clear(&a);
    training_clear(&b);
    tmp_dir_remove(out);
}

/* ---- what is refused -------------------------------------------------------------------------- */

static void expect_refused(const char *out, const char *const *how, const char *line)
{
    Training t = run(out, how);
    cr_expect_eq(t.status, E_INPUT);
    bool found = str_eq(t.err.line, line);
    for (int i = 0; i < t.problems.n && !found; i++)
        found |= str_eq(t.problems.lines[i], line);
    if (!found) training_print(&t);
    cr_expect(found, "not told: %s", line);
    training_clear(&t);
}

Test(resume, changed_config_is_refused_by_key)
{
    char *out = tmp_dir();
    Training t = run_ok(out, LIST(DROP));
    training_clear(&t);
    char *line = str_format(
        "command line: optim.lr: is 0.001, and %s/checkpoint-25 was made with 0.002; set it "
        "back, or start anew in another output folder",
        out);
    expect_refused(out, LIST(DROP, "optim.lr=0.001"), line);
    free(line);
    line = str_format(
        "command line: batch.global: is 8, and %s/checkpoint-25 was made with 4; set it back, or "
        "start anew in another output folder",
        out);
    expect_refused(out, LIST(DROP, "batch.global=8"), line);
    free(line);
    char *other = source_path("tests/fixtures/models/qwen3-d64/batches.jsonl");
    char *data = str_format("data.train=%s", other);
    line = str_format(
        "command line: data.train: its tokens are not those that %s/checkpoint-25 was trained on; "
        "start anew in another output folder",
        out);
    expect_refused(out, LIST(DROP, data), line);
    free(line), free(other), free(data);
    line = str_format(
        "command line: resume: is never, and %s holds checkpoint-25; choose another output folder, "
        "remove it, or set auto",
        out);
    expect_refused(out, LIST(DROP, "resume=never"), line);
    free(line);
    char *from = str_format("resume=%s/checkpoint-8", out);
    line = str_format("command line: resume: %s/checkpoint-8 is at step 8, and %s goes on to "
                      "checkpoint-25; choose "
                      "another output folder or remove what lies beyond",
                      out, out);
    expect_refused(out, LIST(DROP, from), line);
    free(line), free(from);
    line = str_format("command line: optim.states: is int8, and %s/checkpoint-25 was made with "
                      "fp32; set it back, or "
                      "start anew in another output folder",
                      out);
    expect_refused(out, LIST(DROP, "optim.states=int8"), line);
    free(line);
    tmp_dir_remove(out);
}

Test(resume, another_base_is_refused)
{
    char *out = tmp_dir();
    Training t = run_ok(out, LIST(DROP));
    training_clear(&t);
    /* the same shape with another weight */
    char *base = tmp_dir(), *model = source_path("tests/fixtures/models/qwen3-d64");
    Err err = {0};
    char *from = path_join(model, "config.json"), *to = path_join(base, "config.json");
    cr_assert_eq(file_copy(from, to, &err), OK);
    char *weights = path_join(model, "model.safetensors"),
         *copy = path_join(base, "model.safetensors");
    char *bytes;
    size_t len;
    cr_assert_eq(file_read(&bytes, &len, weights, &err), OK);
    bytes[len / 2] ^= 1; /* a bit of one weight */
    cr_assert_eq(file_write_atomic(copy, bytes, len, &err), OK);
    char *path = str_format("model.path=%s", base);
    char *line = str_format("command line: model.path: the base is not the one that "
                            "%s/checkpoint-25 was trained on; start "
                            "anew in another output folder",
                            out);
    expect_refused(out, LIST(DROP, path), line);
    free(line), free(path), free(bytes), free(weights), free(copy), free(from), free(to),
        free(model);
    tmp_dir_remove(base);
    tmp_dir_remove(out);
}

static void put_text(const char *dir, const char *name)
{
    Err err = {0};
    char *path = path_join(dir, name);
    cr_assert_eq(file_write_atomic(path, "{}", 2, &err), OK, "%s", err.line);
    free(path);
}

static bool has(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool there = path_exists(path);
    free(path);
    return there;
}

/* Killed while a checkpoint took the place of one of the same step: that one comes back. */
Test(resume, a_replaced_checkpoint_waits)
{
    char *out = tmp_dir();
    Training t = run_ok(out, LIST(DROP));
    training_clear(&t);
    Err err = {0};
    char *place = path_join(out, "checkpoint-25"),
         *before = path_join(out, ".checkpoint-25.before");
    put_text(place, "mark");
    cr_assert_eq(file_rename(place, before, &err), OK);
    t = run_ok(out, LIST(DROP));
    training_clear(&t);
    cr_expect(has(place, "mark") && !path_exists(before));
    cr_assert_eq(dir_make(before, &err), OK); /* the new one is in its place: the old one goes */
    put_text(before, "old");
    t = run_ok(out, LIST(DROP));
    training_clear(&t);
    cr_expect(has(place, "mark") && !path_exists(before));
    free(place), free(before);
    tmp_dir_remove(out);
}

/* What an earlier result in more parts has left would be read instead of the new one. */
Test(resume, a_result_leaves_no_other_weights)
{
    char *out = tmp_dir();
    put_text(out, "model-00001-of-00002.safetensors");
    put_text(out, "model-00002-of-00002.safetensors");
    put_text(out, "model.safetensors.index.json");
    Training t = run_ok(out, LIST("method=full", "train.max_steps=2"));
    training_clear(&t);
    cr_expect(has(out, "model.safetensors") && !has(out, "model.safetensors.index.json"));
    cr_expect(!has(out, "model-00001-of-00002.safetensors"));
    cr_expect(!has(out, "model-00002-of-00002.safetensors"));
    tmp_dir_remove(out);
}

Test(resume, one_run_a_folder)
{
    char *out = tmp_dir();
    int lock;
    Err err = {0};
    cr_assert_eq(run_lock_take(&lock, out, &err), OK, "%s", err.line);
    Training t = run(out, LIST(DROP));
    char *line = str_format("%s: another run is writing to this folder", out);
    cr_expect_eq(t.status, E_FAILED);
    cr_expect_str_eq(t.err.line, line);
    training_clear(&t);
    run_lock_give(lock);
    t = run_ok(out, LIST(DROP, "train.max_steps=2"));
    training_clear(&t);
    free(line);
    tmp_dir_remove(out);
}

/* ---- damage ----------------------------------------------------------------------------------- */

static void flip_byte(const char *path, size_t at)
{
    char *bytes;
    size_t len;
    Err err = {0};
    cr_assert_eq(file_read(&bytes, &len, path, &err), OK, "%s", err.line);
    bytes[at % len] ^= 0x10;
    cr_assert_eq(file_write_atomic(path, bytes, len, &err), OK);
    free(bytes);
}

/* Each file of the newest checkpoint in turn: changed, cut, gone. */
Test(resume, damaged_checkpoint_is_passed_over)
{
    static const char *const files[] = {"state.safetensors", "adapter_model.safetensors",
                                        "adapter_config.json", "manifest.json"};
    char *whole = tmp_dir();
    Training a = run_ok(whole, LIST(DROP));
    for (int f = 0; f < 4; f++)
        for (int how = 0; how < 3; how++) {
            char *out = tmp_dir();
            Training t = run_ok(out, LIST(DROP));
            training_clear(&t);
            cut_off(out, 12);
            char *path = str_format("%s/checkpoint-12/%s", out, files[f]);
            if (how == 0) {
                flip_byte(path, 777);
            } else if (how == 1) {
                FileMap m;
                Err err = {0};
                cr_assert_eq(file_map(&m, path, &err), OK);
                size_t len = m.len;
                file_unmap(&m);
                cr_assert_eq(truncate(path, (off_t)(len / 2)), 0);
            } else {
                cr_assert_eq(remove(path), 0);
            }
            t = run_ok(out, LIST(DROP));
            cr_expect_eq(t.result.resumed_from, 8, "%s, %d", files[f], how);
            cr_expect_eq(t.result.hash, a.result.hash);
            cr_expect(has(out, "checkpoint-12") && has(out, "checkpoint-12.damaged"));
            training_clear(&t);
            free(path);
            tmp_dir_remove(out);
        }
    training_clear(&a);
    tmp_dir_remove(whole);
}

static char *state_of(const char *out, const char *checkpoint)
{
    return str_format("%s/%s/state.safetensors", out, checkpoint);
}

static void expect_bytes(const char *path, const char *want, size_t want_len)
{
    char *got;
    size_t len;
    Err err = {0};
    cr_assert_eq(file_read(&got, &len, path, &err), OK, "%s", err.line);
    cr_expect(len == want_len && memcmp(got, want, len) == 0, "%s is not what it was", path);
    free(got);
}

/* Nothing is written over: what is damaged lies aside, the first time and the second, and is none of save.keep's. */
Test(resume, damaged_checkpoints_are_kept)
{
    static const char *const aside[] = {"checkpoint-25.damaged", "checkpoint-25.damaged.2"};
    char *out = tmp_dir(), *bytes[2];
    size_t len[2];
    Err err = {0};
    Training whole = run_ok(out, LIST(DROP));
    training_clear(&whole);
    for (int i = 0; i < 2; i++) {
        char *state = state_of(out, "checkpoint-25");
        flip_byte(state, 5000 + (size_t)i);
        cr_assert_eq(file_read(&bytes[i], &len[i], state, &err), OK, "%s", err.line);
        /* a config that does not fit moves nothing */
        Training t = run(out, LIST(DROP, "optim.lr=0.001"));
        cr_expect_eq(t.status, E_INPUT);
        cr_expect(has(out, "checkpoint-25") && !has(out, aside[i]));
        training_clear(&t);
        t = run_ok(out, LIST(DROP, "save.keep=2"));
        cr_expect_eq(t.result.resumed_from, 24);
        cr_expect(has(out, "checkpoint-25") && has(out, "checkpoint-24"));
        training_clear(&t);
        free(state);
    }
    for (int i = 0; i < 2; i++) {
        char *state = state_of(out, aside[i]);
        expect_bytes(state, bytes[i], len[i]);
        free(state), free(bytes[i]);
    }
    tmp_dir_remove(out);
}

/* A run that has lost all of them does not begin anew in their place, unless they are taken away. */
Test(resume, damaged_ones_alone_are_refused)
{
    char *out = tmp_dir(), *bytes;
    size_t len;
    Err err = {0};
    const char *const *how = LIST(DROP, "train.max_steps=8", "optim.schedule=constant");
    Training t = run_ok(out, how);
    uint64_t hash = t.result.hash;
    training_clear(&t);
    char *first = state_of(out, "checkpoint-4"), *second = state_of(out, "checkpoint-8");
    flip_byte(first, 5000), flip_byte(second, 6000);
    cr_assert_eq(file_read(&bytes, &len, second, &err), OK, "%s", err.line);
    t = run(out, how);
    char *start = str_format("test.yaml: resume: %s holds checkpoint-8 and none that is whole, "
                             "and a run from the start would write over what is there; ",
                             out);
    cr_expect_eq(t.status, E_INPUT);
    cr_expect_eq(t.problems.n, 0, "it is told twice");
    cr_expect(str_starts(t.err.line, start), "%s", t.err.line);
    cr_expect(strstr(t.err.line, "checkpoint-8/state.safetensors: checksum differs in bytes") !=
              NULL);
    training_clear(&t);
    expect_bytes(second, bytes, len);

    static const char *const names[] = {"checkpoint-4", "checkpoint-8"};
    for (int i = 0; i < 2; i++) {
        char *path = path_join(out, names[i]);
        cr_assert_eq(dir_remove(path, &err), OK, "%s", err.line);
        free(path);
    }
    t = run_ok(out, how);
    cr_expect_eq(t.result.resumed_from, 0);
    cr_expect_eq(t.result.hash, hash);
    training_clear(&t);
    free(first), free(second), free(bytes), free(start);
    tmp_dir_remove(out);
}

Test(resume, named_checkpoint_must_be_whole)
{
    char *out = tmp_dir();
    Training t = run_ok(out, LIST(DROP));
    training_clear(&t);
    char *state = str_format("%s/checkpoint-25/state.safetensors", out);
    flip_byte(state, 5000);
    char *from = str_format("resume=%s/checkpoint-25", out);
    t = run(out, LIST(DROP, from));
    cr_expect_eq(t.status, E_INPUT);
    cr_expect_eq(t.problems.n, 0);
    cr_expect(str_starts(t.err.line, "command line: resume: "), "%s", t.err.line);
    cr_expect(strstr(t.err.line, "state.safetensors: checksum differs in bytes") != NULL);
    training_clear(&t);
    free(state), free(from);
    tmp_dir_remove(out);
}

/* ---- which ones stay -------------------------------------------------------------------------- */

Test(resume, keeps_the_newest_and_the_best)
{
    char *out = tmp_dir();
    /* a rate that rises beyond all measure: the best is early */
    Training t =
        run_ok(out, LIST("method=full", "optim={lr: 3, schedule: constant, warmup_steps: 25}",
                         "save={every: 4, keep: 2, best: true, final: best}", "eval.every=1"));
    char *best = str_format("checkpoint-%d", (int)t.result.best_step);
    cr_expect_lt(t.result.best_step, 20, "the best is not early: %s", best);
    cr_expect(has(out, best));
    cr_expect(has(out, "checkpoint-24") && has(out, "checkpoint-25"));
    int n = 0;
    for (int i = 0; i <= 25; i++) {
        char *name = str_format("checkpoint-%d", i);
        n += has(out, name);
        free(name);
    }
    cr_expect_eq(n, 3);
    /* save.final best: the output is that checkpoint's weights */
    char *weights = str_format("%s/model.safetensors", best);
    FileMap a, b;
    Err err = {0};
    char *x = path_join(out, weights), *y = path_join(out, "model.safetensors");
    cr_assert_eq(file_map(&a, x, &err), OK);
    cr_assert_eq(file_map(&b, y, &err), OK);
    cr_expect(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    file_unmap(&a);
    file_unmap(&b);
    free(x), free(y), free(weights), free(best);
    training_clear(&t);
    tmp_dir_remove(out);
}

Test(resume, stops_early_and_stays_stopped)
{
    char *out = tmp_dir();
    const char *const *how =
        LIST("method=full", "optim={lr: 0.05, schedule: constant}", "eval={every: 2, patience: 2}");
    Training t = run_ok(out, how);
    cr_expect(t.result.stopped_early);
    cr_expect_lt(t.result.steps, 25);
    cr_expect_eq(t.result.steps, t.result.best_step + 4);
    Training again = run_ok(out, how);
    cr_expect_eq(again.result.steps, t.result.steps);
    cr_expect_eq(again.result.hash, t.result.hash);
    training_clear(&t);
    training_clear(&again);
    tmp_dir_remove(out);
}

Test(resume, more_patience_goes_on)
{
    char *out = tmp_dir(), *whole_out = tmp_dir();
    const char *const *how =
        LIST("method=full", "optim={lr: 0.05, schedule: constant}", "eval={every: 2, patience: 2}");
    const char *const *patient =
        LIST("method=full", "optim={lr: 0.05, schedule: constant}", "eval={every: 2, patience: 0}");
    Training t = run_ok(out, how);
    cr_expect(t.result.stopped_early);
    training_clear(&t);
    t = run_ok(out, patient);
    Training whole = run_ok(whole_out, patient);
    cr_expect_not(t.result.stopped_early);
    cr_expect_eq(t.result.steps, whole.result.steps);
    cr_expect_eq(t.result.hash, whole.result.hash);
    training_clear(&t);
    training_clear(&whole);
    tmp_dir_remove(out);
    tmp_dir_remove(whole_out);
}

Test(resume, constant_rate_may_train_longer)
{
    char *a = tmp_dir(), *b = tmp_dir();
    Training t = run_ok(a, LIST(DROP, "optim.schedule=constant", "train.max_steps=10"));
    training_clear(&t);
    t = run_ok(a, LIST(DROP, "optim.schedule=constant", "train.max_steps=25"));
    cr_expect_eq(t.result.resumed_from, 10);
    Training whole = run_ok(b, LIST(DROP, "optim.schedule=constant", "train.max_steps=25"));
    cr_expect_eq(t.result.hash, whole.result.hash);
    training_clear(&t);
    training_clear(&whole);
    tmp_dir_remove(a);
    tmp_dir_remove(b);
}
