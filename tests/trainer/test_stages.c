/* Any number of ranks at any stage gives one rank's losses, full and LoRA, with recompute and accumulation; and what each
 * rank keeps between steps is its share. */
#include "base/str.h"
#include "tensor/region.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "tests/trainer/training.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

typedef struct Way {
    const char *name;
    const char *overrides[8]; /* NULL at the end */
} Way;

enum { MOST_RANKS = 4 };

typedef struct Memory {
    int64_t states, weights, gathered; /* bytes, the most of any rank */
    int64_t largest_unit;              /* elements trained in one */
    int64_t extent, planned;           /* of the region */
} Memory;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void more(int64_t *to, size_t bytes)
{
    if ((int64_t)bytes > *to) *to = (int64_t)bytes;
}

static void look(const Session *s, void *ud)
{
    Memory *m = ud;
    pthread_mutex_lock(&lock);
    more(&m->states, s->dev.mem.live[MEM_OPTIMIZER]);
    more(&m->weights, s->dev.mem.live[MEM_WEIGHT]);
    more(&m->gathered, s->dev.mem.live[MEM_COMM]);
    more(&m->extent, region_extent(s->dev.region));
    more(&m->planned, s->planned_bytes);
    for (int i = 0; i < s->shards.n; i++)
        more(&m->largest_unit, (size_t)s->shards.items[i].total);
    pthread_mutex_unlock(&lock);
}

static Training run(const char *model, const Way *way, const char *stage, int n, int64_t steps,
                    Memory *m)
{
    char *out = tmp_dir(), *folder = source_path(model);
    char *config =
        str_format("model: {path: \"%s\"}\n"
                   "data: {train: \"%s/packed.jsonl\", format: tokens, max_length: 64, cache: off, "
                   "packing: off, eval: \"%s/batches.jsonl\"}\n"
                   "batch: {global: 8}\n"
                   "optim: {lr: 0.002, weight_decay: 0.1}\n"
                   "train: {max_steps: %lld}\n"
                   "eval: {every: 2}\n"
                   "log: {tensorboard: false}\n"
                   "runtime: {threads: 1, memory: 0.5}\n"
                   "output: \"%s\"\n",
                   folder, folder, folder, (long long)steps, out);
    const char *overrides[10] = {stage};
    for (int i = 0; way->overrides[i]; i++)
        overrides[i + 1] = way->overrides[i];
    Training t = training_run_ranks(config, overrides, n, look, m);
    training_print(&t);
    cr_assert_eq(t.status, OK, "%s, %s, %d ranks", way->name, stage, n);
    free(config);
    free(folder);
    tmp_dir_remove(out);
    return t;
}

/* Relative: 1e-6 for 3 steps, 2e-5 for 20. */
static void expect_same(const Way *way, const char *stage, int n, const Training *a,
                        const Training *b)
{
    double early = 0, all = 0;
    cr_assert_eq(training_steps(a), training_steps(b));
    for (int k = 0; k < training_steps(a); k++) {
        double off = fabs(training_value(b, k, "loss") / training_value(a, k, "loss") - 1);
        if (k < 3) early = fmax(early, off);
        all = fmax(all, off);
    }
    cr_expect(early <= 1e-6 && all <= 2e-5, "%s, %s, %d ranks: off by %.1e in 3 steps, %.1e in all",
              way->name, stage, n, early, all);
    cr_expect_float_eq(a->result.best_loss, b->result.best_loss, 2e-5 * a->result.best_loss,
                       "%s, %s, %d ranks: eval %.8f, not %.8f", way->name, stage, n,
                       b->result.best_loss, a->result.best_loss);
}

static const char *const stages[] = {"parallel.zero=0", "parallel.zero=1", "parallel.zero=2",
                                     "parallel.zero=3"};

static const Way full[] = {
    {"full", {"method=full", NULL}},
    {"full, accumulated, all made again",
     {"method=full", "batch.micro=1", "train.recompute=full", NULL}},
    {"full, clipped by block",
     {"method=full", "optim={lr: 0.002, clip: 0.1, clip_by: block}", NULL}},
    {"full, updated in backward",
     {"method=full", "optim={lr: 0.002, clip: 0.1, clip_by: block}", "train.update=in_backward",
      NULL}},
};
/* How far ahead parameters are gathered changes nothing but memory, which the plan knows. */
static const Way ahead[] = {
    {"full, nothing gathered ahead", {"method=full", "parallel.prefetch=0", NULL}},
    {"full, much gathered ahead, accumulated",
     {"method=full", "parallel.prefetch=3", "batch.micro=1", NULL}},
    {"lora, much gathered ahead", {"lora.rank=4", "parallel.prefetch=2", "batch.micro=2", NULL}},
};

