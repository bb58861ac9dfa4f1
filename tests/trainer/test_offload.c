/* parallel.offload changes where things live and who updates them, and not one bit: losses, weights and checkpoints are
 * those of the same run without it, at every stage, on any number of ranks; device and host take what was planned. */
#include "base/fs.h"
#include "base/meminfo.h"
#include "base/str.h"
#include "tensor/region.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"
#include "trainer/plan.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static const char *const none = "parallel.offload=none",
                         *const optimizer = "parallel.offload=optimizer",
                         *const params = "parallel.offload=optimizer+params";

typedef struct Way {
    const char *model, *overrides[6]; /* NULL at the end */
    size_t stays;                     /* bytes of weights that are too small to leave the device */
} Way;

/* The most of any rank. */
typedef struct Taken {
    size_t peak, weights, optimizer, host_weights, host_optimizer;
} Taken;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void more(size_t *to, size_t n)
{
    if (n > *to) *to = n;
}

static void look(const Session *s, void *ud)
{
    Taken *t = ud;
    HostNeed need = host_home_need(&s->home);
    pthread_mutex_lock(&lock);
    more(&t->peak, s->dev.mem.peak_total);
    more(&t->weights, s->dev.mem.live[MEM_WEIGHT]);
    more(&t->optimizer, s->dev.mem.live[MEM_OPTIMIZER]);
    more(&t->host_weights, s->home.pinned.mem.live[MEM_WEIGHT]);
    more(&t->host_optimizer,
         s->home.pinned.mem.live[MEM_OPTIMIZER] + s->home.states.mem.live[MEM_OPTIMIZER]);
    cr_expect_eq(s->dev.mem.live[MEM_COMM], 0);
    cr_expect_eq(region_extent(s->dev.region), s->planned_bytes, "device: %zu of %zu",
                 region_extent(s->dev.region), s->planned_bytes);
    cr_expect_eq(need.states, s->planned_host.states, "host: %zu of %zu", need.states,
                 s->planned_host.states);
    cr_expect_eq(need.pinned, s->planned_host.pinned, "pinned: %zu of %zu", need.pinned,
                 s->planned_host.pinned);
    pthread_mutex_unlock(&lock);
}

static Training run_in(const char *out, const Way *way, const char *offload, const char *stage,
                       int n, Taken *t)
{
    char *rel = str_format("tests/fixtures/models/%s", way->model), *folder = source_path(rel);
    char *config =
        str_format("model: {path: \"%s\"}\n"
                   "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off, "
                   "packing: off, eval: \"%s/batches.jsonl\"}\n"
                   "batch: {global: 8}\n"
                   "optim: {lr: 0.002, weight_decay: 0.1}\n"
                   "train: {max_steps: 4}\n"
                   "eval: {every: 2}\n"
                   "save: {every: 2}\n"
                   "log: {tensorboard: false}\n"
                   "runtime: {threads: 1, memory: 0.5}\n"
                   "output: \"%s\"\n",
                   folder, folder, folder, out);
    const char *overrides[10] = {stage, offload};
    for (int i = 0; way->overrides[i]; i++)
        overrides[i + 2] = way->overrides[i];
    Training r = training_run_ranks(config, overrides, n, look, t);
    training_print(&r);
    cr_assert_eq(r.status, OK, "%s %s, %s, %s, %d ranks", way->model, way->overrides[0], offload,
                 stage, n);
    free(config);
    free(folder);
    free(rel);
    return r;
}

static void expect_same(const Way *way, const char *what, const Training *a, const Training *b)
{
    cr_assert_eq(training_steps(a), training_steps(b));
    for (int k = 0; k < training_steps(a); k++) {
        cr_expect_eq(training_value(a, k, "loss"), training_value(b, k, "loss"),
                     "%s %s, %s, step %d: loss", way->model, way->overrides[0], what, k);
        cr_expect_eq(training_value(a, k, "grad_norm"), training_value(b, k, "grad_norm"),
                     "%s %s, %s, step %d: norm", way->model, way->overrides[0], what, k);
    }
    cr_expect_eq(a->result.best_loss, b->result.best_loss, "%s %s, %s: evaluation", way->model,
                 way->overrides[0], what);
    cr_expect_eq(a->result.hash, b->result.hash, "%s %s, %s: weights", way->model,
                 way->overrides[0], what);
}

/* parts: how many ranks have what one rank had on its device; stage 1 and 2 split only what is trained. */
static void expect_moved(const Way *way, const char *offload, size_t parts, const Taken *was,
                         const Taken *is)
{
    enum { OTHERS = 16384 }; /* scalars of the step; the table of rotations */
    bool all = str_eq(offload, params), full = str_eq(way->overrides[0], "method=full");
    cr_expect_leq(is->optimizer, OTHERS, "%s, %s: %zu bytes of states on the device", way->model,
                  offload, is->optimizer);
    cr_expect_geq(is->host_optimizer + (all && full ? is->host_weights : 0) + OTHERS,
                  was->optimizer);
    cr_expect(all == (is->host_weights > 0));
    if (!all) return;
    cr_expect_geq(parts * is->host_weights + way->stays + OTHERS, was->weights,
                  "%s: %zu of %zu bytes of weights", way->model, is->host_weights, was->weights);
    cr_expect_leq(is->weights, way->stays + OTHERS, "%s: %zu bytes of weights stay", way->model,
                  is->weights);
}

