/* The CUDA column in bf16 against the CPU's in f32, on the same numbers: rows, losses, rotation, AdamW, DoRA.  Attention and
 * products have files of their own.  Skips aloud without a GPU. */
#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"
#include "tests/support/parity.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void rows_kernels(Pairs *b, int64_t n, int64_t c, int64_t pad, int64_t shift)
{
    char what[80];
    snprintf(what, sizeof what, "rmsnorm %lldx%lld+%lld from %lld", (long long)n, (long long)c,
             (long long)pad, (long long)shift);
    Pair *x = pair_shifted(b, n, c, pad, shift), *y = pair_shifted(b, n, c, pad, shift),
         *dy = pair_shifted(b, n, c, pad, shift), *dx = pair_shifted(b, n, c, pad, shift),
         *da = pair_shifted(b, n, c, pad, shift);
    Pair *w = pair_vector(b, c, DT_BF16), *dw = pair_vector(b, c, DT_F32),
         *rstd = pair_vector(b, n, DT_F32);
    /* a large eps: in a row of one element the two terms of dx differ by eps alone */
    BOTH(b, rmsnorm_fwd, (&b->cpu, &y->cpu, &rstd->cpu, &x->cpu, &w->cpu, 1e-2f),
         (&b->gpu, &y->gpu, &rstd->gpu, &x->gpu, &w->gpu, 1e-2f));
    pair_same(b, what, y, BF16);
    pair_same(b, what, rstd, 1e-5);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, rmsnorm_bwd,
             (&b->cpu, &dx->cpu, (float)beta, &dw->cpu, (float)beta, &dy->cpu, &x->cpu, &rstd->cpu,
              &w->cpu),
             (&b->gpu, &dx->gpu, (float)beta, &dw->gpu, (float)beta, &dy->gpu, &x->gpu, &rstd->gpu,
              &w->gpu));
        pair_same(b, what, dx, BF16);
        pair_same(b, what, dw, 1e-4);
        BOTH(b, rmsnorm_bwd, /* a frozen norm */
             (&b->cpu, &da->cpu, (float)beta, NULL, 0, &dy->cpu, &x->cpu, &rstd->cpu, &w->cpu),
             (&b->gpu, &da->gpu, (float)beta, NULL, 0, &dy->gpu, &x->gpu, &rstd->gpu, &w->gpu));
        pair_same(b, what, da, BF16);
    }
    /* a gradient that is kept in bf16 */
    Pair *dw16 = pair_vector(b, c, DT_BF16), *db16 = pair_vector(b, c, DT_BF16);
    BOTH(b, rmsnorm_bwd,
         (&b->cpu, &da->cpu, 0, &dw16->cpu, 0, &dy->cpu, &x->cpu, &rstd->cpu, &w->cpu),
         (&b->gpu, &da->gpu, 0, &dw16->gpu, 0, &dy->gpu, &x->gpu, &rstd->gpu, &w->gpu));
    pair_same(b, what, dw16, BF16);
    BOTH(b, bias_bwd, (&b->cpu, &db16->cpu, 0, &dy->cpu), (&b->gpu, &db16->gpu, 0, &dy->gpu));
    pair_same(b, what, db16, BF16);
    for (int beta = 0; beta < 2 && pad == 0 && shift == 0; beta++) {
        Pair *y32 = pair_vector(b, c, DT_F32);
        BOTH(b, sum_rows, (&b->cpu, &db16->cpu, (float)beta, &dy->cpu),
             (&b->gpu, &db16->gpu, (float)beta, &dy->gpu));
        pair_same(b, "sum_rows", db16, BF16);
        BOTH(b, sum_rows, (&b->cpu, &y32->cpu, (float)beta, &dy->cpu),
             (&b->gpu, &y32->gpu, (float)beta, &dy->gpu));
        pair_same(b, "sum_rows in f32", y32, 1e-5);
    }
    snprintf(what, sizeof what, "swiglu %lldx%lld+%lld", (long long)n, (long long)c,
             (long long)pad);
    Pair *gu = pair_shifted(b, n, 2 * c, pad, shift), *h = pair_shifted(b, n, c, pad, shift),
         *dgu = pair_shifted(b, n, 2 * c, pad, shift);
    BOTH(b, swiglu_fwd, (&b->cpu, &h->cpu, &gu->cpu), (&b->gpu, &h->gpu, &gu->gpu));
    pair_same(b, what, h, BF16);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, swiglu_bwd,
             (&b->cpu, &dgu->cpu, (float)beta, beta ? NULL : &h->cpu, &dy->cpu, &gu->cpu),
             (&b->gpu, &dgu->gpu, (float)beta, beta ? NULL : &h->gpu, &dy->gpu, &gu->gpu));
        pair_same(b, what, dgu, BF16);
        pair_same(b, what, h, BF16);
    }
    snprintf(what, sizeof what, "bias %lldx%lld+%lld", (long long)n, (long long)c, (long long)pad);
    Pair *db = pair_vector(b, c, DT_F32);
    BOTH(b, bias_bwd, (&b->cpu, &db->cpu, 1, &dy->cpu), (&b->gpu, &db->gpu, 1, &dy->gpu));
    pair_same(b, what, db, 1e-4);
    BOTH(b, axpy, (&b->cpu, &y->cpu, 0.5f, &x->cpu), (&b->gpu, &y->gpu, 0.5f, &x->gpu));
    pair_same(b, "axpy", y, BF16);
    BOTH(b, swiglu_bwd, (&b->cpu, &gu->cpu, 0, &dy->cpu, &dy->cpu, &gu->cpu), /* in place */
         (&b->gpu, &gu->gpu, 0, &dy->gpu, &dy->gpu, &gu->gpu));
    pair_same(b, "swiglu in place", gu, BF16);
    pair_same(b, "swiglu in place, h", dy, BF16);
    pairs_drop(b);
}

