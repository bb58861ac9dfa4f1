/* Training on a quantised base: as good as on the fp32 base, the same however much is made again, and told at the start. */
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

enum { STEPS = 60, LAST = 20 };

static const char *const config =
    "data: {format: tokens, packing: off, shuffle: false, max_length: 48, cache: off}\n"
    "batch: {global: 2}\n"
    "optim: {lr: 0.002, beta2: 0.95, weight_decay: 0.1, warmup_steps: 3}\n"
    "log: {tensorboard: false}\n";

static const char *const mixed_config =
    "data: {format: tokens, shuffle: false, max_length: 32, cache: off, train_on: all}\n"
    "batch: {global: 4}\n"
    "lora: {rank: 4}\n"
    "optim: {lr: 0.002}\n"
    "train: {max_steps: 4}\n"
    "runtime: {threads: 1, memory: 0.5}\n"
    "log: {tensorboard: false}\n";

/* Overrides end with NULL; their memory is the caller's. */
static Training train(const char *model, const char *adapter, const char *out,
                      const char *const *more)
{
    char *rel = str_format("tests/fixtures/%s", model), *dir = source_path(rel);
    char *given[16];
    int n = 0;
    given[n++] = str_format("model.path=%s", dir);
    given[n++] = str_format("data.train=%s/batches.jsonl", dir);
    given[n++] = str_format("output=%s", out);
    if (adapter) given[n++] = str_format("lora.adapter=%s/%s", dir, adapter);
    for (; *more; more++)
        given[n++] = xstrdup(*more);
    given[n] = NULL;
    Training t = training_run(config, (const char *const *)given);
    training_print(&t);
    cr_assert_eq(t.status, OK, "%s", model);
    while (n > 0)
        free(given[--n]);
    free(rel), free(dir);
    return t;
}

static double mean_of_last(const Training *t)
{
    double sum = 0;
    for (int i = STEPS - LAST; i < STEPS; i++)
        sum += training_value(t, i, "loss");
    return sum / LAST;
}

static double last_losses(const char *model, const char *method)
{
    char *out = tmp_dir(), *set = str_format("method=%s", method);
    Training t =
        train(model, "lora_init", out, (const char *const[]){set, "train.max_steps=60", NULL});
    double loss = mean_of_last(&t);
    training_clear(&t);
    tmp_dir_remove(out);
    free(set);
    return loss;
}

TestSuite(qlora, .timeout = 200); /* one for all: CONTRIBUTING.md */

Test(qlora, nf4_trains_as_well_as_fp32)
{
    static const char *const folders[] = {
        "golden/llama2-tiny", "golden/llama3-tiny", "golden/qwen2-tiny",   "models/llama2-d64",
        "models/llama3-d64",  "models/mistral-d64", "models/qwen2-d64",    "models/qwen3-d64",
        "models/llama2-d128", "models/llama3-d128", "models/mistral-d128", "models/qwen2-d128",
        "models/qwen3-d128"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        double plain = last_losses(folders[i], "lora"), nf4 = last_losses(folders[i], "qlora");
        double off = nf4 / plain - 1;
        fprintf(stderr, "%-22s fp32 %.4f  nf4 %.4f  %+.2f %%\n", folders[i], plain, nf4, 100 * off);
        cr_expect(fabs(off) <= 0.02, "%s", folders[i]);
    }
}

/* LoRA+: B starts at 0 and A's first gradient is 0, so after one step of AdamW, which moves each element by its rate, B is
 * ratio times as large and A the same; decay aside. */