static const Way int8[] = {
    {"full, states in 8 bits", {"method=full", "optim.states=int8", NULL}},
    {"full, states in 8 bits, accumulated",
     {"method=full", "optim.states=int8", "batch.micro=1", NULL}},
    {"full, states in 8 bits, updated in backward",
     {"method=full", "optim={lr: 0.002, clip: 0.1, clip_by: block, states: int8}",
      "train.update=in_backward", NULL}},
    {"lora, states in 8 bits", {"lora.rank=64", "optim.states=int8", "batch.micro=2", NULL}},
};
static const Way lora[] = {
    {"lora", {"lora.rank=4", NULL}},
    {"lora, accumulated, all made again",
     {"lora.rank=4", "batch.micro=1", "train.recompute=full", NULL}},
    {"lora with dropout", {"lora={rank: 4, dropout: 0.1}", "batch.micro=2", NULL}},
    {"lora on some layers, a head trained whole",
     {"lora={rank: 4, layers: [1], save_modules: [lm_head, norm]}", "batch.micro=2", NULL}},
};

static const Way qlora[] = {
    {"qlora, nf4", {"method=qlora", "lora.rank=4", "batch.micro=1", NULL}},
    {"qlora, embedding on the host", {"method=qlora", "model.embedding=host", "lora.rank=4", NULL}},
    {"qlora, int8, all made again",
     {"method=qlora", "model.quantize=int8", "lora.rank=4", "train.recompute=full", NULL}},
    {"qlora, nf4, all made again, decoded ahead",
     {"method=qlora", "lora.rank=4", "train.recompute=full", "runtime.decode_ahead=true", NULL}},
};

static void every_stage(const char *model, const Way *ways, int n_ways, int64_t steps)
{
    for (int w = 0; w < n_ways; w++) {
        Memory alone = {0};
        Training one = run(model, &ways[w], stages[0], 1, steps, &alone);
        for (int n = 2; n <= MOST_RANKS; n++)
            for (int z = 0; z < 4; z++) {
                /* three ranks divide nothing evenly: all ways; the others alternate */
                if (n != 3 && (w + z + n) % 2) continue;
                Memory m = {0};
                Training t = run(model, &ways[w], stages[z], n, steps, &m);
                expect_same(&ways[w], stages[z], n, &one, &t);
                cr_expect_eq(m.gathered, 0);
                cr_expect_eq(m.extent, m.planned, "%s, %s, %d ranks: took %lld bytes, planned %lld",
                             ways[w].name, stages[z], n, (long long)m.extent, (long long)m.planned);
                if (ways[w].overrides[0][0] == 'm' && z > 0) {
                    int64_t unit = 12 * m.largest_unit;
                    cr_expect_leq(m.states, alone.states / n + unit, "%s: %lld of %lld bytes",
                                  ways[w].name, (long long)m.states, (long long)alone.states);
                    if (z == 3)
                        cr_expect_leq(m.weights, alone.weights / n + unit, "%s: %lld of %lld",
                                      ways[w].name, (long long)m.weights, (long long)alone.weights);
                }
                training_clear(&t);
            }
        training_clear(&one);
    }
}

Test(stages, full, .timeout = 300)
{
    every_stage("tests/fixtures/models/llama2-d64", full, 4, 4);
}

Test(stages, gathered_ahead, .timeout = 300)
{
    every_stage("tests/fixtures/models/llama3-d64", ahead, 3, 4);
}

/* Blocks of states belong to checkpoint tensors: cut anywhere they are the same. */
Test(stages, states_in_8_bits, .timeout = 300)
{
    every_stage("tests/fixtures/models/llama2-d64", int8, 4, 4);
    Memory fine = {0}, coarse = {0};
    Training a = run("tests/fixtures/models/llama2-d64", &full[0], stages[0], 1, 1, &fine);
    Training b = run("tests/fixtures/models/llama2-d64", &int8[0], stages[0], 1, 1, &coarse);
    cr_expect_lt(2 * coarse.states, fine.states, "%lld bytes of states, and %lld in fp32",
                 (long long)coarse.states, (long long)fine.states);
    training_clear(&a);
    training_clear(&b);
}

