/* Loss over a data set against the reference runs: the first micro-batch of each golden model, before any update. */
#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "infer/perplexity.h"
#include "tests/infer/model_support.h"
#include "tests/support/ranks.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double reference_loss(const char *dir, int64_t *tokens)
{
    char *path = path_join(dir, "sft.json");
    Err err = {0};
    Json *root;
    double loss = NAN;
    cr_assert_eq(json_parse_file(&root, path, &err), OK, "%s", err.line);
    const Json *first = json_at(json_get(root, "log"), 0);
    cr_assert(json_number(json_get(first, "loss"), &loss));
    cr_assert(json_int(json_get(first, "tokens"), tokens));
    json_free(root);
    free(path);
    return loss;
}

static Dataset *open_rows(const char *dir, int64_t limit, const DataOpts *opts)
{
    char *path = path_join(dir, "batches.jsonl");
    DataSource src = {.path = path, .format = DATA_TOKENS, .weight = 1, .limit = limit};
    Problems problems = {0};
    Dataset *d;
    Status s = dataset_open_sources(&d, &src, 1, opts, NULL, NULL, NULL, &problems);
    cr_assert_eq(s, OK, "%s", problems.n ? problems.lines[0] : "?");
    free(path);
    return d;
}

Test(perplexity, equals_the_reference_loss)
{
    static const char *const models[] = {"llama2-tiny", "llama3-tiny", "qwen2-tiny"};
    static const struct {
        const char *name;
        Packing packing;
        int64_t max_length, per_pass;
    } cases[] = {
        {"packed", PACK_BEST_FIT, 96, 0},
        {"a document a row", PACK_BEST_FIT, 48, 0},
        {"a row a pass", PACK_BEST_FIT, 48, 1},
        {"not packed", PACK_OFF, 64, 0},
    };
    for (int m = 0; m < 3; m++) {
        char *rel = str_format("tests/fixtures/golden/%s", models[m]), *dir = source_path(rel);
        TestModel model;
        test_model_open(&model, dir, 0);
        int64_t n_tokens;
        double want = reference_loss(dir, &n_tokens);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            DataOpts data = {.packing = cases[c].packing, .max_length = cases[c].max_length};
            Dataset *d = open_rows(dir, 2, &data);
            PerplexityOpts opts = {.tokens_per_pass = cases[c].per_pass};
            Perplexity p;
            Err err = {0};
            cr_assert_eq(perplexity_of(&p, &model.llama, d, &data, &opts, &err), OK, "%s",
                         err.line);
            cr_expect_lt(fabs(p.loss - want), 2e-5, "%s, %s: %.7f instead of %.7f", models[m],
                         cases[c].name, p.loss, want);
            cr_expect_lt(fabs(log(p.perplexity) - want), 2e-5);
            cr_expect_eq(p.n_trained, n_tokens, "%s, %s", models[m], cases[c].name);
            cr_expect_eq(p.n_tokens, 96);
            cr_expect_eq(p.n_docs, 2);
            double sum = 0;
            int64_t trained = 0;
            for (int64_t i = 0; i < dataset_size(d); i++) {
                sum += p.doc_loss[i];
                trained += p.doc_trained[i];
            }
            cr_expect_eq(trained, n_tokens);
            cr_expect_lt(fabs(sum / (double)trained - p.loss), 1e-12);
            perplexity_clear(&p);
            dataset_free(d);
        }
        test_model_close(&model);
        free(dir), free(rel);
    }
}

typedef struct Shared {
    const char *dir;
    const Dataset *rows;
    const DataOpts *data;
    Perplexity results[4];
    int turns[4]; /* passes that a rank made */
} Shared;

static bool count_turns(void *ud, int64_t done, int64_t total)
{
    (void)done, (void)total;
    ++*(int *)ud;
    return true;
}

static void evaluate_on_rank(Comm *c, void *ud)
{
    Shared *s = ud;
    TestModel model;
    test_model_open(&model, s->dir, 0);
    PerplexityOpts opts = {.tokens_per_pass = 1,
                           .progress = count_turns,
                           .ud = &s->turns[c->rank],
                           .ranks = c->size > 1 ? c : NULL};
    Err err = {0};
    cr_assert_eq(perplexity_of(&s->results[c->rank], &model.llama, s->rows, s->data, &opts, &err),
                 OK, "%s", err.line);
    test_model_close(&model);
}

/* Ranks take rows in turns: each makes its share of the passes, and all have one rank's result to the bit. */
Test(perplexity, ranks_share_the_rows)
{
    char *dir = source_path("tests/fixtures/golden/llama3-tiny");
    DataOpts data = {.packing = PACK_OFF, .max_length = 64};
    Dataset *d = open_rows(dir, 8, &data);
    int n_docs = (int)dataset_size(d);
    cr_assert_eq(n_docs, 8);
    Shared one = {.dir = dir, .rows = d, .data = &data};
    ranks_run(1, evaluate_on_rank, &one);
    cr_assert_eq(one.turns[0], n_docs);
    for (int n = 2; n <= 4; n++) {
        Shared s = {.dir = dir, .rows = d, .data = &data};
        ranks_run(n, evaluate_on_rank, &s);
        for (int r = 0; r < n; r++) {
            const Perplexity *p = &s.results[r], *want = &one.results[0];
            cr_expect_eq(s.turns[r], (n_docs + n - 1) / n, "rank %d of %d: %d passes", r, n,
                         s.turns[r]);
            cr_expect(p->loss == want->loss && p->n_trained == want->n_trained &&
                          p->n_tokens == want->n_tokens && p->n_docs == want->n_docs,
                      "rank %d of %d: loss %.17g, not %.17g", r, n, p->loss, want->loss);
            cr_expect_eq(memcmp(p->doc_loss, want->doc_loss, (size_t)n_docs * sizeof(double)), 0);
            perplexity_clear(&s.results[r]);
        }
    }
    perplexity_clear(&one.results[0]);
    dataset_free(d);
    free(dir);
}

/* A row's loss is its own, wherever it is packed. */
Test(perplexity, losses_of_documents)
{
    char *dir = source_path("tests/fixtures/golden/llama3-tiny");
    TestModel model;
    test_model_open(&model, dir, 0);
    DataOpts data = {.packing = PACK_BEST_FIT, .max_length = 200};
    PerplexityOpts opts = {0};
    Err err = {0};
    Dataset *all = open_rows(dir, 12, &data);
    Perplexity p, first;
    cr_assert_eq(perplexity_of(&p, &model.llama, all, &data, &opts, &err), OK);
    Dataset *one = open_rows(dir, 1, &data);
    cr_assert_eq(perplexity_of(&first, &model.llama, one, &data, &opts, &err), OK);
    cr_expect_lt(fabs(first.doc_loss[0] / p.doc_loss[0] - 1), 1e-6);
    cr_expect_eq(first.doc_trained[0], p.doc_trained[0]);
    perplexity_clear(&p);
    perplexity_clear(&first);

    float nan = NAN;
    Tensor row =
        tensor_slice_rows(&model.llama.embed.t, 1, 1); /* BOS, which every row begins with */
    Tensor element = tensor_slice_cols(&row, 0, 1);
    tensor_write_f32(&model.dev, &element, &nan);
    cr_expect_eq(perplexity_of(&p, &model.llama, all, &data, &opts, &err), E_FAILED);
    cr_expect(strstr(err.line, "batches.jsonl:1: the loss is not finite"), "%s", err.line);
    dataset_free(all);
    dataset_free(one);
    test_model_close(&model);
    free(dir);
}