static void every_way(const Way *ways, int n_ways)
{
    static const char *const stages[] = {"parallel.zero=0", "parallel.zero=1", "parallel.zero=2",
                                         "parallel.zero=3"};
    for (int w = 0; w < n_ways; w++)
        for (int n = 1; n <= 3; n++)
            for (int z = 0; z < 4; z++) {
                if (n == 1 ? z > 0 : (w + z + n) % 2) continue;
                char *dir[3] = {tmp_dir(), tmp_dir(), tmp_dir()};
                const char *const how[3] = {none, optimizer, params};
                Taken taken[3] = {{0}};
                Training t[3];
                for (int k = 0; k < 3; k++) {
                    t[k] = run_in(dir[k], &ways[w], how[k], stages[z], n, &taken[k]);
                    if (k == 0) continue;
                    char *what = str_format("%s, %s, %d ranks", how[k], stages[z], n);
                    expect_same(&ways[w], what, &t[0], &t[k]);
                    bool full = str_eq(ways[w].overrides[0], "method=full");
                    size_t parts = full && (z == 1 || z == 2) ? (size_t)n : 1;
                    expect_moved(&ways[w], how[k], parts, &taken[0], &taken[k]);
                    cr_expect(same_file(dir[0], dir[k], "checkpoint-4/state.safetensors"), "%s",
                              what);
                    free(what);
                }
                for (int k = 0; k < 3; k++) {
                    training_clear(&t[k]);
                    tmp_dir_remove(dir[k]);
                }
            }
}

TestSuite(offload, .timeout = 300); /* one for all: CONTRIBUTING.md */

Test(offload, full)
{
    static const Way ways[] = {
        {"llama2-d64", {"method=full", NULL}},
        {"llama2-d64", {"method=full", "batch.micro=1", "train.recompute=full", NULL}},
        {"qwen2-d64", {"method=full", "optim={lr: 0.002, clip: 0.1, clip_by: block}", NULL}},
        {"llama2-d64",
         {"method=full", "optim={lr: 0.002, clip: 0.1, clip_by: block}", "train.update=in_backward",
          NULL}},
        {"qwen2-d64", {"method=full", "optim.states=int8", NULL}},
        {"qwen3-d64",
         {"method=full", "optim={lr: 0.002, clip: 0}", "train.update=in_backward",
          "train.recompute=full", NULL}},
    };
    every_way(ways, sizeof ways / sizeof *ways);
}

Test(offload, lora)
{
    static const Way ways[] = {
        {"llama3-d64", {"lora.rank=4", NULL}},
        {"qwen2-d64",
         {"lora={rank: 4, dropout: 0.1}", "batch.micro=2", "train.recompute=full", NULL}},
        {"llama3-d64", {"lora={rank: 4, dora: true}", NULL}},
        {"llama3-d64", {"lora={rank: 4, init: pissa}", NULL}},
        {"llama3-d64",
         {"lora={rank: 4, layers: [1], save_modules: [lm_head, norm]}", NULL},
         512 * 64 * 4 + 64 * 4},
    };
    every_way(ways, sizeof ways / sizeof *ways);
}

/* Codes come and go as values do. */
Test(offload, qlora)
{
    static const Way ways[] = {
        {"llama3-d64", {"method=qlora", "lora.rank=4", "batch.micro=1", NULL}, 512 * 64 * 8 + 8192},
        {"llama3-d64",
         {"method=qlora", "model.quantize=int8", "lora.rank=4", "train.recompute=full", NULL},
         512 * 64 * 8 + 8192},
    };
    every_way(ways, sizeof ways / sizeof *ways);
}

/* Groups of two that split, and have the same between them. */
Test(offload, groups)
{
    static const Way way = {"llama2-d64", {"method=full", "parallel.shard_group=2", NULL}};
    static const char *const how[] = {none, optimizer, params};
    for (int z = 1; z <= 3; z += 2) {
        Training t[3];
        for (int k = 0; k < 3; k++) {
            char *dir = tmp_dir();
            Taken taken = {0};
            t[k] = run_in(dir, &way, how[k], z == 1 ? "parallel.zero=1" : "parallel.zero=3", 4,
                          &taken);
            if (k > 0) expect_same(&way, how[k], &t[0], &t[k]);
            tmp_dir_remove(dir);
        }
        for (int k = 0; k < 3; k++)
            training_clear(&t[k]);
    }
}