Test(parity_bf16, rows)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][3] = {{1, 1, 0},      {3, 7, 0},       {17, 64, 0},
                                        {129, 4096, 0}, {33, 4096, 64},  {5, 8192, 24},
                                        {2, 14336, 0},  {300, 100, 24},  {7, 20000, 0},
                                        {1, 4096, 16},  {600, 2048, 16}, {9, 16384, 8}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        rows_kernels(&b, shapes[i][0], shapes[i][1], shapes[i][2], 0);
        rows_kernels(&b, shapes[i][0], shapes[i][1], shapes[i][2], 1);
        rows_kernels(&b, shapes[i][0], shapes[i][1], shapes[i][2], 8);
    }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

Test(parity_bf16, loss_rows_and_embedding)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][2] = {{3, 7},     {64, 1000},  {17, 32000}, {5, 128256},
                                        {2, 16384}, {2, 151936}, {2, 262152}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t m = shapes[i][0], v = shapes[i][1];
        int32_t targets[64];
        for (int64_t j = 0; j < m; j++)
            targets[j] = (int32_t)(j * 977 % v);
        Pair *t = pair_ints(&b, targets, m), *loss = pair_vector(&b, m, DT_F32),
             *logits = pair_matrix(&b, m, v, 0);
        BOTH(&b, softmax_xent, (&b.cpu, &loss->cpu, &logits->cpu, &t->cpu, 0.25f),
             (&b.gpu, &loss->gpu, &logits->gpu, &t->gpu, 0.25f));
        pair_same(&b, "xent loss", loss, 1e-5);
        pair_same(&b, "xent gradient", logits, BF16);
        pairs_drop(&b);
    }
    int32_t ids[700];
    for (int i = 0; i < 700; i++)
        ids[i] = i % 3 ? 5 : (int32_t)(i * 31 % 100);
    Pair *id = pair_ints(&b, ids, 700), *w = pair_matrix(&b, 100, 72, 0),
         *y = pair_matrix(&b, 700, 72, 0);
    Pair *dw = pair_fill(&b, pair_make(&b, DT_F32, DT_F32, 2, (int64_t[]){100, 72}, 0), 1, 0);
    BOTH(&b, embedding_fwd, (&b.cpu, &y->cpu, &w->cpu, &id->cpu),
         (&b.gpu, &y->gpu, &w->gpu, &id->gpu));
    pair_same(&b, "embedding", y, 1e-9);
    BOTH(&b, embedding_bwd, (&b.cpu, &dw->cpu, 1, &y->cpu, &id->cpu),
         (&b.gpu, &dw->gpu, 1, &y->gpu, &id->gpu));
    pair_same(&b, "embedding gradient", dw, 1e-5);
    Pair *dw16 = pair_matrix(&b, 100, 72, 0);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(&b, embedding_bwd, (&b.cpu, &dw16->cpu, (float)beta, &y->cpu, &id->cpu),
             (&b.gpu, &dw16->gpu, (float)beta, &y->gpu, &id->gpu));
        pair_same(&b, "embedding gradient in bf16", dw16, 2 * BF16);
    }
    pairs_drop(&b);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* A token that comes thousands of times, in more columns than a thread's at once: a sum that is rounded once has the
 * precision of one rounding. */
