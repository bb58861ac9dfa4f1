/* Saving while training goes on: any number of ranks at any stage, with much staging memory or little, write the bytes that one
 * rank writes, of the moment at which the save began; and where one fails all fail, and what was there stays. */
#include "base/fs.h"
#include "base/str.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"
#include "trainer/manifest.h"
#include "trainer/saving.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static char *config_for(const char *out)
{
    char *model = source_path("tests/fixtures/models/llama3-d64");
    char *text = str_format(
        "model: {path: \"%s\"}\n"
        "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off}\n"
        "batch: {global: 4}\n"
        "optim: {lr: 0.002}\n"
        "train: {max_steps: 3}\n"
        "save: {every: 3}\n"
        "log: {tensorboard: false}\n"
        "runtime: {threads: 1, memory: 0.5}\n"
        "output: \"%s\"\n",
        model, model, out);
    free(model);
    return text;
}

/* ---- the same bytes --------------------------------------------------------------------------- */

static void copy_checkpoint(const char *from, const char *to)
{
    char *a = path_join(from, "checkpoint-3"), *b = path_join(to, "checkpoint-3"), **names;
    int n;
    Err err = {0};
    cr_assert_eq(dir_make(b, &err), OK);
    cr_assert_eq(dir_list(&names, &n, a, &err), OK);
    for (int i = 0; i < n; i++) {
        char *x = path_join(a, names[i]), *y = path_join(b, names[i]);
        cr_assert_eq(file_copy(x, y, &err), OK, "%s", err.line);
        free(x), free(y);
    }
    dir_list_free(names, n);
    free(a), free(b);
}

static void expect_same_checkpoint(const char *a, const char *b, const char *how)
{
    char *path = path_join(a, "checkpoint-3"), *other = path_join(b, "checkpoint-3"), **names;
    int n, n_other;
    Err err = {0};
    cr_assert_eq(dir_list(&names, &n, path, &err), OK);
    for (int i = 0; i < n; i++) {
        char *name = path_join("checkpoint-3", names[i]);
        cr_expect(same_file(a, b, name), "%s", how);
        free(name);
    }
    dir_list_free(names, n);
    cr_assert_eq(dir_list(&names, &n_other, other, &err), OK);
    cr_expect_eq(n, n_other, "%s", how);
    dir_list_free(names, n_other);
    free(path), free(other);
}

typedef struct Told {
    pthread_mutex_t lock;
    int n; /* on all ranks */
    SaveRecord last;
} Told;

static void told(void *ud, const SaveRecord *r)
{
    Told *t = ud;
    pthread_mutex_lock(&t->lock);
    t->n++;
    t->last = *r;
    pthread_mutex_unlock(&t->lock);
}

static RunState read_state(const char *output)
{
    char *path = path_join(output, "checkpoint-3");
    Json *manifest;
    RunState state;
    Err err = {0};
    cr_assert_eq(manifest_verify(path, 0, 1, &err), OK, "%s", err.line);
    cr_assert_eq(manifest_read(&manifest, path, &err), OK, "%s", err.line);
    cr_assert_eq(manifest_run(&state, manifest, path, &err), OK);
    json_free(manifest);
    free(path);
    return state;
}

/* A manifest of which any byte is another one is none. */
static void check_seal(const char *output)
{
    char *path = path_join(output, "checkpoint-3/manifest.json"),
         *dir = path_join(output, "checkpoint-3"), *bytes;
    size_t len;
    Err err = {0};
    cr_assert_eq(file_read(&bytes, &len, path, &err), OK, "%s", err.line);
    for (size_t i = 0; i < len; i += i + 24 < len ? 7 : 1) {
        bytes[i] ^= 1;
        cr_assert_eq(file_write_atomic(path, bytes, len, &err), OK);
        cr_expect_eq(manifest_verify(dir, 0, 1, &err), E_INPUT, "byte %zu of %zu is another one", i,
                     len);
        bytes[i] ^= 1;
    }
    cr_assert_eq(file_write_atomic(path, bytes, len, &err), OK);
    cr_expect_eq(manifest_verify(dir, 0, 1, &err), OK);
    free(bytes), free(dir), free(path);
}