/* A checkpoint knows nothing of where things lived: each way goes on from each other's. */
Test(offload, resume)
{
    static const Way ways[] = {
        {"llama2-d64", {"method=full", NULL}},
        {"qwen2-d64", {"lora={rank: 4, dropout: 0.1}", NULL}},
    };
    static const char *const how[] = {none, optimizer, params};
    for (int w = 0; w < 2; w++) {
        char *whole = tmp_dir();
        Taken taken = {0};
        Training a = run_in(whole, &ways[w], none, "parallel.zero=2", 2, &taken);
        for (int from = 0; from < 3; from++)
            for (int to = 0; to < 3; to++) {
                char *dir = tmp_dir(), *last = path_join(dir, "checkpoint-4");
                Training b = run_in(dir, &ways[w], how[from], "parallel.zero=2", 2, &taken);
                Err err = {0};
                cr_assert_eq(dir_remove(last, &err), OK, "%s", err.line);
                training_clear(&b);
                b = run_in(dir, &ways[w], how[to], "parallel.zero=2", 2, &taken);
                cr_expect_eq(b.result.resumed_from, 2);
                cr_expect_eq(a.result.hash, b.result.hash, "%s goes on as %s", how[from], how[to]);
                cr_expect(same_file(whole, dir, "checkpoint-4/state.safetensors"));
                training_clear(&b);
                free(last);
                tmp_dir_remove(dir);
            }
        training_clear(&a);
        tmp_dir_remove(whole);
    }
}

/* What a step with a gradient that is not finite leaves: what was there before. */
Test(offload, nonfinite)
{
    static const Way way = {
        "llama2-d64",
        {"method=full", "optim={lr: 1000, weight_decay: 1000, clip: 0, schedule: constant}", NULL}};
    static const char *const how[] = {none, optimizer, params};
    char *said[3];
    for (int k = 0; k < 3; k++) {
        char *dir = tmp_dir(), *rel = str_format("tests/fixtures/models/%s", way.model),
             *folder = source_path(rel);
        char *config =
            str_format("model: {path: \"%s\"}\n"
                       "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, "
                       "cache: off}\n"
                       "batch: {global: 4}\ntrain: {max_steps: 20}\nlog: {tensorboard: false}\n"
                       "runtime: {threads: 2}\noutput: \"%s\"\n",
                       folder, folder, dir);
        Training t = training_run_ranks(config, LIST(how[k], way.overrides[0], way.overrides[1]), 1,
                                        NULL, NULL);
        cr_assert_eq(t.status, E_FAILED, "%s", how[k]);
        said[k] = xstrdup(t.err.line);
        if (k > 0) cr_expect_str_eq(said[0], said[k]);
        training_clear(&t);
        tmp_dir_remove(dir);
        free(rel), free(folder), free(config);
    }
    for (int k = 0; k < 3; k++)
        free(said[k]);
}

/* ---- what a host cannot hold ------------------------------------------------------------------- */

Test(offload, a_host_that_is_too_small_is_told)
{
    const size_t gib = (size_t)1 << 30;
    HostNeed need = {.states = 40 * gib, .pinned = 10 * gib};
    Err err = {0};
    cr_expect_eq(host_home_check(&need, 0, 2, 100 * gib, &err), OK);
    cr_expect_eq(host_home_check(&need, 0, 2, 0, &err), OK, "not known");
    cr_expect_eq(host_home_check(&need, 0, 2, 100 * gib - 1, &err), E_INPUT);
    cr_expect(str_starts(err.line,
                         "keeps 50.00 GiB of each rank in host memory (10.00 of them pinned), "
                         "100.00 for the 2 of this host"),
              "%s", err.line);
    cr_expect_eq(host_home_check(&need, 10 * gib, 1, 59 * gib, &err), E_INPUT);
}

/* As `train` says it, before anything is opened there. */
Test(offload, a_run_that_its_host_cannot_hold_is_refused)
{
    char *dir = tmp_dir();
    if (meminfo_available("") > (size_t)90 << 30) {
        fprintf(stderr, "skipped: this machine could hold it\n");
        return;
    }
    const char config[] = "model: {init: random, preset: llama-3-8b}\nmethod: full\n"
                          "data: {train: x, format: tokens, max_length: 64}\nbatch: {global: 1}\n"
                          "parallel: {offload: optimizer+params}\n"
                          "train: {update: in_backward}\noptim: {clip_by: block}\n";
    char *text = str_format("%soutput: '%s'\n", config, dir);
    TrainConfig c;
    Problems p = {0};
    Err err = {0};
    cr_assert_eq(config_parse(&c, text, strlen(text), "big.yaml", NULL, 0, &p), OK);
    Session s = {.cfg = &c, .log = &(Log){.to = NULL}};
    DeviceOpts large = {.region_bytes = (size_t)8 << 30, .threads = 1};
    cr_assert_eq(device_open(&s.dev, backend_find("cpu"), &large, DT_F32, &err), OK, "%s",
                 err.line);
    cr_expect_eq(plan_for_device(&s, &p), E_INPUT);
    cr_assert_eq(p.n, 1);
    cr_expect(str_starts(p.lines[0], "big.yaml:5: parallel.offload: keeps "), "%s", p.lines[0]);
    device_close(&s.dev);
    config_clear(&c);
    problems_clear(&p);
    tmp_dir_remove(dir);
    free(text);
}
