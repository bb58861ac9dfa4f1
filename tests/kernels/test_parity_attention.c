/* Attention on a GPU in bf16 against the CPU's in f32 (test_parity_bf16.c): dense, packed, to a cache, the library's and our
 * own.  Skips aloud without a GPU. */
#include "base/hash.h"
#include "base/str.h"
#include "kernels/kernels.h"
#include "tests/support/parity.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The bits of a tensor on the GPU. */
static uint64_t bits_of(Pairs *b, const Tensor *t)
{
    void *host = xmalloc(tensor_bytes(t));
    tensor_read(&b->gpu, t, host);
    uint64_t h = hash64(host, (size_t)tensor_numel(t) * dtype_bytes(t->dtype), 0);
    free(host);
    return h;
}

static void attention(Pairs *b, const int32_t *lens, int n_docs, int h, int kv, int d, int64_t pad)
{
    char what[120];
    int32_t cu[65] = {0};
    int64_t max_len = 0;
    for (int i = 0; i < n_docs; i++) {
        cu[i + 1] = cu[i] + lens[i];
        if (lens[i] > max_len) max_len = lens[i];
    }
    int64_t n = cu[n_docs];
    snprintf(what, sizeof what, "attention %d docs, %lld tokens, %d/%d x %d, pad %lld", n_docs,
             (long long)n, h, kv, d, (long long)pad);
    Pair *cup = pair_ints(b, cu, n_docs + 1);
    Docs on_cpu = {&cup->cpu, cu, n_docs, max_len}, on_gpu = {&cup->gpu, cu, n_docs, max_len};
    Pair *q = pair_matrix(b, n, h * d, 0), *k = pair_matrix(b, n, kv * d, 0),
         *v = pair_matrix(b, n, kv * d, 0);
    Pair *o = pair_matrix(b, n, h * d, pad), *d_o = pair_matrix(b, n, h * d, pad);
    Pair *lse = pair_fill(b, pair_make(b, DT_F32, DT_F32, 2, (int64_t[]){n, h}, 0), 1, 0);
    Pair *dq = pair_matrix(b, n, h * d, 0), *dk = pair_matrix(b, n, kv * d, 0),
         *dv = pair_matrix(b, n, kv * d, 0);
    float scale = 1 / sqrtf((float)d);
    BOTH(b, attention_fwd,
         (&b->cpu, &o->cpu, &lse->cpu, &q->cpu, &k->cpu, &v->cpu, h, kv, &on_cpu, scale),
         (&b->gpu, &o->gpu, &lse->gpu, &q->gpu, &k->gpu, &v->gpu, h, kv, &on_gpu, scale));
    pair_same(b, what, o, BF16);
    pair_same(b, what, lse, 1e-3);
    BOTH(b, attention_bwd,
         (&b->cpu, &dq->cpu, &dk->cpu, &dv->cpu, &d_o->cpu, &q->cpu, &k->cpu, &v->cpu, &o->cpu,
          &lse->cpu, h, kv, &on_cpu, scale),
         (&b->gpu, &dq->gpu, &dk->gpu, &dv->gpu, &d_o->gpu, &q->gpu, &k->gpu, &v->gpu, &o->gpu,
          &lse->gpu, h, kv, &on_gpu, scale));
    pair_same(b, "dq", dq, 2 * BF16);
    pair_same(b, "dk", dk, 2 * BF16);
    pair_same(b, "dv", dv, 2 * BF16);
    if (b->deterministic) {
        uint64_t before[3] = {bits_of(b, &dq->gpu), bits_of(b, &dk->gpu), bits_of(b, &dv->gpu)};
        b->gpu.k->attention_bwd(&b->gpu, &dq->gpu, &dk->gpu, &dv->gpu, &d_o->gpu, &q->gpu, &k->gpu,
                                &v->gpu, &o->gpu, &lse->gpu, h, kv, &on_gpu, scale);
        cr_expect(before[0] == bits_of(b, &dq->gpu) && before[1] == bits_of(b, &dk->gpu) &&
                      before[2] == bits_of(b, &dv->gpu),
                  "%s: other bits the second time", what);
    }
    pairs_drop(b);
}