Test(parity_bf16, gradient_of_a_frequent_token)
{
    enum { N = 5000, COLS = 2100 };
    Pairs b;
    if (!pairs_open(&b, false)) return;
    int32_t *ids = xmalloc(N * sizeof *ids);
    for (int i = 0; i < N; i++)
        ids[i] = i % 7 == 0 ? 1 : i == 4000 ? 2 : 0;
    Pair *id = pair_ints(&b, ids, N), *dy = pair_fill(&b, pair_matrix(&b, N, COLS, 0), 0.1, 1),
         *dw = pair_matrix(&b, 4, COLS, 0);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(&b, embedding_bwd, (&b.cpu, &dw->cpu, (float)beta, &dy->cpu, &id->cpu),
             (&b.gpu, &dw->gpu, (float)beta, &dy->gpu, &id->gpu));
        pair_same(&b, "gradient of a frequent token", dw, beta ? BF16 : BF16 / 2);
    }
    free(ids);
    pairs_drop(&b);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Ranks that are whole vectors and some that are not; rows of nobody. */
Test(parity_bf16, adapters_around_a_matrix)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t ranks[][3] = {{16, 0, 0}, {8, 16, 8}, {3, 5, 0}, {4, 8, 1}};
    for (size_t t = 0; t < sizeof ranks / sizeof *ranks; t++) {
        AdapterPart cpu[3], gpu[3];
        int64_t sum = 0, in = 264, rows = 150;
        int n = 0;
        for (; n < 3 && ranks[t][n]; n++)
            sum += ranks[t][n];
        Pair *m = pair_matrix(&b, 3 * rows + 20 + sum, in + sum, (8 - sum % 8) % 8), whole = *m;
        for (int k = 0; k < n; k++) {
            Pair *a = pair_matrix(&b, ranks[t][k], in, 0),
                 *lora_b = pair_matrix(&b, rows, ranks[t][k], 0);
            cpu[k] = (AdapterPart){&a->cpu, &lora_b->cpu, rows * k, 0.5f + (float)k};
            gpu[k] = (AdapterPart){&a->gpu, &lora_b->gpu, rows * k, 0.5f + (float)k};
        }
        m->cpu.shape[0] = m->gpu.shape[0] = 3 * rows + 20;
        m->cpu.shape[1] = m->gpu.shape[1] = in;
        BOTH(&b, write_adapters, (&b.cpu, &m->cpu, cpu, n), (&b.gpu, &m->gpu, gpu, n));
        pair_same(&b, "a matrix with its adapters", &whole, BF16);
        pairs_drop(&b);
    }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

