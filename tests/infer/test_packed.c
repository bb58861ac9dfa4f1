/* A document's loss does not depend on what shares its row or its pass: packed, padded and alone give the same. */
#include "base/str.h"
#include "infer/perplexity.h"
#include "tests/infer/model_support.h"
#include "tests/support/shared.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static Dataset *open_documents(const char *dir, const DataOpts *opts)
{
    char *path = str_format("%s/packed.jsonl", dir);
    DataSource src = {.path = path, .format = DATA_TOKENS, .weight = 1};
    Problems problems = {0};
    Dataset *d;
    Status s = dataset_open_sources(&d, &src, 1, opts, NULL, NULL, NULL, &problems);
    cr_assert_eq(s, OK, "%s", problems.n ? problems.lines[0] : "?");
    free(path);
    return d;
}

static Perplexity losses(TestModel *m, const char *dir, Packing packing, int64_t per_pass)
{
    DataOpts data = {.packing = packing, .max_length = 96};
    Dataset *d = open_documents(dir, &data);
    PerplexityOpts opts = {.tokens_per_pass = per_pass};
    Perplexity p;
    Err err = {0};
    cr_assert_eq(perplexity_of(&p, &m->llama, d, &data, &opts, &err), OK, "%s", err.line);
    cr_assert_gt(p.n_docs, 50);
    dataset_free(d);
    return p;
}

/* The mean loss of each document, in nats.  bf16: other tiles round otherwise; a leak between documents is off by
 * tenths. */
static void expect_equal(const char *what, const Perplexity *got, const Perplexity *want)
{
    double worst = 0, allowed = test_precision() == DT_F32 ? 2e-5 : 0.03;
    cr_assert_eq(got->n_docs, want->n_docs);
    for (int64_t i = 0; i < want->n_docs; i++) {
        cr_assert_eq(got->doc_trained[i], want->doc_trained[i], "%s: document %lld", what,
                     (long long)i);
        if (want->doc_trained[i] == 0) continue;
        double n = (double)want->doc_trained[i];
        double off = fabs(got->doc_loss[i] - want->doc_loss[i]) / n;
        if (!(off <= worst)) worst = off;
    }
    cr_expect(worst <= allowed, "%s: a document's loss is off by %g", what, worst);
}

Test(packed, a_document_has_the_same_loss_in_any_company)
{
    static const char *const models[] = {"llama3-d64", "llama3-d128", "qwen3-d64"};
    for (int i = 0; i < 3; i++) {
        char *rel = str_format("tests/fixtures/models/%s", models[i]), *dir = source_path(rel);
        TestModel m;
        test_model_open(&m, dir, 0);
        Perplexity alone = losses(&m, dir, PACK_OFF, 1);
        Perplexity padded = losses(&m, dir, PACK_OFF, 0);
        Perplexity packed = losses(&m, dir, PACK_BEST_FIT, 1);
        Perplexity packs = losses(&m, dir, PACK_BEST_FIT, 0);
        expect_equal("several rows a pass", &padded, &alone);
        expect_equal("packed, a row a pass", &packed, &alone);
        expect_equal("packed, several rows a pass", &packs, &alone);
        if (test_precision() == DT_BF16) test_device_expect_flash(&m.dev);
        perplexity_clear(&alone), perplexity_clear(&padded);
        perplexity_clear(&packed), perplexity_clear(&packs);
        test_model_close(&m);
        free(rel), free(dir);
    }
}
