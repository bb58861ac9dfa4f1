/* The small trained model that lies beside the project: its greedy text, and an adapter merged and unmerged. */
#include "base/fs.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"
#include "infer/feed.h"
#include "infer/generate.h"
#include "model/hf_files.h"
#include "model/merge.h"
#include "tests/infer/model_support.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tells the hook's pieces of text one after the other. */
static void collect(void *ud, int64_t i, const char *s, size_t n)
{
    strbuf_append((StrBuf *)ud + i, s, n);
}

Test(stories, greedy_text_and_stop_strings)
{
    char *dir = shared_or_skip("data/stories260k"), *path = path_join(dir, "expected_greedy.txt");
    char *expected;
    size_t len;
    Err err = {0};
    Tokenizer *t;
    TestModel m;
    cr_assert_eq(file_read(&expected, &len, path, &err), OK, "%s", err.line);
    cr_assert_eq(tokenizer_load(&t, dir, &err), OK, "%s", err.line);
    test_model_open(&m, dir, 0);

    static const struct {
        const char *name, *stop;
        int64_t max_new;
        const char *end; /* the text ends before this part of the expected one */
        FinishReason finish;
    } cases[] = {
        {"whole", NULL, 200, NULL, FINISH_LENGTH},
        {"a stop string inside a token", "he loved", 200, "he loved", FINISH_STOP},
        {"over several tokens", "Lily. She loved to play outside", 200, "Lily. She loved",
         FINISH_STOP},
        {"that never appears, but begins often", "Lily was glad", 200, NULL, FINISH_LENGTH},
        {"with a line end", "high.\nLily's", 200, "high.\n", FINISH_STOP},
        {"at the first token", "Once", 200, "Once", FINISH_STOP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t bos = tokenizer_bos(t);
        GeneratePrompt prompt = {&bos, 1, 0, true};
        GenerateOpts o = generate_defaults();
        o.max_new_tokens = cases[i].max_new;
        o.stop = &cases[i].stop;
        o.n_stop = cases[i].stop != NULL;
        Generation g = {0};
        StrBuf shown = {0};
        GenerateHooks hooks = {.text = collect, .ud = &shown};
        cr_assert_eq(generate(&g, &m.llama, t, &prompt, 1, &o, &hooks, &err), OK, "%s", err.line);
        size_t want = cases[i].end ? (size_t)(strstr(expected, cases[i].end) - expected) : len;
        cr_expect(strlen(g.text) == want && memcmp(g.text, expected, want) == 0, "%s: %s",
                  cases[i].name, g.text);
        cr_expect_eq(g.finish, cases[i].finish, "%s", cases[i].name);
        cr_expect_str_eq(shown.data ? shown.data : "", g.text, "%s: what was shown", cases[i].name);
        strbuf_clear(&shown);
        generation_clear(&g);
    }
    test_model_close(&m);
    tokenizer_free(t);
    free(expected), free(path), free(dir);
}

/* A prompt's text goes on with its space; an answer is a text of its own. */
Test(stories, continued_and_answered)
{
    char *dir = shared_or_skip("data/stories260k");
    Err err = {0};
    Tokenizer *t;
    TestModel m;
    cr_assert_eq(tokenizer_load(&t, dir, &err), OK, "%s", err.line);
    test_model_open(&m, dir, 0);
    TokenBuf ids = {0};
    tokenbuf_push(&ids, tokenizer_bos(t), 0);
    tokenizer_encode(t, &ids, "Once upon a", 11, 0);
    GeneratePrompt prompts[] = {{ids.ids, ids.n, 0, true}, {ids.ids, ids.n, 1, false}};
    GenerateOpts o = generate_defaults();
    o.max_new_tokens = 3;
    Generation g[2] = {0};
    cr_assert_eq(generate(g, &m.llama, t, prompts, 2, &o, NULL, &err), OK, "%s", err.line);
    cr_expect_str_eq(g[0].text, " time, there");
    cr_expect_str_eq(g[1].text, "time, there");
    generation_clear(&g[0]);
    generation_clear(&g[1]);
    tokenbuf_clear(&ids);
    test_model_close(&m);
    tokenizer_free(t);
    free(dir);
}

enum { N_TOKENS = 100 };

static float *logits(TestModel *m)
{
    int32_t ids[N_TOKENS], positions[N_TOKENS], cu[2] = {0, N_TOKENS};
    for (int32_t i = 0; i < N_TOKENS; i++) {
        ids[i] = i * 37 % 512;
        positions[i] = i;
    }
    float *x = xmalloc((size_t)(N_TOKENS * m->llama.cfg.vocab_size) * sizeof *x);
    Feed feed;
    feed_init(&feed, &m->dev);
    feed_begin(&feed, N_TOKENS, ids, positions, 1, cu, N_TOKENS, NULL);
    Tensor *h = llama_forward(&feed.ctx, &m->llama, &feed.batch);
    tensor_read_f32(&m->dev, llama_logits(&feed.ctx, &m->llama, h), x);
    feed_end(&feed);
    feed_clear(&feed);
    return x;
}

static double farthest(const float *a, const float *b, int64_t n)
{
    double d = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        d = fmax(d, fabs((double)a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
    }
    return d / size;
}

Test(stories, adapter_merged_and_unmerged)
{
    char *dir = shared_or_skip("data/stories260k"), *tmp = tmp_dir();
    char *merged_dir = path_join(tmp, "merged"), *adapter_dir = path_join(tmp, "adapter");
    Err err = {0};
    TestModel base, merged;
    test_model_open(&base, dir, 0);
    int64_t n = N_TOKENS * base.llama.cfg.vocab_size;
    float *plain = logits(&base);

    char *targets[] = {"all-linear"};
    LoraOpts opts = {.rank = 6, .alpha = 11, .targets = targets, .n_targets = 1, .rslora = true};
    LoraSet lora;
    cr_assert_eq(lora_attach(&lora, &base.llama, &opts, &err), OK, "%s", err.line);
    llama_alloc(&base.llama);
    lora_init_weights(&lora, &base.dev, 3);
    for (int i = 0; i < lora.n; i++) { /* B begins as zero: give it something to add */
        Tensor *b = &lora.items[i]->b.t;
        float *x = xmalloc((size_t)tensor_numel(b) * sizeof *x);
        for (int64_t k = 0; k < tensor_numel(b); k++)
            x[k] = 0.05f * (float)rng_normal((uint64_t)i + 1, (uint64_t)k);
        tensor_write_f32(&base.dev, b, x);
        free(x);
    }
    float *unmerged = logits(&base);
    cr_expect_gt(farthest(unmerged, plain, n), 0.01, "the adapter changes something");

    cr_assert_eq(dir_make(adapter_dir, &err), OK);
    cr_assert_eq(lora_save(&lora, &base.llama, adapter_dir, dir, DT_F32, &err), OK, "%s", err.line);
    MergeReport report = {0};
    cr_assert_eq(merge_adapter(dir, adapter_dir, merged_dir, NULL, NULL, NULL, &report, &err), OK,
                 "%s", err.line);
    cr_expect_eq(report.n_merged, lora.n);
    merge_report_clear(&report);
    test_model_open(&merged, merged_dir, 0);
    float *folded = logits(&merged);
    double d = farthest(folded, unmerged, n);
    cr_expect_lt(d, 1e-5, "merged and unmerged differ by %g of the largest logit", d);

    free(plain), free(unmerged), free(folded);
    test_model_close(&merged);
    lora_detach(&lora, &base.llama);
    test_model_close(&base);
    free(merged_dir), free(adapter_dir), free(dir);
    tmp_dir_remove(tmp);
}