Test(stages, lora, .timeout = 300)
{
    every_stage("tests/fixtures/models/llama3-d64", lora, 4, 4);
}

/* At stage 3 the codes are what is split and gathered. */
Test(stages, qlora, .timeout = 300)
{
    for (int w = 0; w < 3; w++) {
        Memory alone = {0};
        Training one = run("tests/fixtures/models/llama2-d64", &qlora[w], stages[0], 1, 4, &alone);
        for (int z = 0; z < 4; z += 3) {
            Memory m = {0};
            Training t = run("tests/fixtures/models/llama2-d64", &qlora[w], stages[z], 3, 4, &m);
            expect_same(&qlora[w], stages[z], 3, &one, &t);
            cr_expect_eq(m.gathered, 0);
            cr_expect_eq(m.extent, m.planned, "%s, %s: took %lld bytes, planned %lld",
                         qlora[w].name, stages[z], (long long)m.extent, (long long)m.planned);
            if (z == 3)
                cr_expect_leq(m.weights, alone.weights / 3 + 16384, "%s: %lld of %lld bytes",
                              qlora[w].name, (long long)m.weights, (long long)alone.weights);
            training_clear(&t);
        }
        training_clear(&one);
    }
}

/* Embedding and head are one matrix there. */
Test(stages, tied, .timeout = 300)
{
    static const Way ways[] = {
        {"full, tied", {"method=full", "batch.micro=2", NULL}},
        {"full, tied, updated in backward",
         {"method=full", "optim={lr: 0.002, clip: 0}", "train.update=in_backward", NULL}}};
    every_stage("tests/fixtures/models/qwen3-d64", ways, 2, 4);
}

Test(stages, twenty_steps, .timeout = 300)
{
    Memory m = {0};
    Training one = run("tests/fixtures/models/qwen2-d64", &full[0], stages[0], 1, 20, &m);
    Training four = run("tests/fixtures/models/qwen2-d64", &full[0], stages[3], 4, 20, &m);
    expect_same(&full[0], stages[3], 4, &one, &four);
    training_clear(&one);
    training_clear(&four);
}

/* Groups of two that split, and have the same between them. */
Test(stages, groups, .timeout = 300)
{
    static const Way ways[] = {
        {"full in groups", {"method=full", "parallel.shard_group=2", NULL}},
        {"full in groups, accumulated",
         {"method=full", "parallel.shard_group=2", "batch.micro=1", NULL}},
        {"lora in groups", {"lora.rank=4", "parallel.shard_group=2", NULL}},
    };
    for (int w = 0; w < 3; w++) {
        Memory alone = {0};
        Training one = run("tests/fixtures/models/llama2-d64", &ways[w], stages[0], 1, 4, &alone);
        for (int z = 0; z < 4; z++) {
            Memory m = {0};
            Training t = run("tests/fixtures/models/llama2-d64", &ways[w], stages[z], 4, 4, &m);
            expect_same(&ways[w], stages[z], 4, &one, &t);
            cr_expect_eq(m.extent, m.planned);
            if (w == 0 && z > 0) cr_expect_leq(m.states, alone.states / 2 + 12 * m.largest_unit);
            training_clear(&t);
        }
        training_clear(&one);
    }
}

/* Three of four ranks have nothing to do in a step of one row, and the last step of an epoch may have fewer rows than
 * ranks. */
Test(stages, more_ranks_than_rows, .timeout = 300)
{
    static const Way one_row = {"one row", {"method=full", "batch.global=1", NULL}};
    static const Way three = {"three rows", {"lora.rank=4", "batch.global=3", NULL}};
    for (int z = 0; z < 4; z++) {
        Memory m = {0};
        const Way *way = z % 2 ? &one_row : &three;
        Training one = run("tests/fixtures/models/llama3-d64", way, stages[0], 1, 4, &m);
        Training four = run("tests/fixtures/models/llama3-d64", way, stages[z], 4, 4, &m);
        expect_same(way, stages[z], 4, &one, &four);
        training_clear(&one);
        training_clear(&four);
    }
}
