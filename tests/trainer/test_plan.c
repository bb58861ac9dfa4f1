/* The planned peak against that of the run, to the byte and by category; what a plan says of runs that do not fit. */
#include "base/fs.h"
#include "base/rng.h"
#include "base/str.h"
#include "tensor/region.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"
#include "trainer/plan.h"
#include "trainer/run.h"
#include "trainer/when_full.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct PlanCase {
    const char *name, *model,
        *keys;              /* model: a golden fixture, or a preset where it begins with tiny */
    const char *model_keys; /* behind its path; or NULL */
} PlanCase;

static const PlanCase cases[] = {
    {"full", "llama2-tiny", "method: full\n"},
    {"full, recompute, biases", "qwen2-tiny", "method: full\ntrain: {recompute: full}\n"},
    {"full, head norms, tied, recompute of products", "tiny-qwen3",
     "method: full\nbatch: {global: 6, micro: 3}\ntrain: {recompute: attention}\n"},
    {"lora", "llama3-tiny",
     "lora: {rank: 4}\nbatch: {global: 4, micro: 2}\ntrain: {recompute: none}\n"},
    {"lora, dropout, recompute of norms", "llama2-tiny",
     "lora: {rank: 4, dropout: 0.1, targets: [q_proj, v_proj]}\nbatch: {global: 5, micro: 5}\n"
     "train: {recompute: selective}\n"},
    {"full, updated in backward", "llama2-tiny",
     "method: full\ntrain: {update: in_backward}\noptim: {clip_by: block}\n"},
    {"full, updated in backward, tied", "tiny-qwen3",
     "method: full\ntrain: {update: in_backward, recompute: full}\noptim: {clip: 0}\n"},
    {"full, states in 8 bits", "llama2-tiny", "method: full\noptim: {states: int8}\n"},
    {"lora, states in 8 bits", "tiny-qwen3", "lora: {rank: 64}\noptim: {states: int8}\n"},
    {"lora, recompute in one layer, a trained norm", "llama3-tiny",
     "lora: {rank: 2, save_modules: [norm]}\ntrain: {recompute: full, recompute_layers: [1]}\n"},
    {"dora, biases", "qwen2-tiny",
     "lora: {rank: 4, dora: true, targets: [q_proj, v_proj, up_proj]}\n"},
    {"dora, dropout", "qwen2-tiny",
     "lora: {rank: 4, dora: true, dropout: 0.1, targets: [q_proj, o_proj, up_proj]}\n"
     "train: {recompute: none}\n"},
    {"qlora, int8, dora, dropout, recompute", "llama3-tiny",
     "method: qlora\nlora: {rank: 4, dora: true, dropout: 0.1}\ntrain: {recompute: full}\n",
     ", quantize: int8"},
    {"qlora, nf4, dora", "llama2-tiny", "method: qlora\nlora: {rank: 4, dora: true}\n"},
    {"qlora, embedding on the host", "llama2-tiny",
     "method: qlora\nlora: {rank: 4}\nbatch: {global: 4, micro: 2}\n", ", embedding: host"},
    {"qlora, fp4 in blocks of 256", "llama2-tiny", "method: qlora\nlora: {rank: 4}\n",
     ", quantize: fp4, quant_block: 256"},
    {"qlora, nf4", "llama3-tiny", "method: qlora\nlora: {rank: 4}\nbatch: {global: 4, micro: 2}\n"},
    {"qlora, int8, recompute, dropout", "qwen2-tiny",
     "method: qlora\nlora: {rank: 2, dropout: 0.1, targets: [q_proj, v_proj]}\ntrain: {recompute: "
     "full}\n",
     ", quantize: int8"},
    {"qlora, one scratch", "llama3-tiny",
     "method: qlora\ntrain: {recompute: full}\nruntime: {scratches: 1}\n"},
    {"qlora, decoded ahead", "llama3-tiny",
     "method: qlora\ntrain: {recompute: attention}\nruntime: {scratches: 2, decode_ahead: true}\n"},
    {"a checkpoint in codes, down_proj plain", "../quant/bnb-nf4-skip",
     "method: qlora\nlora: {rank: 4}\nbatch: {global: 4, micro: 2}\n"},
    {"a checkpoint in codes, v_proj plain", "../quant/gptq-4bit-g64-order-skip-v",
     "method: qlora\nlora: {rank: 2}\ntrain: {recompute: full}\nruntime: {decode_ahead: true}\n"},
};

