/* Generation against transformers' greedy tokens (tests/fixtures/golden), and its own promises: the cache changes
 * nothing, the batch changes nothing, every way to end is told. */
#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "infer/generate.h"
#include "tests/infer/model_support.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const models[] = {"llama2-tiny", "llama3-tiny", "qwen2-tiny"};
enum { N_MODELS = 3, MAX_PROMPTS = 16 };

/* Prompts and the tokens that should follow; owns the arrays. */
typedef struct Golden {
    TestModel model;
    GeneratePrompt prompts[MAX_PROMPTS];
    int32_t *outputs[MAX_PROMPTS];
    int64_t n_outputs[MAX_PROMPTS], n;
} Golden;

static int32_t *ints(const Json *a, int64_t *n)
{
    *n = (int64_t)json_size(a);
    int32_t *x = xmalloc((size_t)*n * sizeof *x);
    int64_t v = -1;
    for (int64_t i = 0; i < *n; i++) {
        cr_assert(json_int(json_at(a, (size_t)i), &v));
        x[i] = (int32_t)v;
    }
    return x;
}

static void golden_open(Golden *g, const char *name)
{
    *g = (Golden){0};
    char *rel = str_format("tests/fixtures/golden/%s", name), *dir = source_path(rel);
    char *path = path_join(dir, "generate.json");
    test_model_open(&g->model, dir, 0);
    Err err = {0};
    Json *root = NULL;
    cr_assert_eq(json_parse_file(&root, path, &err), OK, "%s", err.line);
    g->n = (int64_t)json_size(root);
    cr_assert(g->n > 0 && g->n <= MAX_PROMPTS);
    for (int64_t i = 0; i < g->n; i++) {
        const Json *j = json_at(root, (size_t)i);
        g->prompts[i].ids = ints(json_get(j, "prompt"), &g->prompts[i].n);
        g->prompts[i].key = (uint64_t)i;
        g->outputs[i] = ints(json_get(j, "output"), &g->n_outputs[i]);
    }
    json_free(root);
    free(path), free(dir), free(rel);
}

static void golden_close(Golden *g)
{
    for (int64_t i = 0; i < g->n; i++) {
        free((int32_t *)(uintptr_t)g->prompts[i].ids);
        free(g->outputs[i]);
    }
    test_model_close(&g->model);
}

static void clear_all(Generation *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        generation_clear(&out[i]);
}

static bool same(const Generation *a, const int32_t *ids, int64_t n)
{
    return a->n == n && memcmp(a->ids, ids, (size_t)n * sizeof *ids) == 0;
}

Test(generate, greedy_tokens_equal_transformers)
{
    static const struct {
        const char *name;
        int64_t batch, per_pass;
        bool no_cache;
    } cases[] = {
        {"one by one", 1, 0, false},       {"two at once", 2, 0, false},
        {"all at once", 8, 0, false},      {"prompts in pieces", 8, 4, false},
        {"one token a pass", 2, 1, false}, {"without a cache", 8, 0, true},
    };
    for (int m = 0; m < N_MODELS; m++) {
        Golden g;
        golden_open(&g, models[m]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            GenerateOpts o = generate_defaults();
            o.max_new_tokens = g.n_outputs[0];
            o.batch = cases[c].batch;
            o.tokens_per_pass = cases[c].per_pass;
            o.no_cache = cases[c].no_cache;
            Generation out[MAX_PROMPTS] = {0};
            Err err = {0};
            cr_assert_eq(generate(out, &g.model.llama, NULL, g.prompts, g.n, &o, NULL, &err), OK,
                         "%s", err.line);
            for (int64_t i = 0; i < g.n; i++) {
                cr_expect(same(&out[i], g.outputs[i], g.n_outputs[i]), "%s, %s, prompt %d",
                          models[m], cases[c].name, (int)i);
                cr_expect_eq(out[i].finish, FINISH_LENGTH);
            }
            clear_all(out, g.n);
        }
        golden_close(&g);
    }
}

/* One small model per architecture and head width: here the slow way is the reference. */
Test(generate, the_cache_changes_nothing)
{
    char **names, *root = source_path("tests/fixtures/models");
    int n_names, seen = 0;
    Err err = {0};
    cr_assert_eq(dir_list(&names, &n_names, root, &err), OK, "%s", err.line);
    for (int k = 0; k < n_names; k++) {
        char *dir = path_join(root, names[k]);
        if (!path_is_dir(dir)) {
            free(dir);
            continue;
        }
        seen++;
        TestModel m;
        test_model_open(&m, dir, 0);
        int32_t vocab = (int32_t)m.llama.cfg.vocab_size, ids[3][20];
        GeneratePrompt prompts[3];
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 20; j++)
                ids[i][j] = (i * 97 + j * j * 13 + 5) % vocab;
            prompts[i] = (GeneratePrompt){ids[i], 2 + 9 * i, (uint64_t)i, false};
        }
        GenerateOpts o = generate_defaults();
        o.max_new_tokens = 16;
        Generation cached[3] = {0}, plain[3] = {0};
        cr_assert_eq(generate(cached, &m.llama, NULL, prompts, 3, &o, NULL, &err), OK, "%s: %s",
                     names[k], err.line);
        o.no_cache = true;
        cr_assert_eq(generate(plain, &m.llama, NULL, prompts, 3, &o, NULL, &err), OK);
        for (int i = 0; i < 3; i++)
            cr_expect(same(&cached[i], plain[i].ids, plain[i].n), "%s, prompt %d", names[k], i);
        clear_all(cached, 3);
        clear_all(plain, 3);
        test_model_close(&m);
        free(dir);
    }
    cr_expect_geq(seen, 5);
    dir_list_free(names, n_names);
    free(root);
}