Test(qlora, b_learns_faster_in_lora_plus)
{
    double norms[2];
    for (int k = 0; k < 2; k++) {
        char *out = tmp_dir();
        Training t =
            train("golden/llama2-tiny", NULL, out,
                  (const char *const[]){"method=lora", "lora.rank=4", "train.max_steps=1",
                                        "optim.weight_decay=0", "optim.warmup_steps=0",
                                        k ? "lora.b_lr_ratio=16" : "lora.b_lr_ratio=0", NULL});
        char *path = str_format("%s/adapter_model.safetensors", out);
        SafeTensors *f;
        Err err = {0};
        cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
        norms[k] = 0;
        for (int i = 0; i < safetensors_count(f); i++) {
            const SafeTensor *b = safetensors_at(f, i);
            const float *x = (const float *)(const void *)b->data;
            for (int64_t j = 0; strstr(b->name, "lora_B") && j < safe_numel(b); j++)
                norms[k] += (double)x[j] * (double)x[j];
        }
        safetensors_close(f);
        training_clear(&t);
        tmp_dir_remove(out);
        free(path);
    }
    cr_expect_float_eq(sqrt(norms[1] / norms[0]), 16, 1e-3, "%g", sqrt(norms[1] / norms[0]));
}

static void check_bits(const char *quantize)
{
    char *a = tmp_dir(), *b = tmp_dir();
    const char *none[] = {"method=qlora", quantize, "train.max_steps=4", "lora.rank=4", NULL};
    Training x = train("golden/llama3-tiny", NULL, a, none);
    static const char *const levels[] = {"train.recompute=selective", "train.recompute=attention",
                                         "train.recompute=full"};
    for (int i = 0; i < 3; i++) {
        const char *level[] = {
            "method=qlora", quantize, "train.max_steps=4", "lora.rank=4", levels[i],
            "resume=never", NULL};
        tmp_dir_remove(b);
        b = tmp_dir();
        Training y = train("golden/llama3-tiny", NULL, b, level);
        cr_expect(same_file(a, b, "adapter_model.safetensors"), "%s %s", quantize, levels[i]);
        training_clear(&y);
    }
    training_clear(&x);
    tmp_dir_remove(a);
    tmp_dir_remove(b);
}

Test(qlora, recompute_changes_no_bit)
{
    check_bits("model.quantize=nf4");
    check_bits("model.quant_block=512");
    check_bits("model.quantize=int8");
    check_bits("model.quantize=fp8");
    check_bits("lora.dora=true");
    check_bits("lora={dora: true, dropout: 0.2}");
    check_bits("lora={dora: true, rslora: true, b_lr_ratio: 4, rank_pattern: {'(k|v)_proj': 6}}");
}

#define HOST "model.embedding=host", "method=qlora", "lora={rank: 4, dropout: 0.1}"
#define EVAL "data.eval.count=8", "eval.every=2", "batch={global: 4, micro: 2}"

/* The rows are the same wherever they come from; a run may go on with the embedding elsewhere. */
Test(qlora, embedding_on_the_host_changes_no_bit)
{
    const char *model = "golden/llama2-tiny";
    char *a = tmp_dir(), *b = tmp_dir();
    Training x = train(
        model, NULL, a,
        (const char *const[]){HOST, EVAL, "model.embedding=device", "train.max_steps=4", NULL});
    Training y =
        train(model, NULL, b,
              (const char *const[]){HOST, EVAL, "train.max_steps=4", "save.every=2", NULL});
    cr_expect(same_file(a, b, "adapter_model.safetensors"));
    for (int k = 0; k < training_steps(&x); k++)
        cr_expect_eq(training_value(&x, k, "loss"), training_value(&y, k, "loss"));
    /* the table alone is gone from the device */
    double less =
        training_value(&x, 3, "allocated_bytes") - training_value(&y, 3, "allocated_bytes");
    cr_expect_eq(less, 512.0 * 64 * 4, "%g bytes less", less);
    training_clear(&y);
    char *again = str_format("resume=%s/checkpoint-2", b), *c = tmp_dir();
    y = train(model, NULL, c,
              (const char *const[]){HOST, EVAL, "model.embedding=device", "train.max_steps=4",
                                    again, NULL});
    cr_expect_eq(y.result.resumed_from, 2);
    cr_expect(same_file(a, c, "adapter_model.safetensors"));
    training_clear(&x);
    training_clear(&y);
    tmp_dir_remove(a), tmp_dir_remove(b), tmp_dir_remove(c);
    free(again);
}