/* Rows of tokens below n_ids, of many lengths, some of which train on little. */
static char *write_rows(const char *dir, uint64_t n_ids)
{
    StrBuf b = {0};
    for (uint64_t i = 0; i < 60; i++) {
        int64_t n = 4 + (int64_t)rng_below(1, i, 60), asked = (int64_t)rng_below(2, i, (uint64_t)n);
        for (int part = 0; part < 2; part++) {
            strbuf_puts(&b, part ? "], \"labels\": [" : "{\"input_ids\": [");
            for (int64_t k = 0; k < n; k++)
                strbuf_printf(&b, "%s%d", k ? ", " : "",
                              part && k < asked ? -100 : (int)rng_below(i, (uint64_t)k, n_ids));
        }
        strbuf_puts(&b, "]}\n");
    }
    char *path = path_join(dir, "rows.jsonl");
    Err err = {0};
    cr_assert_eq(file_write_atomic(path, b.data, b.len, &err), OK, "%s", err.line);
    strbuf_clear(&b);
    return path;
}

static void load(TrainConfig *c, const PlanCase *k, const char *dir, bool data, bool packed)
{
    char *rel = str_format("tests/fixtures/golden/%s", k->model), *folder = source_path(rel);
    char *model = str_starts(k->model, "tiny") ? str_format("init: random, preset: %s", k->model)
                                               : str_format("path: '%s'", folder);
    uint64_t n_ids = str_starts(k->model, "../quant/") ? 64 : 250;
    char *rows = data ? write_rows(dir, n_ids) : path_join(dir, "absent.jsonl");
    char *text = str_format("model: {%s%s}\n"
                            "data: {train: '%s', format: tokens, max_length: 64, packing: %s, "
                            "cache: 'off', eval: {count: 9}, allow_untrained: true}\n"
                            "eval: {every: 2, tokens: 100}\n"
                            "output: '%s/out'\nlog: {tensorboard: false}\n%s",
                            model, k->model_keys ? k->model_keys : "", rows,
                            packed ? "best_fit" : "off", dir, k->keys);
    Problems p = {0};
    Status s = config_parse(c, text, strlen(text), "plan.yaml", NULL, 0, &p);
    for (int i = 0; i < p.n; i++)
        fprintf(stderr, "%s\n", p.lines[i]);
    cr_assert_eq(s, OK, "%s", k->name);
    free(rel), free(folder), free(model), free(rows), free(text);
}

/* Cases whose units come and go, or whose states lie elsewhere: of several micro-batches, in backward, quantised. */
static const PlanCase offloaded[] = {
    {"full, states on the host", "llama2-tiny", "method: full\nparallel: {offload: optimizer}\n"},
    {"full, all on the host, updated in backward", "qwen2-tiny",
     "method: full\ntrain: {update: in_backward}\noptim: {clip_by: block}\n"
     "parallel: {offload: optimizer+params}\n"},
    {"full, tied, all on the host", "tiny-qwen3",
     "method: full\nbatch: {global: 6, micro: 3}\nparallel: {offload: optimizer+params}\n"},
    {"lora, base on the host", "llama3-tiny",
     "lora: {rank: 4}\nbatch: {global: 4, micro: 2}\nparallel: {offload: optimizer+params}\n"},
    {"qlora, codes on the host", "llama2-tiny",
     "method: qlora\nlora: {rank: 4}\nparallel: {offload: optimizer+params}\n"},
};

static const PlanTarget cpu = {.cuda = false};