/* A pass that the device has recorded gives what its kernels give one by one: over the bound at which it is recorded anew,
 * and as sequences leave.  Greedy and drawn. */
Test(generate, recorded_passes_change_nothing)
{
    Golden g;
    golden_open(&g, "llama3-tiny");
    int64_t context = generate_context(&g.model.llama);
    for (int drawn = 0; drawn < 2; drawn++) {
        GenerateOpts o = generate_defaults();
        o.max_new_tokens = context;
        o.batch = 3;
        if (drawn) o.sampler.temperature = 0.8;
        Generation recorded[MAX_PROMPTS] = {0}, plain[MAX_PROMPTS] = {0};
        Err err = {0};
        cr_assert_eq(generate(recorded, &g.model.llama, NULL, g.prompts, g.n, &o, NULL, &err), OK);
        o.no_graph = true;
        cr_assert_eq(generate(plain, &g.model.llama, NULL, g.prompts, g.n, &o, NULL, &err), OK);
        for (int64_t i = 0; i < g.n; i++)
            cr_expect(same(&recorded[i], plain[i].ids, plain[i].n), "drawn %d, prompt %d", drawn,
                      (int)i);
        clear_all(recorded, g.n);
        clear_all(plain, g.n);
    }
    golden_close(&g);
}

enum { N = 9 };

/* Prompts of 1 to N tokens, which are in ids. */
static void prompts_of_all_lengths(GeneratePrompt prompts[N], int32_t ids[N][N])
{
    for (int i = 0; i < N; i++) {
        for (int k = 0; k <= i; k++)
            ids[i][k] = (i * 31 + k * 7) % 600;
        prompts[i] = (GeneratePrompt){ids[i], i + 1, (uint64_t)i, false};
    }
}

/* Sequences that end at different tokens, by an end in one round, while passes of the others have begun. */
Test(generate, passes_ahead_change_nothing)
{
    Golden g;
    golden_open(&g, "llama3-tiny");
    int32_t ids[N][N];
    GeneratePrompt prompts[N];
    prompts_of_all_lengths(prompts, ids);
    GenerateOpts o = generate_defaults();
    for (int round = 0; round < 2; round++) {
        Generation want[N] = {0};
        Err err = {0};
        int early = 0;
        o.max_new_tokens = round == 0 ? 14 : generate_context(&g.model.llama);
        o.batch = 1;
        o.always_ahead = false;
        for (int i = 0; i < N; i++) {
            cr_assert_eq(generate(&want[i], &g.model.llama, NULL, &prompts[i], 1, &o, NULL, &err),
                         OK);
            early += want[i].finish == FINISH_EOS;
        }
        cr_expect(round == 0 || (early >= 2 && early < N), "%d of %d end early", early, N);
        o.always_ahead = true;
        for (o.batch = 1; o.batch <= N; o.batch += 2) {
            Generation got[N] = {0};
            o.tokens_per_pass = o.batch == 3 ? 4 : 0;
            cr_assert_eq(generate(got, &g.model.llama, NULL, prompts, N, &o, NULL, &err), OK);
            for (int i = 0; i < N; i++)
                cr_expect(same(&got[i], want[i].ids, want[i].n) && got[i].finish == want[i].finish,
                          "round %d, batch %d, prompt %d", round, (int)o.batch, i);
            clear_all(got, N);
        }
        o.tokens_per_pass = 0;
        if (round == 0) { /* all have 14 tokens */
            generate_add_eos(&o, want[1].ids[2]);
            generate_add_eos(&o, want[4].ids[7]);
        }
        clear_all(want, N);
    }
    golden_close(&g);
}