/* Saves the run as it stands in the place of its last checkpoint, and forgets everything before that is written. */
static void save_again(const Session *session, void *ud)
{
    Session *s = (Session *)session;
    Saving *saving;
    Err err = {0};
    RunState state = read_state(s->cfg->output);
    cr_assert_eq(saving_new(&saving, s, told, ud, &err), OK, "%s", err.line);
    cr_assert_eq(saving_start(saving, &state, &err), OK, "%s", err.line);
    for (int i = 0; i < s->shards.n; i++) {
        ParamShard *sh = &s->shards.items[i];
        Tensor *arrays[] = {&sh->weights, &sh->low, &sh->states.bytes};
        for (int a = 0; a < 3; a++)
            if (sh->trained && arrays[a]->storage) tensor_zero(&s->dev, arrays[a]);
    }
    cr_assert_eq(saving_finish(saving, &err), OK, "%s", err.line);
    cr_assert_eq(saving_stage(saving), SAVING_NOTHING);
    saving_free(saving);
}

static void every_split_writes_the_same(const char *method, const char *more)
{
    static const struct {
        int n;
        const char *with[4];
    } ways[] = {
        {1, {"save.staging=0", NULL}},
        {2, {"parallel.zero=0", "save.staging=0", NULL}},
        {3, {"parallel.zero=1", NULL}},
        {3, {"parallel.zero=2", "save.staging=0", NULL}},
        {3, {"parallel.zero=3", NULL}},
        {4, {"parallel.zero=3", "parallel.shard_group=2", NULL}},
        {4, {"parallel.zero=1", "parallel.shard_group=2", "save.staging=0", NULL}},
    };
    char *one = tmp_dir(), *config = config_for(one);
    Training t = training_run(config, LIST(method, more));
    training_print(&t);
    cr_assert_eq(t.status, OK);
    training_clear(&t);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char *out = tmp_dir(), *output = str_format("output=%s", out);
        char *how = str_format("%s, %s, %d ranks, %s", method, more, ways[i].n, ways[i].with[0]);
        const char *with[7] = {method, output, more};
        for (int k = 0; ways[i].with[k]; k++)
            with[3 + k] = ways[i].with[k];
        Told note = {.lock = PTHREAD_MUTEX_INITIALIZER};
        copy_checkpoint(one, out);
        t = training_run_ranks(config, with, ways[i].n, save_again, &note);
        training_print(&t);
        cr_assert_eq(t.status, OK, "%s", how);
        cr_expect_eq(t.result.resumed_from, 3);
        expect_same_checkpoint(one, out, how);
        cr_expect(
            same_file(one, out,
                      strstr(method, "full") ? "model.safetensors" : "adapter_model.safetensors"),
            "%s: the result", how);
        cr_expect_eq(note.n, ways[i].n, "%s: told %d times", how, note.n);
        cr_expect(note.last.step == 3 && note.last.stall > 0 && note.last.time >= note.last.stall);
        if (ways[i].n == 1)
            cr_expect_eq(note.last.streamed, strstr(method, "full") != NULL, "%s", how);
        training_clear(&t);
        tmp_dir_remove(out);
        free(output), free(how);
    }
    if (strstr(method, "lora")) check_seal(one);
    free(config);
    tmp_dir_remove(one);
}

Test(saving, full, .timeout = 120)
{
    every_split_writes_the_same("method=full", "save.keep=2");
}

Test(saving, lora, .timeout = 120)
{
    every_split_writes_the_same("lora={rank: 2, save_modules: [norm]}", "save.keep=2");
}

/* Codes and the absmax of their blocks. */
Test(saving, states_in_8_bits, .timeout = 120)
{
    every_split_writes_the_same("method=full", "optim.states=int8");
}