static void expect_planned(const PlanCase *k, bool packed)
{
    char *dir = tmp_dir();
    TrainConfig c;
    load(&c, k, dir, true, packed);
    Session s = {0};
    Log log = {.to = NULL};
    Problems p = {0};
    Err err = {0};
    RunPlan plan;
    RunResult result;
    cr_assert_eq(session_open_data(&s, &c, &log, &p), OK, "%s", k->name);
    cr_assert_eq(plan_run(&plan, &c, s.train, s.eval, &cpu, SIZE_MAX, NULL, &log, &p), OK, "%s",
                 k->name);
    cr_assert_eq(session_open_model(&s, &c, &log, &p), OK, "%s", k->name);
    cr_assert_eq(trainer_run(&s, false, &result, &p, &err), OK, "%s: %s", k->name, err.line);
    HostNeed took = host_home_need(&s.home);
    cr_expect_eq(plan.host.states, took.states, "%s", k->name);
    cr_expect_eq(plan.host.pinned, took.pinned, "%s", k->name);
    cr_expect(!plan.assumed);
    cr_expect_eq(plan.epochs_seen, 1);
    cr_expect_eq(plan.mem.peak_total, s.dev.mem.peak_total, "%s: planned %zu, run %zu", k->name,
                 plan.mem.peak_total, s.dev.mem.peak_total);
    cr_expect_eq(memcmp(plan.mem.at_peak, s.dev.mem.at_peak, sizeof plan.mem.at_peak), 0, "%s",
                 k->name);
    size_t extent = region_extent(s.dev.region);
    cr_expect_geq(plan.extent * 1.02, extent, "%s: planned %zu, run %zu", k->name, plan.extent,
                  extent);
    session_close(&s);
    config_clear(&c);
    problems_clear(&p);
    tmp_dir_remove(dir);
}

Test(plan, tells_the_peak_of_the_run)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_planned(&cases[i], false);
        expect_planned(&cases[i], true);
    }
}

Test(plan, peak_with_offload_is_the_runs)
{
    for (size_t i = 0; i < sizeof offloaded / sizeof *offloaded; i++) {
        expect_planned(&offloaded[i], false);
        expect_planned(&offloaded[i], true);
    }
}

/* Products and attention of a step by the formulas of the literature: 6 (full) or 4 (LoRA, plus its own) times the
 * parameters of the products. */
Test(plan, counts_the_work_of_a_step)
{
    char *dir = tmp_dir();
    PlanCase k = {"full", "llama2-tiny", "method: full\nbatch: {global: 4, micro: 2}\n"};
    TrainConfig c;
    load(&c, &k, dir, false, true);
    RunPlan plan;
    Problems p = {0};
    Log log = {.to = NULL};
    cr_assert_eq(plan_run(&plan, &c, NULL, NULL, &cpu, SIZE_MAX, NULL, &log, &p), OK);
    double C = 64, F = 172, V = 512, layers = 2, tokens = 4 * 64;
    double params = layers * (4 * C * C + 3 * C * F) + V * C;
    cr_expect(plan.assumed);
    cr_expect_eq(plan.n_tokens, 256);
    cr_expect_float_eq(plan.products.flops, 6 * params * tokens, 1.0);
    cr_expect_float_eq(plan.attention.flops, 3 * 2 * 64 * C * layers * tokens, 1.0);
    config_clear(&c);
    tmp_dir_remove(dir);
}

Test(plan, finds_settings_that_fit)
{
    char *dir = tmp_dir();
    PlanCase k = {"full", "llama2-tiny",
                  "method: full\nbatch: {global: 8}\ntrain: {recompute: none}\n"};
    TrainConfig c;
    load(&c, &k, dir, false, true);
    RunPlan plan;
    Problems p = {0};
    Log log = {.to = NULL};
    cr_assert_eq(plan_run(&plan, &c, NULL, NULL, &cpu, SIZE_MAX, NULL, &log, &p), OK);
    PlanAdvice a[PLAN_MAX_ADVICE];
    size_t bytes = plan.extent - 1;
    int n = plan_advise(a, &c, NULL, NULL, &cpu, bytes);
    cr_assert_eq(n, 4);
    cr_expect_eq(a[3].offload, OFFLOAD_OPTIMIZER);
    cr_expect_gt(a[3].host.states, 0);
    cr_expect_eq(a[2].micro, 8);
    cr_expect(a[2].in_backward, "without gradients that exist whole");
    cr_expect_eq(a[2].mix.n_more, 0);
    cr_expect_eq(a[0].micro, 4);
    cr_expect(!a[0].recompute);
    cr_expect_lt(a[0].extent, plan.extent);
    cr_expect_eq(a[1].micro, 8);
    cr_expect(a[1].recompute);
    cr_expect_eq(a[1].mix.level, RECOMPUTE_NONE);
    cr_expect_eq(a[1].mix.n_more, 1, "selective in one block of two is enough");
    cr_expect_leq(a[1].extent, bytes);
    StrBuf text = {0};
    plan_advice_text(&text, &a[1], &c, 2);
    cr_expect_not_null(strstr(text.data, "recompute selective in block 0, none in the other 1)"),
                       "%s", text.data);
    strbuf_clear(&text);
    cr_expect_eq(c.batch_micro, 8, "the config is as it was");
    cr_expect_eq(c.recompute, RECOMPUTE_NONE);
    cr_expect_eq(plan_advise(a, &c, NULL, NULL, &cpu, 1000), 0);
    cr_expect_eq(a[0].micro, 1);
    config_clear(&c);
    tmp_dir_remove(dir);
}