static void rope(Pairs *b, int64_t n, int h, int kv, int d, int64_t pad, bool norm)
{
    int32_t pos[512];
    for (int i = 0; i < n; i++)
        pos[i] = i % 100;
    Pair *p = pair_ints(b, pos, n),
         *table = pair_fill(b, pair_make(b, DT_F32, DT_F32, 2, (int64_t[]){100, d}, 0), 1, 0);
    Pair *qkv = pair_matrix(b, n, (h + 2 * kv) * d, pad),
         *dqkv = pair_matrix(b, n, (h + 2 * kv) * d, pad);
    Pair *q = pair_matrix(b, n, h * d, 0), *k = pair_matrix(b, n, kv * d, 0),
         *v = pair_matrix(b, n, kv * d, 0);
    Pair *rq = pair_fill(b, pair_make(b, DT_F32, DT_F32, 2, (int64_t[]){n, h}, 0), 1, 0);
    Pair *rk = pair_fill(b, pair_make(b, DT_F32, DT_F32, 2, (int64_t[]){n, kv}, 0), 1, 0);
    Pair *qn = pair_vector(b, d, DT_BF16), *kn = pair_vector(b, d, DT_BF16),
         *dqn = pair_vector(b, d, DT_F32), *dkn = pair_vector(b, d, DT_F32);
    const Tensor *cn[2] = {norm ? &qn->cpu : NULL, norm ? &kn->cpu : NULL},
                 *gn[2] = {norm ? &qn->gpu : NULL, norm ? &kn->gpu : NULL};
    Tensor *cg[2] = {norm ? &dqn->cpu : NULL, norm ? &dkn->cpu : NULL},
           *gg[2] = {norm ? &dqn->gpu : NULL, norm ? &dkn->gpu : NULL};
    BOTH(b, split_rope_fwd,
         (&b->cpu, &q->cpu, &k->cpu, &v->cpu, norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL,
          &qkv->cpu, &p->cpu, &table->cpu, cn[0], cn[1], h, kv, 1e-6f),
         (&b->gpu, &q->gpu, &k->gpu, &v->gpu, norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL,
          &qkv->gpu, &p->gpu, &table->gpu, gn[0], gn[1], h, kv, 1e-6f));
    pair_same(b, "rope q", q, 2 * BF16); /* a normed head is rounded three times */
    pair_same(b, "rope k", k, 2 * BF16);
    pair_same(b, "rope v", v, 1e-9);
    BOTH(b, split_rope_bwd,
         (&b->cpu, &dqkv->cpu, 0, cg[0], 0, cg[1], 0, &q->cpu, &k->cpu, &v->cpu, &qkv->cpu,
          norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL, &p->cpu, &table->cpu, cn[0], cn[1], h,
          kv),
         (&b->gpu, &dqkv->gpu, 0, gg[0], 0, gg[1], 0, &q->gpu, &k->gpu, &v->gpu, &qkv->gpu,
          norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL, &p->gpu, &table->gpu, gn[0], gn[1], h,
          kv));
    pair_same(b, "rope dqkv", dqkv, 2 * BF16);
    if (norm) {
        pair_same(b, "rope dq_norm", dqn, 0.01);
        pair_same(b, "rope dk_norm", dkn, 0.01);
    }
    /* frozen norms, and a gradient to add to */
    BOTH(b, split_rope_bwd,
         (&b->cpu, &dqkv->cpu, 1, NULL, 0, NULL, 0, &q->cpu, &k->cpu, &v->cpu, &qkv->cpu,
          norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL, &p->cpu, &table->cpu, cn[0], cn[1], h,
          kv),
         (&b->gpu, &dqkv->gpu, 1, NULL, 0, NULL, 0, &q->gpu, &k->gpu, &v->gpu, &qkv->gpu,
          norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL, &p->gpu, &table->gpu, gn[0], gn[1], h,
          kv));
    pair_same(b, "rope dqkv, frozen norms", dqkv, 2 * BF16);
    pairs_drop(b);
}

Test(parity_bf16, split_and_rotate)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    for (int norm = 0; norm < 2; norm++) {
        rope(&b, 1, 1, 1, 2, 0, norm);
        rope(&b, 37, 4, 2, 64, 24, norm);
        rope(&b, 300, 8, 2, 128, 0, norm);
        rope(&b, 65, 3, 1, 96, 8, norm);
        rope(&b, 20, 2, 2, 256, 0, norm);
        rope(&b, 33, 32, 8, 128, 48, norm);
        rope(&b, 9, 6, 2, 80, 4, norm);
        rope(&b, 5, 40, 40, 128, 16, norm);
    }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Between float and the two halves of a master copy. */
static void split(Device *d, Tensor *hi, Tensor *low, const float *x, int64_t n)
{
    uint16_t *h = xmalloc((size_t)n * sizeof *h);
    int16_t *l = xmalloc((size_t)n * sizeof *l);
    convert_split(h, l, x, n);
    tensor_write(d, hi, h);
    tensor_write(d, low, l);
    free(h), free(l);
}

static void join(Device *d, const Tensor *hi, const Tensor *low, Tensor *into, int64_t n)
{
    uint16_t *h = xmalloc((size_t)n * sizeof *h);
    int16_t *l = xmalloc((size_t)n * sizeof *l);
    float *x = xmalloc((size_t)n * sizeof *x);
    tensor_read(d, hi, h);
    tensor_read(d, low, l);
    convert_join(x, h, l, n);
    tensor_write(d, into, x);
    free(h), free(l), free(x);
}