#define PATTERNS                                                                                   \
    "lora={rank: 4, rank_pattern: {layers.1.self_attn.q_proj: 2, (k|v)_proj: 6}, "                 \
    "alpha_pattern: {'mlp.*': 3}}"

/* Each module has the rank of the first pattern that matches it; PEFT's file tells them, and training goes on from it. */
Test(qlora, patterns_give_modules_their_rank)
{
    static const struct {
        const char *module;
        int64_t rank;
    } want[] = {{"0.self_attn.q_proj", 4},
                {"1.self_attn.q_proj", 2},
                {"0.self_attn.k_proj", 6},
                {"1.self_attn.v_proj", 6},
                {"1.mlp.up_proj", 4}};
    const char *model = "golden/llama2-tiny";
    char *a = tmp_dir(), *b = tmp_dir(), *path = str_format("%s/adapter_model.safetensors", a);
    Training t = train(model, NULL, a,
                       (const char *const[]){"method=qlora", PATTERNS, "train.max_steps=2", NULL});
    training_clear(&t);
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        char *name = str_format("base_model.model.model.layers.%s.lora_A.weight", want[i].module);
        const SafeTensor *x = safetensors_find(f, name);
        cr_assert(x, "%s", name);
        cr_expect_eq(x->shape[0], want[i].rank, "%s: %lld", name, (long long)x->shape[0]);
        free(name);
    }
    safetensors_close(f);
    LoraOpts o;
    cr_assert_eq(lora_opts_load(&o, NULL, a, &err), OK, "%s", err.line);
    cr_expect(o.n_ranks == 2 && str_eq(o.ranks[1].key, "(k|v)_proj") && o.ranks[1].value == 6);
    cr_expect(o.n_alphas == 1 && str_eq(o.alphas[0].key, "mlp.*") && o.alphas[0].value == 3);
    lora_opts_clear(&o);
    char *adapter = str_format("lora.adapter=%s", a);
    t = train(model, NULL, b,
              (const char *const[]){"method=qlora", adapter, "train.max_steps=2", NULL});
    training_clear(&t);
    tmp_dir_remove(a), tmp_dir_remove(b);
    free(path), free(adapter);
}

/* Two overrides, or one, that a run is refused for. */
static void check_refused(const char *model, const char *first, const char *second, const char *why)
{
    char *rel = str_format("tests/fixtures/%s", model), *dir = source_path(rel), *out = tmp_dir();
    char *path = str_format("model.path=%s", dir), *to = str_format("output=%s", out);
    char *rows = str_format("data.train=%s/batches.jsonl", dir);
    const char *given[] = {path, to, rows, first, second, NULL};
    Training t = training_run(config, given);
    cr_expect_eq(t.status, E_INPUT, "%s", model);
    cr_expect(t.problems.n == 1 && strstr(t.problems.lines[0], why), "%s",
              t.problems.n ? t.problems.lines[0] : t.err.line);
    training_clear(&t);
    tmp_dir_remove(out);
    free(rel), free(dir), free(path), free(to), free(rows);
}

#define HOST_PLACE "model.embedding=host"

Test(qlora, embedding_that_something_reads_stays_on_the_device)
{
    check_refused("golden/llama3-tiny", HOST_PLACE, NULL, "tie_word_embeddings");
    check_refused("golden/llama2-tiny", HOST_PLACE, "lora.save_modules=[embed_tokens]",
                  "is trained");
    check_refused("golden/llama2-tiny", HOST_PLACE, "method=full", "method full trains it");
}

Test(qlora, pattern_that_matches_nothing_is_refused)
{
    check_refused("golden/llama2-tiny", "lora.rank_pattern={qq_proj: 4}", NULL,
                  "'qq_proj' matches no");
}