/* model.embedding auto: rows from the host cost less than making anything again, and nothing where they are not needed. */
Test(plan, embedding_goes_to_the_host_first)
{
    char *dir = tmp_dir();
    PlanCase k = {"lora", "llama2-tiny", "lora: {rank: 4}\nbatch: {global: 2}\n"};
    TrainConfig c;
    load(&c, &k, dir, false, true);
    RunPlan all, less;
    Problems p = {0};
    Log log = {.to = NULL};
    cr_assert_eq(plan_run(&all, &c, NULL, NULL, &cpu, SIZE_MAX, NULL, &log, &p), OK);
    cr_expect(!c.embed_on_host);
    cr_assert_eq(plan_run(&less, &c, NULL, NULL, &cpu, all.extent, NULL, &log, &p), OK);
    cr_expect(c.embed_on_host);
    cr_expect(c.mix.level == RECOMPUTE_NONE && c.mix.n_more == 0);
    cr_expect_eq(all.mem.at_peak[MEM_WEIGHT] - less.mem.at_peak[MEM_WEIGHT], 512 * 64 * 4);
    cr_assert_eq(plan_run(&less, &c, NULL, NULL, &cpu, less.extent, NULL, &log, &p), OK);
    cr_expect(c.embed_on_host && (c.mix.level > RECOMPUTE_NONE || c.mix.n_more > 0));
    config_clear(&c);

    PlanCase tied = {"tied", "llama3-tiny", "lora: {rank: 4}\nbatch: {global: 2}\n"};
    load(&c, &tied, dir, false, true);
    cr_assert_eq(plan_run(&all, &c, NULL, NULL, &cpu, SIZE_MAX, NULL, &log, &p), OK);
    cr_assert_eq(plan_run(&less, &c, NULL, NULL, &cpu, all.extent, NULL, &log, &p), OK);
    cr_expect(!c.embed_on_host, "the head reads it");
    config_clear(&c);
    tmp_dir_remove(dir);
}

/* train.recompute auto: the first rung of the ladder that fits, for every size of device. */
Test(plan, auto_takes_the_fastest_that_fits)
{
    char *dir = tmp_dir();
    PlanCase fixed = {"full", "llama2-tiny", "method: full\nbatch: {global: 8}\n"};
    TrainConfig c;
    load(&c, &fixed, dir, false, true);
    cr_assert_eq(c.recompute, RECOMPUTE_AUTO, "the default");
    RunPlan plan;
    Problems p = {0};
    Log log = {.to = NULL};
    size_t need[RECOMPUTE_FULL * 2 + 1];
    c.recompute = RECOMPUTE_NONE; /* each rung for itself */
    for (int rung = 0; rung <= RECOMPUTE_FULL * 2; rung++) {
        c.mix = (RecomputeMix){(Recompute)(rung / 2), rung % 2};
        cr_assert_eq(plan_run(&plan, &c, NULL, NULL, &cpu, 0, NULL, &log, &p), OK);
        need[rung] = plan.extent;
        if (rung > 0) cr_expect_leq(need[rung], need[rung - 1], "rung %d", rung);
    }
    c.recompute = RECOMPUTE_AUTO;
    for (int rung = 0; rung <= RECOMPUTE_FULL * 2; rung++) {
        size_t bytes = need[rung] + need[rung] / 90; /* with the room that is left free */
        cr_assert_eq(plan_run(&plan, &c, NULL, NULL, &cpu, bytes, NULL, &log, &p), OK);
        int got = (int)c.mix.level * 2 + (int)c.mix.n_more, want = 0;
        while (need[want] > bytes - bytes / 100)
            want++;
        cr_expect_eq(got, want, "%zu bytes: rung %d, should be %d", bytes, got, want);
        cr_expect_eq(plan.extent, need[got]);
    }
    cr_assert_eq(plan_run(&plan, &c, NULL, NULL, &cpu, 1000, NULL, &log, &p), OK);
    cr_expect_eq(c.mix.level, RECOMPUTE_FULL, "the least where nothing fits");
    config_clear(&c);
    tmp_dir_remove(dir);
}