/* w an f32 array, or split in two. */
static void optimizer(Pairs *b, int64_t n, DType w_dtype, DType grad_dtype)
{
    bool halves = w_dtype == DT_BF16;
    int64_t n_scalars = STEP_N;
    Pair *w = pair_vector(b, n, DT_F32), *m = pair_vector(b, n, DT_F32),
         *v = pair_vector(b, n, DT_F32), *g = pair_vector(b, n, grad_dtype),
         *step = pair_make(b, DT_F32, DT_F32, 1, &n_scalars, 0);
    Pair *hi = pair_make(b, DT_BF16, DT_BF16, 1, &n, 0),
         *low = pair_make(b, DT_I16, DT_I16, 1, &n, 0);
    float scalars[STEP_N] = {1e-2f, 0.1f, 0.05f, 0.5f, 0};
    float *x = xmalloc((size_t)n * sizeof *x);
    tensor_write(&b->cpu, &step->cpu, scalars);
    tensor_write(&b->gpu, &step->gpu, scalars);
    tensor_zero(&b->cpu, &v->cpu);
    tensor_zero(&b->gpu, &v->gpu);
    tensor_read(&b->cpu, &w->cpu, x);
    split(&b->cpu, &hi->cpu, &low->cpu, x, n);
    split(&b->gpu, &hi->gpu, &low->gpu, x, n);
    int64_t half = n / 2 / 64 * 64;
    AdamwArgs args = {0.9f, 0.95f, 1e-8f, 1, {{n, 1, 0.1f}}};
    if (half > 0) args = (AdamwArgs){0.9f, 0.95f, 1e-8f, 2, {{half, 0.5f, 0}, {n, 1, 0.1f}}};
    Pair *weights = halves ? hi : w;
    BOTH(b, adamw,
         (&b->cpu, &weights->cpu, halves ? &low->cpu : NULL, &(AdamwStates){m->cpu, v->cpu},
          &g->cpu, &step->cpu, &args),
         (&b->gpu, &weights->gpu, halves ? &low->gpu : NULL, &(AdamwStates){m->gpu, v->gpu},
          &g->gpu, &step->gpu, &args));
    if (halves) {
        join(&b->cpu, &hi->cpu, &low->cpu, &w->cpu, n);
        join(&b->gpu, &hi->gpu, &low->gpu, &w->gpu, n);
        pair_same(b, "adamw working copy", hi, BF16);
    }
    pair_same(b, "adamw w", w, 1e-5);
    pair_same(b, "adamw m", m, 1e-6);
    pair_same(b, "adamw v", v, 1e-6);
    Pair *sum = pair_vector(b, 1, DT_F32);
    BOTH(b, sum_squares, (&b->cpu, &sum->cpu, 0, &g->cpu), (&b->gpu, &sum->gpu, 0, &g->gpu));
    pair_same(b, "sum of squares", sum, 1e-6);
    free(x);
    pairs_drop(b);
}

/* States in 8 bits have the same bits on both, step after step. */
static void optimizer8(Pairs *b, int64_t n, DType w_dtype, DType grad_dtype)
{
    bool halves = w_dtype == DT_BF16;
    int64_t n_blocks = (n + STATES_BLOCK - 1) / STATES_BLOCK;
    Pair *w = pair_vector(b, n, DT_F32), *g = pair_make(b, grad_dtype, DT_F32, 1, &n, 0);
    Pair *step = pair_zeros(b, DT_F32, STEP_N), *hi = pair_zeros(b, DT_BF16, n),
         *low = pair_zeros(b, DT_I16, n);
    Pair *s[4] = {pair_zeros(b, DT_U8, n), pair_zeros(b, DT_U8, n), pair_zeros(b, DT_F32, n_blocks),
                  pair_zeros(b, DT_F32, n_blocks)};
    AdamwStates cpu = {s[0]->cpu, s[1]->cpu, s[2]->cpu, s[3]->cpu},
                gpu = {s[0]->gpu, s[1]->gpu, s[2]->gpu, s[3]->gpu};
    float *x = xmalloc((size_t)n * sizeof *x);
    tensor_read(&b->cpu, &w->cpu, x);
    split(&b->cpu, &hi->cpu, &low->cpu, x, n);
    split(&b->gpu, &hi->gpu, &low->gpu, x, n);
    free(x);
    int64_t half = n / 2 / STATES_BLOCK * STATES_BLOCK;
    AdamwArgs args = {0.9f, 0.95f, 1e-8f, 1, {{n, 1, 0.1f}}};
    if (half > 0) args = (AdamwArgs){0.9f, 0.95f, 1e-8f, 2, {{half, 0.5f, 0}, {n, 1, 0.1f}}};
    Pair *weights = halves ? hi : w;
    for (int t = 1; t <= 4; t++) {
        float scalars[STEP_N] = {1e-3f, 1 - powf(0.9f, (float)t), 1 - powf(0.95f, (float)t), 0.5f,
                                 0};
        tensor_write(&b->cpu, &step->cpu, scalars);
        tensor_write(&b->gpu, &step->gpu, scalars);
        pair_fill(b, g, pow(10, -t), 0);
        BOTH(b, adamw,
             (&b->cpu, &weights->cpu, halves ? &low->cpu : NULL, &cpu, &g->cpu, &step->cpu, &args),
             (&b->gpu, &weights->gpu, halves ? &low->gpu : NULL, &gpu, &g->gpu, &step->gpu, &args));
        pair_same_bytes(b, "adamw codes of m", s[0]);
        pair_same_bytes(b, "adamw codes of v", s[1]);
        pair_same_bytes(b, "adamw absmax of m", s[2]);
        pair_same_bytes(b, "adamw absmax of v", s[3]);
    }
    if (halves) {
        join(&b->cpu, &hi->cpu, &low->cpu, &w->cpu, n);
        join(&b->gpu, &hi->gpu, &low->gpu, &w->gpu, n);
    }
    pair_same(b, "adamw w beside states in 8 bits", w, 1e-5);
    pairs_drop(b);
}