/* Draws belong to (seed, prompt, position): neither the neighbours nor the order of work matter. */
Test(generate, what_a_prompt_says_does_not_depend_on_its_batch)
{
    Golden g;
    golden_open(&g, "llama3-tiny");
    int32_t ids[N][N];
    GeneratePrompt prompts[N];
    prompts_of_all_lengths(prompts, ids);
    GenerateOpts o = generate_defaults();
    o.sampler.temperature = 1;
    o.sampler.top_p = 0.95;
    o.sampler.repetition_penalty = 1.2;
    o.max_new_tokens = 12;
    Generation alone[N] = {0};
    Err err = {0};
    int early = 0, differ = 0;
    /* Two rounds: some of what is said in the first ends a sequence in the second, so that some leave early. */
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            generation_clear(&alone[i]);
            cr_assert_eq(generate(&alone[i], &g.model.llama, NULL, &prompts[i], 1, &o, NULL, &err),
                         OK);
            early += alone[i].finish == FINISH_EOS;
        }
        generate_add_eos(&o, alone[1].ids[2]);
        generate_add_eos(&o, alone[4].ids[5]);
        if (round == 1) o.n_eos = 2;
    }
    cr_assert(early >= 2 && early < N, "%d of %d end early", early, N);
    for (int64_t batch = 2; batch <= N; batch += 2) {
        Generation out[N] = {0};
        o.batch = batch;
        o.tokens_per_pass = batch == 4 ? 3 : 0;
        cr_assert_eq(generate(out, &g.model.llama, NULL, prompts, N, &o, NULL, &err), OK);
        for (int i = 0; i < N; i++)
            cr_expect(same(&out[i], alone[i].ids, alone[i].n), "batch %d, prompt %d", (int)batch,
                      i);
        clear_all(out, N);
    }
    o.sampler.seed = 1;
    Generation other[N] = {0};
    cr_assert_eq(generate(other, &g.model.llama, NULL, prompts, N, &o, NULL, &err), OK);
    for (int i = 0; i < N; i++)
        differ += !same(&other[i], alone[i].ids, alone[i].n);
    cr_expect_geq(differ, N - 1, "another seed says other things");
    clear_all(alone, N);
    clear_all(other, N);
    golden_close(&g);
}

Test(generate, ends)
{
    Golden g;
    golden_open(&g, "llama2-tiny");
    GenerateOpts o = generate_defaults();
    Generation out[MAX_PROMPTS] = {0};
    Err err = {0};
    o.max_new_tokens = 32;

    /* An end token is the last; the others go on as if nothing had happened. */
    generate_add_eos(&o, g.outputs[0][3]);
    cr_assert_eq(generate(out, &g.model.llama, NULL, g.prompts, g.n, &o, NULL, &err), OK);
    cr_expect(same(&out[0], g.outputs[0], 4));
    cr_expect_eq(out[0].finish, FINISH_EOS);
    for (int64_t i = 1; i < g.n; i++)
        cr_expect_eq(memcmp(out[i].ids, g.outputs[i], (size_t)out[i].n * sizeof(int32_t)), 0);
    clear_all(out, g.n);
    golden_close(&g);

    /* A table of few positions: sequences end there and say so. */
    TestModel small;
    char *dir = source_path("tests/fixtures/golden/llama2-tiny");
    test_model_open(&small, dir, 12);
    free(dir);
    cr_expect_eq(generate_context(&small.llama), 12);
    int32_t ids[20] = {0};
    GeneratePrompt prompts[] = {{ids, 11, 0, false}, {ids, 5, 1, false}};
    o = generate_defaults();
    cr_assert_eq(generate(out, &small.llama, NULL, prompts, 2, &o, NULL, &err), OK);
    cr_expect_eq(out[0].n, 1);
    cr_expect_eq(out[1].n, 7);
    cr_expect_eq(out[0].finish, FINISH_CONTEXT);
    cr_expect_eq(out[1].finish, FINISH_CONTEXT);
    clear_all(out, 2);

    prompts[1].n = 12;
    cr_expect_eq(generate(out, &small.llama, NULL, prompts, 2, &o, NULL, &err), E_INPUT);
    cr_expect_str_eq(err.line, "prompt 2: 12 tokens leave no room for an answer in the model's 12");
    prompts[1].n = 0;
    cr_expect_eq(generate(out, &small.llama, NULL, prompts, 2, &o, NULL, &err), E_INPUT);
    prompts[1].n = 5, ids[4] = 512;
    cr_expect_eq(generate(out, &small.llama, NULL, prompts, 2, &o, NULL, &err), E_INPUT);
    cr_expect(str_starts(err.line, "prompt 1: token 512 is outside"), "%s", err.line);
    test_model_close(&small);
}

Test(generate, logits_that_are_no_numbers)
{
    Golden g;
    golden_open(&g, "llama2-tiny");
    Tensor *w = &g.model.llama.norm.t;
    float *bad = xmalloc((size_t)tensor_numel(w) * sizeof *bad);
    for (int64_t i = 0; i < tensor_numel(w); i++)
        bad[i] = NAN;
    tensor_write_f32(&g.model.dev, w, bad);
    free(bad);
    GenerateOpts o = generate_defaults();
    Generation out[MAX_PROMPTS] = {0};
    Err err = {0};
    cr_expect_eq(generate(out, &g.model.llama, NULL, g.prompts, g.n, &o, NULL, &err), E_FAILED);
    cr_expect(str_starts(err.line, "prompt 1, token 1: the logits are not finite"), "%s", err.line);
    clear_all(out, g.n);
    golden_close(&g);
}