/* As `train` does: the opened device says how much there is. */
Test(plan, refuses_a_run_that_does_not_fit)
{
    char *dir = tmp_dir();
    PlanCase k = {"full", "llama2-tiny", "method: full\nbatch: {global: 8}\n"};
    TrainConfig c;
    load(&c, &k, dir, false, true);
    Session s = {.cfg = &c, .log = &(Log){.to = NULL}};
    Problems p = {0};
    Err err = {0};
    DeviceOpts small = {.region_bytes = (size_t)4 << 20, .threads = 1};
    DeviceOpts large = {.region_bytes = (size_t)400 << 20, .threads = 1};
    cr_assert_eq(device_open(&s.dev, backend_find("cpu"), &large, DT_F32, &err), OK);
    cr_expect_eq(plan_for_device(&s, &p), OK);
    device_close(&s.dev);
    cr_assert_eq(device_open(&s.dev, backend_find("cpu"), &small, DT_F32, &err), OK);
    cr_expect_eq(plan_for_device(&s, &p), E_INPUT);
    cr_assert_eq(p.n, 1);
    cr_expect_not_null(strstr(p.lines[0], "runtime.device: the run needs"), "%s", p.lines[0]);
    cr_expect_not_null(strstr(p.lines[0], "batch.micro: "), "%s", p.lines[0]);
    device_close(&s.dev);
    config_clear(&c);
    problems_clear(&p);
    tmp_dir_remove(dir);
}

/* Out of memory while it trains: what is left to set, the least change first. */
Test(plan, what_to_set_is_not_what_is_at_its_end)
{
    static const struct {
        const char *keys;
        int ranks;
        const char *settings;
    } runs[] = {
        {"batch: {global: 4}\n", 1, "a smaller batch.micro or train.recompute: full"},
        {"batch: {global: 4, micro: 1}\n", 1,
         "train.recompute: full or parallel.offload: optimizer+params"},
        {"batch: {global: 1}\ntrain: {recompute: full}\n", 1,
         "parallel.offload: optimizer+params or a smaller data.max_length"},
        {"batch: {global: 1}\ntrain: {recompute: full}\n", 2,
         "parallel.zero: 3 or parallel.offload: optimizer+params"},
        {"batch: {global: 1}\ntrain: {recompute: full, recompute_layers: [0]}\n", 1,
         "train.recompute: full without train.recompute_layers or parallel.offload: "
         "optimizer+params"},
        {"batch: {global: 1}\ntrain: {recompute: full}\nparallel: {zero: 3, offload: "
         "optimizer+params}\n",
         2, "a smaller data.max_length or a device with more memory"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char text[512], settings[ADVICE_MAX];
        TrainConfig c;
        Problems p = {0};
        snprintf(text, sizeof text,
                 "model: {path: m}\noutput: o\ndata: {train: t, format: tokens}\n%s", runs[i].keys);
        cr_assert_eq(config_parse(&c, text, strlen(text), "full.yaml", NULL, 0, &p), OK, "%s",
                     p.n > 0 ? p.lines[0] : "");
        cr_expect_str_eq(when_full_train(settings, &c, runs[i].ranks), runs[i].settings);
        config_clear(&c);
    }
}