Test(parity_bf16, optimizer_and_sums)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t sizes[] = {1, 5, 8, 1000, 100003, 1 << 20};
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            optimizer(&b, sizes[i], k & 1 ? DT_BF16 : DT_F32, k & 2 ? DT_BF16 : DT_F32);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            optimizer8(&b, sizes[i], k & 1 ? DT_BF16 : DT_F32, k & 2 ? DT_BF16 : DT_F32);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Draws are the same on both sides, and so is what rounding leaves of them. */
Test(parity_bf16, random_master_copies)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    int64_t n = 10007;
    Pair *w = pair_vector(&b, n, DT_F32), *hi = pair_make(&b, DT_BF16, DT_BF16, 1, &n, 0),
         *low = pair_make(&b, DT_I16, DT_I16, 1, &n, 0);
    b.cpu.k->fill_normal(&b.cpu, &hi->cpu, &low->cpu, 5, 0, 0.02);
    b.gpu.k->fill_normal(&b.gpu, &hi->gpu, &low->gpu, 5, 0, 0.02);
    join(&b.cpu, &hi->cpu, &low->cpu, &w->cpu, n);
    join(&b.gpu, &hi->gpu, &low->gpu, &w->gpu, n);
    pair_same(&b, "random master copies", w, 1e-6);
    pairs_drop(&b);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

Test(parity_bf16, best_of_rows)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][2] = {{1, 1}, {8, 128256}, {3, 1000}, {64, 257}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        Pair *x = pair_fill(&b, pair_make(&b, DT_F32, DT_F32, 2, shapes[i], 8), 1, 0);
        Pair *best = pair_make(&b, DT_I32, DT_I32, 1, shapes[i], 0);
        int32_t want[64], got[64];
        BOTH(&b, argmax, (&b.cpu, &best->cpu, &x->cpu), (&b.gpu, &best->gpu, &x->gpu));
        tensor_read(&b.cpu, &best->cpu, want);
        tensor_read(&b.gpu, &best->gpu, got);
        for (int r = 0; r < shapes[i][0]; r++)
            cr_expect_eq(got[r], want[r], "row %d of %lld columns: %d, not %d", r,
                         (long long)shapes[i][1], got[r], want[r]);
        pairs_drop(&b);
    }
    pairs_close(&b);
}