Test(parity_attention, attention_packed_with_pitch)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int32_t one[] = {256}, even[] = {128, 128, 128},
                         odd[] = {1, 17, 200, 3, 64, 1, 129}, uneven[] = {700, 5, 333};
    static const int widths[] = {64, 128, 80, 96, 256, 8, 16, 24, 32, 48, 40};
    DeviceInfo info;
    b.gpu.backend->info(&b.gpu, &info);
    for (int w = 0; w < 11; w++) {
        for (int i = 0; i < 3; i++) {
            int pad = (const int[]){0, 16, 64}[i];
            attention(&b, one, 1, 4, 4, widths[w], pad);
            attention(&b, even, 3, 4, 2, widths[w], pad);
            attention(&b, even, 3, 8, 1, widths[w], pad);
            attention(&b, odd, 7, 8, 2, widths[w], pad);
            attention(&b, uneven, 3, 4, 1, widths[w], pad);
        }
        /* no fallback for the widths that models have */
        if (!info.flash_attention || w != 1) continue;
        test_device_expect_flash(&b.gpu);
        b.gpu.backend->info(&b.gpu, &info);
        cr_expect_eq(info.n_dense, 2 * 3 * 3 * 2, "%lld dense calls", (long long)info.n_dense);
    }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Our own kernels: on tensor cores for widths 64 and 128, a warp a query for the others. */
Test(parity_attention, deterministic_attention)
{
    Pairs b;
    if (!pairs_open(&b, true)) return;
    static const int32_t one[] = {130}, odd[] = {1, 17, 200, 3, 64, 1, 129}, uneven[] = {300, 5};
    static const int widths[] = {64, 128, 80};
    for (int w = 0; w < 3; w++) {
        attention(&b, one, 1, 4, 4, widths[w], 0);
        attention(&b, odd, 7, 8, 2, widths[w], 16);
        attention(&b, uneven, 2, 4, 1, widths[w], 3);
    }
    DeviceInfo info;
    b.gpu.backend->info(&b.gpu, &info);
    cr_expect(!info.flash_attention && info.n_flash == 0);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* One token of each of a few sequences, and pieces of prompts: heads that share keys in groups of every size, caches of
 * some keys to several parts' worth. */
static void cached(Pairs *b, int n_docs, int64_t longest, int h, int kv, int d, int32_t each)
{
    char what[120];
    snprintf(what, sizeof what, "cached attention, %d x %d tokens, %lld before, %d/%d x %d", n_docs,
             (int)each, (long long)longest, h, kv, d);
    int32_t cu[9] = {0}, past[8];
    for (int i = 0; i < n_docs; i++) {
        cu[i + 1] = cu[i] + each;
        past[i] = (int32_t)(i == 0 ? longest : longest * i / n_docs);
    }
    int64_t n = cu[n_docs], capacity = longest + each + 3;
    Pair *cup = pair_ints(b, cu, n_docs + 1), *pastp = pair_ints(b, past, n_docs);
    Docs on_cpu = {&cup->cpu, cu, n_docs, each}, on_gpu = {&cup->gpu, cu, n_docs, each};
    int64_t cache[3] = {n_docs, capacity, (int64_t)kv * d};
    Pair *ck = pair_fill(b, pair_make(b, DT_BF16, DT_F32, 3, cache, 0), 1, 0),
         *cv = pair_fill(b, pair_make(b, DT_BF16, DT_F32, 3, cache, 0), 1, 0);
    Pair *q = pair_matrix(b, n, (int64_t)h * d, 0), *k = pair_matrix(b, n, (int64_t)kv * d, 0),
         *v = pair_matrix(b, n, (int64_t)kv * d, 0), *o = pair_matrix(b, n, (int64_t)h * d, 16);
    float scale = 1 / sqrtf((float)d);
    for (int turn = 0; turn < 2; turn++) { /* what counts blocks is as it was */
        BOTH(b, attention_cached,
             (&b->cpu, &o->cpu, &ck->cpu, &cv->cpu, &q->cpu, &k->cpu, &v->cpu, h, kv, &on_cpu,
              &pastp->cpu, longest, scale),
             (&b->gpu, &o->gpu, &ck->gpu, &cv->gpu, &q->gpu, &k->gpu, &v->gpu, h, kv, &on_gpu,
              &pastp->gpu, longest + 2500 * turn, scale)); /* far too many parts */
        pair_same(b, what, o, BF16);
        pair_same(b, what, ck, 1e-9); /* the new ones behind the old, these untouched */
        pair_same(b, what, cv, 1e-9);
    }
    pairs_drop(b);
}

Test(parity_attention, attention_to_a_cache)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int heads[][2] = {{4, 4},  {8, 4},  {9, 3},  {32, 8},
                                   {28, 4}, {16, 2}, {24, 2}, {16, 1}};
    static const int widths[] = {64, 128, 80, 256, 96};
    static const int64_t before[] = {0, 5, 63, 700, 3000};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        for (int w = 0; w < 5; w++)
            for (int p = 0; p < 5; p++) {
                if (before[p] > 1000 && w > 1) continue;
                cached(&b, 1, before[p], heads[i][0], heads[i][1], widths[w], 1);
                cached(&b, 5, before[p], heads[i][0], heads[i][1], widths[w], 1);
                if (before[p] < 100)
                    cached(&b, 3, before[p], heads[i][0], heads[i][1], widths[w], 40);
            }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}