/* ---- failures --------------------------------------------------------------------------------- */

/* What rank 0 writes in the background fails: a file that is to be copied is not there. */
static void save_in_vain(const Session *session, void *ud)
{
    Session *s = (Session *)session;
    Saving *saving;
    Err err = {0};
    RunState state = read_state(s->cfg->output);
    Told *note = ud;
    char *real = s->cfg->tokenizer;
    cr_assert_eq(saving_new(&saving, s, told, ud, &err), OK, "%s", err.line);
    s->cfg->tokenizer = xstrdup("/nowhere/tokenizer.json");
    cr_assert_eq(saving_start(saving, &state, &err), OK, "%s", err.line);
    cr_expect_eq(saving_finish(saving, &err), E_INPUT);
    if (s->hosts->size > 1) cr_expect(strstr(err.line, "rank 0 of 3 on ") != NULL, "%s", err.line);
    cr_expect(strstr(err.line, "/nowhere/tokenizer.json: cannot open") != NULL, "%s", err.line);
    cr_expect(str_starts(err.line, "checkpoint at step 3: "), "%s", err.line);
    free(s->cfg->tokenizer);
    s->cfg->tokenizer = real;
    cr_expect_eq(note->n, 0);
    /* and the next one succeeds */
    cr_expect_eq(saving_start(saving, &state, &err), OK, "%s", err.line);
    cr_expect_eq(saving_finish(saving, &err), OK, "%s", err.line);
    saving_free(saving);
}

Test(saving, where_one_fails_all_do, .timeout = 120)
{
    for (int n = 1; n <= 3; n += 2) {
        char *one = tmp_dir(), *out = tmp_dir(), *config = config_for(one);
        char *output = str_format("output=%s", out);
        Training t = training_run(config, LIST("method=full"));
        training_clear(&t);
        copy_checkpoint(one, out);
        Told note = {.lock = PTHREAD_MUTEX_INITIALIZER};
        t = training_run_ranks(config, LIST("method=full", output), n, save_in_vain, &note);
        training_print(&t);
        cr_assert_eq(t.status, OK);
        expect_same_checkpoint(one, out, "after a save that failed");
        char *beside = path_join(out, ".checkpoint-3.tmp");
        cr_expect(!path_exists(beside));
        training_clear(&t);
        free(config), free(output), free(beside);
        tmp_dir_remove(one);
        tmp_dir_remove(out);
    }
}

/* ---- staging memory --------------------------------------------------------------------------- */

static void look_at_staging(const Session *s, void *ud)
{
    Staging *all = ud, g = staging_of(s->cfg, &s->shards);
    all[s->hosts->rank] = g;
}

/* Bounded by its setting; ranks share what all have. */
Test(saving, staging_memory, .timeout = 120)
{
    char *out = tmp_dir(), *config = config_for(out);
    Staging one[1], four[4];
    Training t = training_run_ranks(config, LIST("method=full", "save.staging=0.0005"), 1,
                                    look_at_staging, one);
    training_clear(&t);
    cr_expect_eq(one[0].slot_bytes, 64 << 10);
    cr_expect_eq(one[0].n_slots, 8, "0.0005 GiB are 8 slots of 64 KiB, not %d", one[0].n_slots);
    cr_expect_gt(one[0].n_needed, 8);
    static const char *const stages[] = {"parallel.zero=0", "parallel.zero=3"};
    for (int z = 0; z < 2; z++) {
        t = training_run_ranks(config, LIST("method=full", "save.staging=0.0005", stages[z]), 4,
                               look_at_staging, four);
        training_clear(&t);
        int sum = 0;
        for (int i = 0; i < 4; i++) {
            sum += four[i].n_needed;
            cr_expect_leq(four[i].n_needed, (one[0].n_needed + 3) / 4 + 3);
        }
        cr_expect_geq(sum, one[0].n_needed);
    }
    free(config);
    tmp_dir_remove(out);
}