/* The products between are of each device, in f32 there, too. */
static void adapted(Pairs *b, const char *what, const Pair *base, const Pair *w)
{
    enum { RANK = 16 };
    int64_t out = tensor_rows(&w->cpu), in = tensor_cols(&w->cpu);
    int64_t wa_shape[2] = {out, RANK}, aa_shape[2] = {RANK, RANK};
    Pair *a = pair_fill(b, pair_matrix(b, RANK, in, 0), 0.1, 0),
         *lb = pair_fill(b, pair_matrix(b, out, RANK, 0), 0.1, 0),
         *wa = pair_make(b, DT_F32, DT_F32, 2, wa_shape, 0),
         *aa = pair_make(b, DT_F32, DT_F32, 2, aa_shape, 0), *norm = pair_vector(b, out, DT_F32);
    MatmulArgs product = {.trans_b = true, .alpha = 1};
    BOTH(b, matmul, (&b->cpu, &wa->cpu, &w->cpu, &a->cpu, product),
         (&b->gpu, &wa->gpu, &w->gpu, &a->gpu, product));
    BOTH(b, matmul, (&b->cpu, &aa->cpu, &a->cpu, &a->cpu, product),
         (&b->gpu, &aa->gpu, &a->gpu, &a->gpu, product));
    BOTH(b, adapted_norms, (&b->cpu, &norm->cpu, &base->cpu, &wa->cpu, &aa->cpu, &lb->cpu, 2),
         (&b->gpu, &norm->gpu, &base->gpu, &wa->gpu, &aa->gpu, &lb->gpu, 2));
    pair_same(b, what, norm, 1e-4);
}

static void dora(Pairs *b, int64_t n, int64_t out, int64_t in, int64_t pad)
{
    char what[80];
    snprintf(what, sizeof what, "dora %lld rows, %lldx%lld+%lld", (long long)n, (long long)out,
             (long long)in, (long long)pad);
    Pair *w = pair_matrix(b, out, in, pad), *z = pair_matrix(b, n, out, pad),
         *y = pair_matrix(b, n, out, pad), *dy = pair_matrix(b, n, out, pad),
         *dz = pair_matrix(b, n, out, pad);
    Pair *m = pair_vector(b, out, DT_BF16), *norm = pair_vector(b, out, DT_F32),
         *dm = pair_vector(b, out, DT_F32), *dm16 = pair_vector(b, out, DT_BF16);
    BOTH(b, row_norms, (&b->cpu, &norm->cpu, &w->cpu), (&b->gpu, &norm->gpu, &w->gpu));
    pair_same(b, what, norm, 1e-5);
    BOTH(b, dora_fwd, (&b->cpu, &y->cpu, NULL, &z->cpu, &m->cpu, &norm->cpu),
         (&b->gpu, &y->gpu, NULL, &z->gpu, &m->gpu, &norm->gpu));
    pair_same(b, what, y, BF16);
    BOTH(b, dora_fwd, (&b->cpu, &y->cpu, &dy->cpu, &z->cpu, &m->cpu, &norm->cpu),
         (&b->gpu, &y->gpu, &dy->gpu, &z->gpu, &m->gpu, &norm->gpu));
    pair_same(b, what, y, BF16);
    adapted(b, what, norm, w);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, dora_bwd,
             (&b->cpu, &dz->cpu, (float)beta, &dm->cpu, (float)beta, &dy->cpu, &z->cpu, &m->cpu,
              &norm->cpu),
             (&b->gpu, &dz->gpu, (float)beta, &dm->gpu, (float)beta, &dy->gpu, &z->gpu, &m->gpu,
              &norm->gpu));
        pair_same(b, what, dz, BF16);
        pair_same(b, what, dm, 1e-4);
        BOTH(b, dora_bwd, /* one of the two alone */
             (&b->cpu, NULL, 0, &dm16->cpu, (float)beta, &dy->cpu, &z->cpu, &m->cpu, &norm->cpu),
             (&b->gpu, NULL, 0, &dm16->gpu, (float)beta, &dy->gpu, &z->gpu, &m->gpu, &norm->gpu));
        pair_same(b, what, dm16, 2 * BF16);
        BOTH(b, dora_bwd,
             (&b->cpu, &dz->cpu, (float)beta, NULL, 0, &dy->cpu, &z->cpu, &m->cpu, &norm->cpu),
             (&b->gpu, &dz->gpu, (float)beta, NULL, 0, &dy->gpu, &z->gpu, &m->gpu, &norm->gpu));
        pair_same(b, what, dz, BF16);
    }
    pairs_drop(b);
}

Test(parity_bf16, magnitudes)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][4] = {{1, 1, 1, 0},      {7, 13, 5, 3},
                                        {129, 64, 100, 8}, {500, 1024, 4096, 16},
                                        {3, 4096, 64, 0},  {2048, 100, 14336, 24}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        dora(&b, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}