/* However many decoded matrices are there, and on whatever stream they were decoded. */
Test(qlora, scratches_change_no_bit)
{
    static const char *const ways[][2] = {
        {"runtime.scratches=2", "runtime.decode_ahead=false"},
        {"runtime.scratches=2", "runtime.decode_ahead=true"},
        {"runtime.scratches=5", "runtime.decode_ahead=true"},
    };
    static const char *const levels[] = {"train.recompute=none", "train.recompute=full"};
    for (int l = 0; l < 2; l++) {
        char *a = tmp_dir();
        const char *one[] = {"method=qlora", "train.max_steps=4",   "lora.rank=4",
                             levels[l],      "runtime.scratches=1", NULL};
        Training x = train("golden/llama3-tiny", NULL, a, one);
        for (int i = 0; i < 3; i++) {
            char *b = tmp_dir();
            const char *more[] = {"method=qlora", "train.max_steps=4", "lora.rank=4", levels[l],
                                  ways[i][0],     ways[i][1],          NULL};
            Training y = train("golden/llama3-tiny", NULL, b, more);
            cr_expect(same_file(a, b, "adapter_model.safetensors"), "%s %s %s", levels[l],
                      ways[i][0], ways[i][1]);
            training_clear(&y);
            tmp_dir_remove(b);
        }
        training_clear(&x);
        tmp_dir_remove(a);
    }
}

static void open_and_report(QuantReport *r, const char *quantize)
{
    char *dir = source_path("tests/fixtures/golden/llama2-tiny"), *out = tmp_dir();
    char *text = str_format("model: {path: '%s', quantize: %s}\nmethod: qlora\n"
                            "data: {train: x, format: tokens}\noutput: '%s'\n",
                            dir, quantize, out);
    TrainConfig c;
    Problems p = {0};
    Log log = {0};
    Session s = {0};
    cr_assert_eq(config_parse(&c, text, strlen(text), "q.yaml", NULL, 0, &p), OK, "%s",
                 p.n ? p.lines[0] : "");
    cr_assert_eq(session_open_model(&s, &c, &log, &p), OK, "%s", p.n ? p.lines[0] : "");
    quant_report(r, &s.model);
    session_close(&s);
    config_clear(&c);
    tmp_dir_remove(out);
    free(text), free(dir);
}

/* Normal weights: nf4 loses about 9 % (root mean square), int8 with a scale a row below 1 %, E4M3 2 to 3 %. */
Test(qlora, report_tells_bits_and_errors)
{
    static const struct {
        const char *name;
        double bits, least, most;
    } cases[] = {{"nf4", 5.4, 0.08, 0.11},
                 {"fp4", 5.4, 0.1, 0.14},
                 {"int8", 8.4, 0.004, 0.012},
                 {"fp8", 8.4, 0.02, 0.03}};
    for (size_t i = 0; i < 4; i++) {
        QuantReport r;
        open_and_report(&r, cases[i].name);
        cr_assert_eq(r.n_classes, 7);
        cr_expect_eq(r.n_matrices, 14);
        cr_expect_str_eq(r.classes[0].name, "q_proj");
        cr_expect_str_eq(r.classes[6].name, "down_proj");
        cr_expect_eq(r.numel, 2 * (4 * 64 * 64 + 3 * 64 * 172));
        cr_expect_eq(r.plain_numel, 2 * 512 * 64 + 5 * 64);
        for (int k = 0; k < 7; k++)
            cr_expect(r.classes[k].error > cases[i].least && r.classes[k].error < cases[i].most,
                      "%s %s: %g", cases[i].name, r.classes[k].name, r.classes[k].error);
        /* tables and scales of matrices as small as these weigh more than those of real ones */
        cr_expect_float_eq(r.bits, cases[i].bits, 0.05, "%s: %g bits", cases[i].name, r.bits);
    }
}

/* ---- checkpoints of which some is plain --------------------------------------------------------- */

