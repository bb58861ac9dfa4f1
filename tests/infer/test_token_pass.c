/* Tokens one by one, as decoding reads them, have the logits that the whole text gives at once: over sequences of different
 * lengths, recorded or not, in the precision of the tests' device. */
#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "infer/feed.h"
#include "infer/token_pass.h"
#include "tests/infer/model_support.h"
#include "tests/support/shared.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEQS = 3, TOKENS = 40 };

/* (TOKENS, V) of one sequence at once. */
static float *whole(TestModel *m, const int32_t *ids)
{
    int32_t at[TOKENS], cu[2] = {0, TOKENS};
    float *x = xmalloc((size_t)(TOKENS * m->llama.cfg.vocab_size) * sizeof *x);
    for (int32_t i = 0; i < TOKENS; i++)
        at[i] = i;
    Feed f;
    feed_init(&f, &m->dev);
    feed_begin(&f, TOKENS, ids, at, 1, cu, TOKENS, NULL);
    tensor_read(&m->dev,
                llama_logits(&f.ctx, &m->llama, llama_forward(&f.ctx, &m->llama, &f.batch)), x);
    feed_end(&f);
    feed_clear(&f);
    return x;
}

/* Relative to the largest logit. */
static double farthest(const float *a, const float *b, int64_t n)
{
    double d = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
        size = fmax(size, fabs((double)b[i]));
    }
    return d / size;
}

static void check(TestModel *m, const char *name, const QuantOpts *quant)
{
    int64_t V = m->llama.cfg.vocab_size;
    int32_t ids[SEQS][TOKENS], now[SEQS];
    float *want[SEQS], *got = xmalloc((size_t)(SEQS * V) * sizeof *got);
    for (int s = 0; s < SEQS; s++) {
        for (int i = 0; i < TOKENS; i++)
            ids[s][i] = (int32_t)((s * 97 + i * i * 13 + 5) % V);
        want[s] = whole(m, ids[s]);
    }
    bool bf16 = test_precision() == DT_BF16;
    /* decoded to bf16 on the one way, multiplied from the codes on the other */
    double allowed = bf16 ? 0.04 : quant->type != QUANT_NONE ? 2e-4 : 1e-4;
    for (int no_graph = 0; no_graph < 2; no_graph++) {
        KvCache kv;
        TokenPass p;
        kv_cache_init(&kv, &m->llama, SEQS, TOKENS);
        token_pass_init(&p, &m->llama, &kv, &(TokenPassOpts){.greedy = true, .no_graph = no_graph});
        /* the third leaves halfway */
        for (int i = 0; i < TOKENS; i++) {
            if (i == TOKENS / 2) kv_cache_compact(&kv, (const int32_t[]){0, 1}, 2);
            int n = (int)kv.n_live;
            for (int s = 0; s < n; s++)
                now[s] = ids[s][i];
            token_pass_run(&p, now);
            tensor_read(&m->dev, token_pass_logits(&p), got);
            token_pass_read_best(&p, now, 0);
            for (int s = 0; s < n; s++) {
                const float *row = got + s * V;
                double off = farthest(row, want[s] + i * V, V);
                cr_expect(off <= allowed, "%s, token %d of sequence %d: off by %g", name, i, s,
                          off);
                for (int64_t k = 0; k < V; k++)
                    cr_expect(row[k] <= row[now[s]], "%s: %d is not the best", name, now[s]);
            }
        }
        bool records = m->dev.backend->replay && !no_graph;
        cr_expect_eq(p.n_recorded, records ? 2 : 0, "%s: %d recorded", name, (int)p.n_recorded);
        cr_expect_eq(p.n_replayed, records ? TOKENS - 2 : 0, "%s: %d replayed", name,
                     (int)p.n_replayed);
        token_pass_clear(&p);
        kv_cache_clear(&kv);
    }
    for (int s = 0; s < SEQS; s++)
        free(want[s]);
    free(got);
}

static void check_all(const QuantOpts *quant)
{
    static const char *const models[] = {"models/llama3-d64",  "models/qwen3-d64",
                                         "models/qwen2-d128",  "models/mistral-d128",
                                         "golden/llama2-tiny", "golden/qwen2-tiny"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char *rel = str_format("tests/fixtures/%s", models[i]), *dir = source_path(rel);
        TestModel m;
        test_model_open_as(&m, dir, 0, quant);
        check(&m, models[i], quant);
        test_model_close(&m);
        free(rel), free(dir);
    }
}

Test(token_pass, logits_are_those_of_the_whole)
{
    check_all(&(QuantOpts){.type = QUANT_NONE});
}

Test(token_pass, quantised_logits_are_those_of_the_whole)
{
    check_all(&(QuantOpts){.type = QUANT_NF4, .nested = true});
    check_all(&(QuantOpts){.type = QUANT_INT8});
}

/* TOKENS ids of each sequence: the best of the pass before, but `forced` at tokens where nobody could know it.  Passes begin up
 * to `ahead` before the host has read what was best, and those that must not are given up. */
static void write_on(TestModel *m, int32_t (*ids)[SEQS], int ahead)
{
    enum { FORCED = 7 };
    KvCache kv;
    TokenPass p;
    int32_t best[SEQS];
    kv_cache_init(&kv, &m->llama, SEQS, TOKENS);
    token_pass_init(&p, &m->llama, &kv, &(TokenPassOpts){.greedy = true});
    for (int i = 0; i < TOKENS; i++) {
        const bool forced = i % FORCED == 0;
        if (i == TOKENS / 2 || forced) token_pass_cancel(&p);
        if (i == TOKENS / 2) kv_cache_compact(&kv, (const int32_t[]){0, 2}, 2);
        if (i == TOKENS / 2) best[1] = best[2];
        for (int s = 0; s < kv.n_live; s++)
            ids[i][s] = forced ? (int32_t)((i + 11 * s) % m->llama.cfg.vocab_size) : best[s];
        token_pass_run(&p, ids[i]);
        const int left = TOKENS - 1 - i, most = ahead < left ? ahead : left;
        token_pass_read_best(&p, best, most);
        cr_expect_eq(token_pass_ahead(&p), most, "token %d: %d have begun", i,
                     (int)token_pass_ahead(&p));
        cr_expect_eq(kv.past_host[0], i + 1 + most, "%d in the cache", kv.past_host[0]);
    }
    token_pass_clear(&p);
    kv_cache_clear(&kv);
}

Test(token_pass, begun_ahead_is_the_same)
{
    char *dir = source_path("tests/fixtures/models/llama3-d64");
    TestModel m;
    test_model_open_as(&m, dir, 0, &(QuantOpts){.type = QUANT_NF4, .nested = true});
    int32_t want[TOKENS][SEQS] = {{0}};
    write_on(&m, want, 0);
    for (int ahead = 1; ahead <= TOKEN_PASSES_AHEAD; ahead++) {
        int32_t got[TOKENS][SEQS] = {{0}};
        write_on(&m, got, ahead);
        cr_expect_eq(memcmp(got, want, sizeof got), 0, "%d ahead: other tokens", ahead);
    }
    test_model_close(&m);
    free(dir);
}