static Training train_mixed(const char *layout, const char *out, const char *const *more, int ranks)
{
    char *rel = str_format("tests/fixtures/quant/%s", layout), *dir = source_path(rel);
    StrBuf rows = {0};
    for (int i = 0; i < 16; i++) {
        strbuf_puts(&rows, "{\"input_ids\": [1");
        for (int k = 0; k < 4 + i; k++)
            strbuf_printf(&rows, ", %d", (i * 11 + k * k * 7) % 64);
        strbuf_puts(&rows, "]}\n");
    }
    char *given[8] = {str_format("model.path=%s", dir), str_format("data.train=%s/rows.jsonl", out),
                      str_format("output=%s/run", out), xstrdup("method=qlora")};
    int n = 4;
    for (; *more; more++)
        given[n++] = xstrdup(*more);
    Err err = {0};
    char *path = str_format("%s/rows.jsonl", out);
    cr_assert_eq(file_write_atomic(path, rows.data, rows.len, &err), OK, "%s", err.line);
    Training t = training_run_ranks(mixed_config, (const char *const *)given, ranks, NULL, NULL);
    training_print(&t);
    cr_assert_eq(t.status, OK, "%s", layout);
    while (n > 0)
        free(given[--n]);
    strbuf_clear(&rows);
    free(path), free(rel), free(dir);
    return t;
}

static const char *const mixed[] = {"bnb-nf4-skip",
                                    "bnb-int8-skip",
                                    "gptq-4bit-g32-skip",
                                    "awq-g32-skip",
                                    "gptq-4bit-g64-order-skip-v",
                                    "bnb-int8-skip-v"};

Test(qlora, ranks_share_plain_matrices_among_codes)
{
    for (size_t i = 0; i < sizeof mixed / sizeof *mixed; i++) {
        char *a = tmp_dir(), *b = tmp_dir();
        Training x = train_mixed(mixed[i], a, (const char *const[]){NULL}, 1);
        Training y = train_mixed(mixed[i], b, (const char *const[]){"parallel.zero=3", NULL}, 2);
        cr_assert_eq(training_steps(&x), 4);
        cr_assert_eq(training_steps(&y), 4);
        for (int k = 0; k < 4; k++) {
            double one = training_value(&x, k, "loss"), two = training_value(&y, k, "loss");
            cr_expect_float_eq(one, two, 2e-6 * one, "%s: step %d: %.9g on two ranks, %.9g on one",
                               mixed[i], k + 1, two, one);
        }
        training_clear(&x);
        training_clear(&y);
        tmp_dir_remove(a), tmp_dir_remove(b);
    }
}

/* Scratches are of what is decoded alone; decoding ahead passes over what is plain. */
Test(qlora, plain_matrices_among_codes_change_no_bit)
{
    static const char *const ways[] = {"runtime={scratches: 2, decode_ahead: true}",
                                       "parallel.offload=optimizer+params"};
    for (size_t i = 0; i < sizeof mixed / sizeof *mixed; i++) {
        char *a = tmp_dir();
        Training x =
            train_mixed(mixed[i], a, (const char *const[]){"runtime.scratches=1", NULL}, 1);
        for (int k = 0; k < 2; k++) {
            char *b = tmp_dir();
            Training y = train_mixed(
                mixed[i], b, (const char *const[]){ways[k], "train.recompute=full", NULL}, 1);
            cr_expect(same_file(a, b, "run/adapter_model.safetensors"), "%s: %s", mixed[i],
                      ways[k]);
            training_clear(&y);
            tmp_dir_remove(b);
        }
        training_clear(&x);
        tmp_dir_remove(a);
    }
}

Test(qlora, modules_trained_whole_are_refused)
{
    check_refused("golden/llama2-tiny", "method=qlora",
                  "lora={targets: [q_proj], save_modules: [o_proj]}",
                  "self_attn.o_proj is quantised");
}
