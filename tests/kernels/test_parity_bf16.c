/* The CUDA column in bf16 against the CPU's in f32, on the same numbers (rounded to bf16 first, so only the kernels'
 * own rounding remains).  Skips aloud without a GPU. */
#include "base/hash.h"
#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Pair { /* the same tensor on both devices */
    Tensor cpu, gpu;
} Pair;

typedef struct Bench {
    Device cpu, gpu;
    Pair *made[64];
    int n_made, n_failed;
    uint64_t key;
    bool deterministic;
} Bench;

static bool open_with(Bench *b, bool deterministic)
{
    *b = (Bench){.key = 1, .deterministic = deterministic};
    const Backend *cuda = backend_find("cuda");
    Err err = {0};
    DeviceOpts opts = test_device_opts((size_t)4 << 30, 0);
    opts.deterministic |= deterministic;
    if (!cuda || device_open(&b->gpu, cuda, &opts, DT_BF16, &err) != OK) {
        const char *asked = getenv("LORAC_TEST_BACKEND");
        cr_assert(!asked || strcmp(asked, "cuda") != 0, "%s", err.line);
        fprintf(stderr, "skipped: %s\n", cuda ? err.line : "built without CUDA");
        return false;
    }
    cr_assert_eq(device_open(&b->cpu, backend_find("cpu"), &opts, DT_F32, &err), OK);
    return true;
}

static bool open_both(Bench *b)
{
    return open_with(b, false);
}

static void drop_all(Bench *b)
{
    for (int i = 0; i < b->n_made; i++) {
        tensor_clear(&b->made[i]->cpu);
        tensor_clear(&b->made[i]->gpu);
        free(b->made[i]);
    }
    b->n_made = 0;
}

static void close_both(Bench *b)
{
    device_close(&b->cpu);
    device_close(&b->gpu);
}

static Pair *make(Bench *b, DType gpu, DType cpu, int n_dims, const int64_t *shape, int64_t pad)
{
    Pair *p = xcalloc(1, sizeof *p);
    p->cpu = tensor_shape(cpu, n_dims, shape);
    p->gpu = tensor_shape(gpu, n_dims, shape);
    p->cpu.ld += pad;
    p->gpu.ld += pad;
    p->cpu.storage = storage_new(&b->cpu, tensor_bytes(&p->cpu), MEM_ACTIVATION);
    p->gpu.storage = storage_new(&b->gpu, tensor_bytes(&p->gpu), MEM_ACTIVATION);
    cr_assert(b->n_made < 64);
    b->made[b->n_made++] = p;
    return p;
}

/* Normal draws, rounded to bf16 where the GPU's side is. */
static Pair *fill(Bench *b, Pair *p, double sigma, double mean)
{
    int64_t n = tensor_numel(&p->cpu);
    float *x = xmalloc((size_t)n * sizeof *x);
    b->key++;
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(mean + sigma * rng_normal(b->key, (uint64_t)i));
        if (p->gpu.dtype == DT_BF16) x[i] = bf16_to_f32(bf16_from_f32(x[i]));
    }
    tensor_write_f32(&b->cpu, &p->cpu, x);
    tensor_write_f32(&b->gpu, &p->gpu, x);
    free(x);
    return p;
}

static Pair *matrix(Bench *b, int64_t rows, int64_t cols, int64_t pad)
{
    return fill(b, make(b, DT_BF16, DT_F32, 2, (int64_t[]){rows, cols}, pad), 1, 0);
}

/* A matrix whose first element lies `shift` elements behind an aligned address. */
static Pair *shifted(Bench *b, int64_t rows, int64_t cols, int64_t pad, int64_t shift)
{
    Pair *p = matrix(b, rows, cols + shift, pad);
    p->cpu = tensor_slice_cols(&p->cpu, shift, cols);
    p->gpu = tensor_slice_cols(&p->gpu, shift, cols);
    return p;
}

static Pair *vector(Bench *b, int64_t n, DType gpu)
{
    return fill(b, make(b, gpu, DT_F32, 1, &n, 0), 1, gpu == DT_BF16 ? 1 : 0);
}

static Pair *ints(Bench *b, const int32_t *v, int64_t n)
{
    Pair *p = make(b, DT_I32, DT_I32, 1, &n, 0);
    tensor_write(&b->cpu, &p->cpu, v);
    tensor_write(&b->gpu, &p->gpu, v);
    return p;
}

/* Relative to the largest value, and in the mean: a wrong element among many right ones must show. */
static void same(Bench *b, const char *what, const Pair *p, double tolerance)
{
    int64_t n = tensor_numel(&p->cpu);
    float *want = xmalloc((size_t)n * sizeof *want), *got = xmalloc((size_t)n * sizeof *got);
    Tensor cpu = p->cpu, gpu = p->gpu;
    tensor_read_f32(&b->cpu, &cpu, want);
    tensor_read_f32(&b->gpu, &gpu, got);
    double most = 1e-30, worst = 0, sum = 0, norm = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)want[i]));
        double off = fabs((double)want[i] - (double)got[i]);
        if (!(off <= worst)) worst = off, at = i;
        sum += off * off;
        norm += (double)want[i] * (double)want[i];
    }
    double rms = sqrt(sum / (norm + 1e-30));
    if (!(worst / most <= tolerance) || !(rms <= tolerance)) {
        fprintf(
            stderr,
            "%s: element %lld is %g, should be %g: off by %.2g of %.3g, rms %.2g, allowed %.2g\n",
            what, (long long)at, (double)got[at], (double)want[at], worst / most, most, rms,
            tolerance);
        b->n_failed++;
    }
    free(want);
    free(got);
}

static const double BF16 = 1.0 / 128; /* a few roundings of 2^-9 */

/* Calls one kernel on both sides. */
#define BOTH(b, kernel, on_cpu, on_gpu)                                                            \
    do {                                                                                           \
        (b)->cpu.k->kernel on_cpu;                                                                 \
        (b)->gpu.k->kernel on_gpu;                                                                 \
    } while (0)

static void rows_kernels(Bench *b, int64_t n, int64_t c, int64_t pad, int64_t shift)
{
    char what[80];
    snprintf(what, sizeof what, "rmsnorm %lldx%lld+%lld from %lld", (long long)n, (long long)c,
             (long long)pad, (long long)shift);
    Pair *x = shifted(b, n, c, pad, shift), *y = shifted(b, n, c, pad, shift),
         *dy = shifted(b, n, c, pad, shift), *dx = shifted(b, n, c, pad, shift),
         *da = shifted(b, n, c, pad, shift);
    Pair *w = vector(b, c, DT_BF16), *dw = vector(b, c, DT_F32), *rstd = vector(b, n, DT_F32);
    /* a large eps: in a row of one element the two terms of dx differ by eps alone */
    BOTH(b, rmsnorm_fwd, (&b->cpu, &y->cpu, &rstd->cpu, &x->cpu, &w->cpu, 1e-2f),
         (&b->gpu, &y->gpu, &rstd->gpu, &x->gpu, &w->gpu, 1e-2f));
    same(b, what, y, BF16);
    same(b, what, rstd, 1e-5);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, rmsnorm_bwd,
             (&b->cpu, &dx->cpu, (float)beta, &dw->cpu, (float)beta, &dy->cpu, &x->cpu, &rstd->cpu,
              &w->cpu),
             (&b->gpu, &dx->gpu, (float)beta, &dw->gpu, (float)beta, &dy->gpu, &x->gpu, &rstd->gpu,
              &w->gpu));
        same(b, what, dx, BF16);
        same(b, what, dw, 1e-4);
        BOTH(b, rmsnorm_bwd, /* a frozen norm */
             (&b->cpu, &da->cpu, (float)beta, NULL, 0, &dy->cpu, &x->cpu, &rstd->cpu, &w->cpu),
             (&b->gpu, &da->gpu, (float)beta, NULL, 0, &dy->gpu, &x->gpu, &rstd->gpu, &w->gpu));
        same(b, what, da, BF16);
    }
    /* a gradient that is kept in bf16 */
    Pair *dw16 = vector(b, c, DT_BF16), *db16 = vector(b, c, DT_BF16);
    BOTH(b, rmsnorm_bwd,
         (&b->cpu, &da->cpu, 0, &dw16->cpu, 0, &dy->cpu, &x->cpu, &rstd->cpu, &w->cpu),
         (&b->gpu, &da->gpu, 0, &dw16->gpu, 0, &dy->gpu, &x->gpu, &rstd->gpu, &w->gpu));
    same(b, what, dw16, BF16);
    BOTH(b, bias_bwd, (&b->cpu, &db16->cpu, 0, &dy->cpu), (&b->gpu, &db16->gpu, 0, &dy->gpu));
    same(b, what, db16, BF16);
    for (int beta = 0; beta < 2 && pad == 0 && shift == 0; beta++) {
        Pair *y32 = vector(b, c, DT_F32);
        BOTH(b, sum_rows, (&b->cpu, &db16->cpu, (float)beta, &dy->cpu),
             (&b->gpu, &db16->gpu, (float)beta, &dy->gpu));
        same(b, "sum_rows", db16, BF16);
        BOTH(b, sum_rows, (&b->cpu, &y32->cpu, (float)beta, &dy->cpu),
             (&b->gpu, &y32->gpu, (float)beta, &dy->gpu));
        same(b, "sum_rows in f32", y32, 1e-5);
    }
    snprintf(what, sizeof what, "swiglu %lldx%lld+%lld", (long long)n, (long long)c,
             (long long)pad);
    Pair *gu = shifted(b, n, 2 * c, pad, shift), *h = shifted(b, n, c, pad, shift),
         *dgu = shifted(b, n, 2 * c, pad, shift);
    BOTH(b, swiglu_fwd, (&b->cpu, &h->cpu, &gu->cpu), (&b->gpu, &h->gpu, &gu->gpu));
    same(b, what, h, BF16);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, swiglu_bwd,
             (&b->cpu, &dgu->cpu, (float)beta, beta ? NULL : &h->cpu, &dy->cpu, &gu->cpu),
             (&b->gpu, &dgu->gpu, (float)beta, beta ? NULL : &h->gpu, &dy->gpu, &gu->gpu));
        same(b, what, dgu, BF16);
        same(b, what, h, BF16);
    }
    snprintf(what, sizeof what, "bias %lldx%lld+%lld", (long long)n, (long long)c, (long long)pad);
    Pair *db = vector(b, c, DT_F32);
    BOTH(b, bias_bwd, (&b->cpu, &db->cpu, 1, &dy->cpu), (&b->gpu, &db->gpu, 1, &dy->gpu));
    same(b, what, db, 1e-4);
    BOTH(b, axpy, (&b->cpu, &y->cpu, 0.5f, &x->cpu), (&b->gpu, &y->gpu, 0.5f, &x->gpu));
    same(b, "axpy", y, BF16);
    BOTH(b, swiglu_bwd, (&b->cpu, &gu->cpu, 0, &dy->cpu, &dy->cpu, &gu->cpu), /* in place */
         (&b->gpu, &gu->gpu, 0, &dy->gpu, &dy->gpu, &gu->gpu));
    same(b, "swiglu in place", gu, BF16);
    same(b, "swiglu in place, h", dy, BF16);
    drop_all(b);
}

Test(parity_bf16, rows)
{
    Bench b;
    if (!open_both(&b)) return;
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
    close_both(&b);
}

static void product(Bench *b, int64_t m, int64_t n, int64_t k, bool ta, bool tb, float beta,
                    int64_t pad, bool f32_out)
{
    char what[120];
    snprintf(what, sizeof what, "matmul %lldx%lldx%lld %d%d beta %g pad %lld out %s", (long long)m,
             (long long)n, (long long)k, ta, tb, (double)beta, (long long)pad,
             f32_out ? "f32" : "bf16");
    Pair *a = matrix(b, ta ? k : m, ta ? m : k, pad), *bb = matrix(b, tb ? n : k, tb ? k : n, pad);
    Pair *c = f32_out ? fill(b, make(b, DT_F32, DT_F32, 2, (int64_t[]){m, n}, pad), 1, 0)
                      : matrix(b, m, n, pad);
    MatmulArgs args = {ta, tb, 0.5f, beta, NULL};
    BOTH(b, matmul, (&b->cpu, &c->cpu, &a->cpu, &bb->cpu, args),
         (&b->gpu, &c->gpu, &a->gpu, &bb->gpu, args));
    same(b, what, c, f32_out ? 1e-5 : BF16);
    /* what is added lies elsewhere, in rows of another pitch */
    DType out = f32_out ? DT_F32 : DT_BF16;
    Pair *add = fill(b, make(b, out, DT_F32, 2, (int64_t[]){m, n}, pad ? 0 : 8), 1, 0);
    MatmulArgs cpu_args = {ta, tb, 0.5f, 1, &add->cpu}, gpu_args = {ta, tb, 0.5f, 1, &add->gpu};
    BOTH(b, matmul, (&b->cpu, &c->cpu, &a->cpu, &bb->cpu, cpu_args),
         (&b->gpu, &c->gpu, &a->gpu, &bb->gpu, gpu_args));
    same(b, what, c, f32_out ? 1e-5 : BF16);
    drop_all(b);
}

Test(parity_bf16, products)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][3] = {{1, 1, 1},      {1, 64, 64},    {7, 5, 3},
                                        {128, 256, 64}, {333, 129, 77}, {512, 1024, 4096},
                                        {64, 16, 2048}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int t = 0; t < 4; t++)
            for (int out = 0; out < 2; out++)
                product(&b, shapes[i][0], shapes[i][1], shapes[i][2], t & 1, t & 2, (float)(t & 1),
                        t == 2 ? 24 : 0, out);
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

/* The bits of a tensor on the GPU. */
static uint64_t bits_of(Bench *b, const Tensor *t)
{
    void *host = xmalloc(tensor_bytes(t));
    tensor_read(&b->gpu, t, host);
    uint64_t h = hash64(host, (size_t)tensor_numel(t) * dtype_bytes(t->dtype), 0);
    free(host);
    return h;
}

static void attention(Bench *b, const int32_t *lens, int n_docs, int h, int kv, int d, int64_t pad)
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
    Pair *cup = ints(b, cu, n_docs + 1);
    Docs on_cpu = {&cup->cpu, cu, n_docs, max_len}, on_gpu = {&cup->gpu, cu, n_docs, max_len};
    Pair *q = matrix(b, n, h * d, 0), *k = matrix(b, n, kv * d, 0), *v = matrix(b, n, kv * d, 0);
    Pair *o = matrix(b, n, h * d, pad), *d_o = matrix(b, n, h * d, pad);
    Pair *lse = fill(b, make(b, DT_F32, DT_F32, 2, (int64_t[]){n, h}, 0), 1, 0);
    Pair *dq = matrix(b, n, h * d, 0), *dk = matrix(b, n, kv * d, 0), *dv = matrix(b, n, kv * d, 0);
    float scale = 1 / sqrtf((float)d);
    BOTH(b, attention_fwd,
         (&b->cpu, &o->cpu, &lse->cpu, &q->cpu, &k->cpu, &v->cpu, h, kv, &on_cpu, scale),
         (&b->gpu, &o->gpu, &lse->gpu, &q->gpu, &k->gpu, &v->gpu, h, kv, &on_gpu, scale));
    same(b, what, o, BF16);
    same(b, what, lse, 1e-3);
    BOTH(b, attention_bwd,
         (&b->cpu, &dq->cpu, &dk->cpu, &dv->cpu, &d_o->cpu, &q->cpu, &k->cpu, &v->cpu, &o->cpu,
          &lse->cpu, h, kv, &on_cpu, scale),
         (&b->gpu, &dq->gpu, &dk->gpu, &dv->gpu, &d_o->gpu, &q->gpu, &k->gpu, &v->gpu, &o->gpu,
          &lse->gpu, h, kv, &on_gpu, scale));
    same(b, "dq", dq, 2 * BF16);
    same(b, "dk", dk, 2 * BF16);
    same(b, "dv", dv, 2 * BF16);
    if (b->deterministic) {
        uint64_t before[3] = {bits_of(b, &dq->gpu), bits_of(b, &dk->gpu), bits_of(b, &dv->gpu)};
        b->gpu.k->attention_bwd(&b->gpu, &dq->gpu, &dk->gpu, &dv->gpu, &d_o->gpu, &q->gpu, &k->gpu,
                                &v->gpu, &o->gpu, &lse->gpu, h, kv, &on_gpu, scale);
        cr_expect(before[0] == bits_of(b, &dq->gpu) && before[1] == bits_of(b, &dk->gpu) &&
                      before[2] == bits_of(b, &dv->gpu),
                  "%s: other bits the second time", what);
    }
    drop_all(b);
}

Test(parity_bf16, attention_packed_with_pitch)
{
    Bench b;
    if (!open_both(&b)) return;
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
    close_both(&b);
}

/* Our own kernels: on tensor cores for widths 64 and 128, a warp a query for the others. */
Test(parity_bf16, deterministic_attention)
{
    Bench b;
    if (!open_with(&b, true)) return;
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
    close_both(&b);
}

Test(parity_bf16, loss_rows_and_embedding)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][2] = {{3, 7},     {64, 1000},  {17, 32000}, {5, 128256},
                                        {2, 16384}, {2, 151936}, {2, 262152}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t m = shapes[i][0], v = shapes[i][1];
        int32_t targets[64];
        for (int64_t j = 0; j < m; j++)
            targets[j] = (int32_t)(j * 977 % v);
        Pair *t = ints(&b, targets, m), *loss = vector(&b, m, DT_F32),
             *logits = matrix(&b, m, v, 0);
        BOTH(&b, softmax_xent, (&b.cpu, &loss->cpu, &logits->cpu, &t->cpu, 0.25f),
             (&b.gpu, &loss->gpu, &logits->gpu, &t->gpu, 0.25f));
        same(&b, "xent loss", loss, 1e-5);
        same(&b, "xent gradient", logits, BF16);
        drop_all(&b);
    }
    int32_t ids[700];
    for (int i = 0; i < 700; i++)
        ids[i] = i % 3 ? 5 : (int32_t)(i * 31 % 100);
    Pair *id = ints(&b, ids, 700), *w = matrix(&b, 100, 72, 0), *y = matrix(&b, 700, 72, 0);
    Pair *dw = fill(&b, make(&b, DT_F32, DT_F32, 2, (int64_t[]){100, 72}, 0), 1, 0);
    BOTH(&b, embedding_fwd, (&b.cpu, &y->cpu, &w->cpu, &id->cpu),
         (&b.gpu, &y->gpu, &w->gpu, &id->gpu));
    same(&b, "embedding", y, 1e-9);
    BOTH(&b, embedding_bwd, (&b.cpu, &dw->cpu, 1, &y->cpu, &id->cpu),
         (&b.gpu, &dw->gpu, 1, &y->gpu, &id->gpu));
    same(&b, "embedding gradient", dw, 1e-5);
    Pair *dw16 = matrix(&b, 100, 72, 0);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(&b, embedding_bwd, (&b.cpu, &dw16->cpu, (float)beta, &y->cpu, &id->cpu),
             (&b.gpu, &dw16->gpu, (float)beta, &y->gpu, &id->gpu));
        same(&b, "embedding gradient in bf16", dw16, 2 * BF16);
    }
    drop_all(&b);
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

/* Ranks that are whole vectors and some that are not; rows of nobody. */
Test(parity_bf16, adapters_around_a_matrix)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t ranks[][3] = {{16, 0, 0}, {8, 16, 8}, {3, 5, 0}, {4, 8, 1}};
    for (size_t t = 0; t < sizeof ranks / sizeof *ranks; t++) {
        AdapterPart cpu[3], gpu[3];
        int64_t sum = 0, in = 264, rows = 150;
        int n = 0;
        for (; n < 3 && ranks[t][n]; n++)
            sum += ranks[t][n];
        Pair *m = matrix(&b, 3 * rows + 20 + sum, in + sum, (8 - sum % 8) % 8), whole = *m;
        for (int k = 0; k < n; k++) {
            Pair *a = matrix(&b, ranks[t][k], in, 0), *lora_b = matrix(&b, rows, ranks[t][k], 0);
            cpu[k] = (AdapterPart){&a->cpu, &lora_b->cpu, rows * k, 0.5f + (float)k};
            gpu[k] = (AdapterPart){&a->gpu, &lora_b->gpu, rows * k, 0.5f + (float)k};
        }
        m->cpu.shape[0] = m->gpu.shape[0] = 3 * rows + 20;
        m->cpu.shape[1] = m->gpu.shape[1] = in;
        BOTH(&b, write_adapters, (&b.cpu, &m->cpu, cpu, n), (&b.gpu, &m->gpu, gpu, n));
        same(&b, "a matrix with its adapters", &whole, BF16);
        drop_all(&b);
    }
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

static void rope(Bench *b, int64_t n, int h, int kv, int d, int64_t pad, bool norm)
{
    int32_t pos[512];
    for (int i = 0; i < n; i++)
        pos[i] = i % 100;
    Pair *p = ints(b, pos, n),
         *table = fill(b, make(b, DT_F32, DT_F32, 2, (int64_t[]){100, d}, 0), 1, 0);
    Pair *qkv = matrix(b, n, (h + 2 * kv) * d, pad), *dqkv = matrix(b, n, (h + 2 * kv) * d, pad);
    Pair *q = matrix(b, n, h * d, 0), *k = matrix(b, n, kv * d, 0), *v = matrix(b, n, kv * d, 0);
    Pair *rq = fill(b, make(b, DT_F32, DT_F32, 2, (int64_t[]){n, h}, 0), 1, 0);
    Pair *rk = fill(b, make(b, DT_F32, DT_F32, 2, (int64_t[]){n, kv}, 0), 1, 0);
    Pair *qn = vector(b, d, DT_BF16), *kn = vector(b, d, DT_BF16), *dqn = vector(b, d, DT_F32),
         *dkn = vector(b, d, DT_F32);
    const Tensor *cn[2] = {norm ? &qn->cpu : NULL, norm ? &kn->cpu : NULL},
                 *gn[2] = {norm ? &qn->gpu : NULL, norm ? &kn->gpu : NULL};
    Tensor *cg[2] = {norm ? &dqn->cpu : NULL, norm ? &dkn->cpu : NULL},
           *gg[2] = {norm ? &dqn->gpu : NULL, norm ? &dkn->gpu : NULL};
    BOTH(b, split_rope_fwd,
         (&b->cpu, &q->cpu, &k->cpu, &v->cpu, norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL,
          &qkv->cpu, &p->cpu, &table->cpu, cn[0], cn[1], h, kv, 1e-6f),
         (&b->gpu, &q->gpu, &k->gpu, &v->gpu, norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL,
          &qkv->gpu, &p->gpu, &table->gpu, gn[0], gn[1], h, kv, 1e-6f));
    same(b, "rope q", q, 2 * BF16); /* a normed head is rounded three times */
    same(b, "rope k", k, 2 * BF16);
    same(b, "rope v", v, 1e-9);
    BOTH(b, split_rope_bwd,
         (&b->cpu, &dqkv->cpu, 0, cg[0], 0, cg[1], 0, &q->cpu, &k->cpu, &v->cpu, &qkv->cpu,
          norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL, &p->cpu, &table->cpu, cn[0], cn[1], h,
          kv),
         (&b->gpu, &dqkv->gpu, 0, gg[0], 0, gg[1], 0, &q->gpu, &k->gpu, &v->gpu, &qkv->gpu,
          norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL, &p->gpu, &table->gpu, gn[0], gn[1], h,
          kv));
    same(b, "rope dqkv", dqkv, 2 * BF16);
    if (norm) {
        same(b, "rope dq_norm", dqn, 0.01);
        same(b, "rope dk_norm", dkn, 0.01);
    }
    /* frozen norms, and a gradient to add to */
    BOTH(b, split_rope_bwd,
         (&b->cpu, &dqkv->cpu, 1, NULL, 0, NULL, 0, &q->cpu, &k->cpu, &v->cpu, &qkv->cpu,
          norm ? &rq->cpu : NULL, norm ? &rk->cpu : NULL, &p->cpu, &table->cpu, cn[0], cn[1], h,
          kv),
         (&b->gpu, &dqkv->gpu, 1, NULL, 0, NULL, 0, &q->gpu, &k->gpu, &v->gpu, &qkv->gpu,
          norm ? &rq->gpu : NULL, norm ? &rk->gpu : NULL, &p->gpu, &table->gpu, gn[0], gn[1], h,
          kv));
    same(b, "rope dqkv, frozen norms", dqkv, 2 * BF16);
    drop_all(b);
}

Test(parity_bf16, split_and_rotate)
{
    Bench b;
    if (!open_both(&b)) return;
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
    close_both(&b);
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
static void optimizer(Bench *b, int64_t n, DType w_dtype, DType grad_dtype)
{
    bool halves = w_dtype == DT_BF16;
    int64_t n_scalars = STEP_N;
    Pair *w = vector(b, n, DT_F32), *m = vector(b, n, DT_F32), *v = vector(b, n, DT_F32),
         *g = vector(b, n, grad_dtype), *step = make(b, DT_F32, DT_F32, 1, &n_scalars, 0);
    Pair *hi = make(b, DT_BF16, DT_BF16, 1, &n, 0), *low = make(b, DT_I16, DT_I16, 1, &n, 0);
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
        same(b, "adamw working copy", hi, BF16);
    }
    same(b, "adamw w", w, 1e-5);
    same(b, "adamw m", m, 1e-6);
    same(b, "adamw v", v, 1e-6);
    Pair *sum = vector(b, 1, DT_F32);
    BOTH(b, sum_squares, (&b->cpu, &sum->cpu, 0, &g->cpu), (&b->gpu, &sum->gpu, 0, &g->gpu));
    same(b, "sum of squares", sum, 1e-6);
    free(x);
    drop_all(b);
}

static Pair *zeros(Bench *b, DType dtype, int64_t n)
{
    Pair *p = make(b, dtype, dtype, 1, &n, 0);
    tensor_zero(&b->cpu, &p->cpu);
    tensor_zero(&b->gpu, &p->gpu);
    return p;
}

static void same_bytes(Bench *b, const char *name, const Pair *p)
{
    size_t bytes = tensor_bytes(&p->cpu), other = 0;
    uint8_t *x = xmalloc(bytes), *y = xmalloc(bytes);
    tensor_read(&b->cpu, &p->cpu, x);
    tensor_read(&b->gpu, &p->gpu, y);
    for (size_t i = 0; i < bytes; i++)
        other += x[i] != y[i];
    if (other) fprintf(stderr, "%s: %zu of %zu bytes differ\n", name, other, bytes);
    b->n_failed += other != 0;
    free(x), free(y);
}

/* States in 8 bits have the same bits on both, step after step. */
static void optimizer8(Bench *b, int64_t n, DType w_dtype, DType grad_dtype)
{
    bool halves = w_dtype == DT_BF16;
    int64_t n_blocks = (n + STATES_BLOCK - 1) / STATES_BLOCK;
    Pair *w = vector(b, n, DT_F32), *g = make(b, grad_dtype, DT_F32, 1, &n, 0);
    Pair *step = zeros(b, DT_F32, STEP_N), *hi = zeros(b, DT_BF16, n), *low = zeros(b, DT_I16, n);
    Pair *s[4] = {zeros(b, DT_U8, n), zeros(b, DT_U8, n), zeros(b, DT_F32, n_blocks),
                  zeros(b, DT_F32, n_blocks)};
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
        fill(b, g, pow(10, -t), 0);
        BOTH(b, adamw,
             (&b->cpu, &weights->cpu, halves ? &low->cpu : NULL, &cpu, &g->cpu, &step->cpu, &args),
             (&b->gpu, &weights->gpu, halves ? &low->gpu : NULL, &gpu, &g->gpu, &step->gpu, &args));
        same_bytes(b, "adamw codes of m", s[0]);
        same_bytes(b, "adamw codes of v", s[1]);
        same_bytes(b, "adamw absmax of m", s[2]);
        same_bytes(b, "adamw absmax of v", s[3]);
    }
    if (halves) {
        join(&b->cpu, &hi->cpu, &low->cpu, &w->cpu, n);
        join(&b->gpu, &hi->gpu, &low->gpu, &w->gpu, n);
    }
    same(b, "adamw w beside states in 8 bits", w, 1e-5);
    drop_all(b);
}

Test(parity_bf16, optimizer_and_sums)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t sizes[] = {1, 5, 8, 1000, 100003, 1 << 20};
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            optimizer(&b, sizes[i], k & 1 ? DT_BF16 : DT_F32, k & 2 ? DT_BF16 : DT_F32);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            optimizer8(&b, sizes[i], k & 1 ? DT_BF16 : DT_F32, k & 2 ? DT_BF16 : DT_F32);
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

/* Draws are the same on both sides, and so is what rounding leaves of them. */
Test(parity_bf16, random_master_copies)
{
    Bench b;
    if (!open_both(&b)) return;
    int64_t n = 10007;
    Pair *w = vector(&b, n, DT_F32), *hi = make(&b, DT_BF16, DT_BF16, 1, &n, 0),
         *low = make(&b, DT_I16, DT_I16, 1, &n, 0);
    b.cpu.k->fill_normal(&b.cpu, &hi->cpu, &low->cpu, 5, 0, 0.02);
    b.gpu.k->fill_normal(&b.gpu, &hi->gpu, &low->gpu, 5, 0, 0.02);
    join(&b.cpu, &hi->cpu, &low->cpu, &w->cpu, n);
    join(&b.gpu, &hi->gpu, &low->gpu, &w->gpu, n);
    same(&b, "random master copies", w, 1e-6);
    drop_all(&b);
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

/* The same bytes on both sides, the same values, and products of a few rows. */
static void quantised(Bench *b, QuantType type, int64_t block, bool nested, int64_t rows,
                      int64_t cols)
{
    char what[120];
    snprintf(what, sizeof what, "%s%s %lld %lldx%lld", quant_type_name(type),
             nested ? " nested" : "", (long long)block, (long long)rows, (long long)cols);
    QuantPart q = {.type = type, .rows = rows, .cols = cols, .block = block, .nested = nested};
    size_t bytes = 0;
    quant_place(&q, &bytes);
    int64_t n_bytes = (int64_t)bytes;
    Pair *packed = make(b, DT_U8, DT_U8, 1, &n_bytes, 0);
    uint8_t *host[2] = {xcalloc(bytes, 1), xcalloc(bytes, 1)};
    tensor_write(&b->cpu, &packed->cpu, host[0]); /* what lies between the pieces */
    tensor_write(&b->gpu, &packed->gpu, host[0]);
    Pair *w = matrix(b, rows, cols, 8), *y = matrix(b, rows, cols, 16);
    BOTH(b, quantize, (&b->cpu, &packed->cpu, &q, &w->cpu), (&b->gpu, &packed->gpu, &q, &w->gpu));
    tensor_read(&b->cpu, &packed->cpu, host[0]);
    tensor_read(&b->gpu, &packed->gpu, host[1]);
    for (size_t i = 0; i < bytes; i++)
        if (host[0][i] != host[1][i]) {
            fprintf(stderr, "%s: byte %zu is %02x, should be %02x\n", what, i, host[1][i],
                    host[0][i]);
            b->n_failed++;
            break;
        }
    free(host[0]), free(host[1]);
    BOTH(b, dequantize, (&b->cpu, &y->cpu, &packed->cpu, &q, 1),
         (&b->gpu, &y->gpu, &packed->gpu, &q, 1));
    same(b, what, y, BF16 / 2);
    for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++) {
        Pair *x = matrix(b, n, cols, 8), *out = matrix(b, n, rows, 8), *add = matrix(b, n, rows, 0);
        BOTH(b, quant_matvec, (&b->cpu, &out->cpu, NULL, &x->cpu, &packed->cpu, &q, 1),
             (&b->gpu, &out->gpu, NULL, &x->gpu, &packed->gpu, &q, 1));
        same(b, what, out, BF16);
        BOTH(b, quant_matvec, (&b->cpu, &out->cpu, &add->cpu, &x->cpu, &packed->cpu, &q, 1),
             (&b->gpu, &out->gpu, &add->gpu, &x->gpu, &packed->gpu, &q, 1));
        same(b, what, out, BF16);
    }
    for (int64_t n = 1; n <= 130 && type == QUANT_INT8; n += 43) {
        Pair *x = matrix(b, n, cols, 8), *out = matrix(b, n, rows, 8), *add = matrix(b, n, rows, 0);
        for (int k = 0; k < 2;
             k++) { /* the draws have few magnitudes above 2.5, and none above 100 */
            float threshold = k ? 100 : 2.5f;
            BOTH(b, quant_mixed,
                 (&b->cpu, &out->cpu, &add->cpu, &x->cpu, &packed->cpu, &q, threshold),
                 (&b->gpu, &out->gpu, &add->gpu, &x->gpu, &packed->gpu, &q, threshold));
            same(b, what, out, BF16);
        }
    }
    drop_all(b);
}

/* The three parts of a fused matrix in one call; the second of 4 bits has a table of its own. */
static void fused(Bench *b, QuantType type, bool nested, int64_t times, int64_t cols)
{
    const int64_t rows[3] = {64 * times, 32 * times, 48 * times}, all = 144 * times;
    QuantPart q[3];
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        q[i] = (QuantPart){
            .type = type, .rows = rows[i], .cols = cols, .block = QUANT_BLOCK, .nested = nested};
        quant_place(&q[i], &bytes);
    }
    char what[80];
    snprintf(what, sizeof what, "%s%s, three parts of %lld columns", quant_type_name(type),
             nested ? " nested" : "", (long long)cols);
    int64_t n_bytes = (int64_t)bytes;
    Pair *packed = make(b, DT_U8, DT_U8, 1, &n_bytes, 0);
    for (int i = 0; i < 3; i++) {
        Pair *w = matrix(b, rows[i], cols, 0);
        BOTH(b, quantize, (&b->cpu, &packed->cpu, &q[i], &w->cpu),
             (&b->gpu, &packed->gpu, &q[i], &w->gpu));
    }
    if (quant_is_4bit(type)) {
        uint8_t *host = xmalloc(bytes);
        tensor_read(&b->cpu, &packed->cpu, host);
        float *table = (float *)(void *)(host + q[1].tables);
        for (int i = 0; i < 16; i++)
            table[i] *= 0.75f;
        tensor_write(&b->cpu, &packed->cpu, host);
        tensor_write(&b->gpu, &packed->gpu, host);
        free(host);
    }
    Pair *y = matrix(b, all, cols, 16);
    BOTH(b, dequantize, (&b->cpu, &y->cpu, &packed->cpu, q, 3),
         (&b->gpu, &y->gpu, &packed->gpu, q, 3));
    same(b, what, y, BF16 / 2);
    device_use_stream(&b->gpu, STREAM_AHEAD); /* with a few large blocks */
    b->gpu.k->dequantize(&b->gpu, &y->gpu, &packed->gpu, q, 3);
    b->gpu.backend->sync(&b->gpu);
    device_use_stream(&b->gpu, STREAM_COMPUTE);
    same(b, what, y, BF16 / 2);
    for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++) {
        Pair *x = matrix(b, n, cols, 8), *out = matrix(b, n, all, 8), *add = matrix(b, n, all, 0);
        BOTH(b, quant_matvec, (&b->cpu, &out->cpu, &add->cpu, &x->cpu, &packed->cpu, q, 3),
             (&b->gpu, &out->gpu, &add->gpu, &x->gpu, &packed->gpu, q, 3));
        same(b, what, out, BF16);
    }
    drop_all(b);
}

/* Products of a few rows, by the kernel that has them: odd widths and addresses go another way. */
Test(parity_bf16, products_of_a_few_rows)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][2] = {{1, 8},    {40, 64},      {1000, 4096}, {257, 4144},
                                        {16, 264}, {128256, 128}, {33, 20000},  {5, 13}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int64_t m = 1; m <= 9; m++) {
            product(&b, m, shapes[i][0], shapes[i][1], false, true, 0, 0, false);
            product(&b, m, shapes[i][0], shapes[i][1], false, true, 1, 24, m % 2);
        }
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

/* One token of each of a few sequences, and pieces of prompts: heads that share keys in groups of every size, caches of
 * some keys to several parts' worth. */
static void cached(Bench *b, int n_docs, int64_t longest, int h, int kv, int d, int32_t each)
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
    Pair *cup = ints(b, cu, n_docs + 1), *pastp = ints(b, past, n_docs);
    Docs on_cpu = {&cup->cpu, cu, n_docs, each}, on_gpu = {&cup->gpu, cu, n_docs, each};
    int64_t cache[3] = {n_docs, capacity, (int64_t)kv * d};
    Pair *ck = fill(b, make(b, DT_BF16, DT_F32, 3, cache, 0), 1, 0),
         *cv = fill(b, make(b, DT_BF16, DT_F32, 3, cache, 0), 1, 0);
    Pair *q = matrix(b, n, (int64_t)h * d, 0), *k = matrix(b, n, (int64_t)kv * d, 0),
         *v = matrix(b, n, (int64_t)kv * d, 0), *o = matrix(b, n, (int64_t)h * d, 16);
    float scale = 1 / sqrtf((float)d);
    for (int turn = 0; turn < 2; turn++) { /* what counts blocks is as it was */
        BOTH(b, attention_cached,
             (&b->cpu, &o->cpu, &ck->cpu, &cv->cpu, &q->cpu, &k->cpu, &v->cpu, h, kv, &on_cpu,
              &pastp->cpu, longest, scale),
             (&b->gpu, &o->gpu, &ck->gpu, &cv->gpu, &q->gpu, &k->gpu, &v->gpu, h, kv, &on_gpu,
              &pastp->gpu, longest + 2500 * turn, scale)); /* far too many parts */
        same(b, what, o, BF16);
        same(b, what, ck, 1e-9); /* the new ones behind the old, these untouched */
        same(b, what, cv, 1e-9);
    }
    drop_all(b);
}

Test(parity_bf16, attention_to_a_cache)
{
    Bench b;
    if (!open_both(&b)) return;
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
    close_both(&b);
}

Test(parity_bf16, best_of_rows)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][2] = {{1, 1}, {8, 128256}, {3, 1000}, {64, 257}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        Pair *x = fill(&b, make(&b, DT_F32, DT_F32, 2, shapes[i], 8), 1, 0);
        Pair *best = make(&b, DT_I32, DT_I32, 1, shapes[i], 0);
        int32_t want[64], got[64];
        BOTH(&b, argmax, (&b.cpu, &best->cpu, &x->cpu), (&b.gpu, &best->gpu, &x->gpu));
        tensor_read(&b.cpu, &best->cpu, want);
        tensor_read(&b.gpu, &best->gpu, got);
        for (int r = 0; r < shapes[i][0]; r++)
            cr_expect_eq(got[r], want[r], "row %d of %lld columns: %d, not %d", r,
                         (long long)shapes[i][1], got[r], want[r]);
        drop_all(&b);
    }
    close_both(&b);
}

static void dora(Bench *b, int64_t n, int64_t out, int64_t in, int64_t pad)
{
    char what[80];
    snprintf(what, sizeof what, "dora %lld rows, %lldx%lld+%lld", (long long)n, (long long)out,
             (long long)in, (long long)pad);
    Pair *w = matrix(b, out, in, pad), *z = matrix(b, n, out, pad), *y = matrix(b, n, out, pad),
         *dy = matrix(b, n, out, pad), *dz = matrix(b, n, out, pad);
    Pair *m = vector(b, out, DT_BF16), *norm = vector(b, out, DT_F32), *dm = vector(b, out, DT_F32),
         *dm16 = vector(b, out, DT_BF16);
    BOTH(b, row_norms, (&b->cpu, &norm->cpu, &w->cpu), (&b->gpu, &norm->gpu, &w->gpu));
    same(b, what, norm, 1e-5);
    BOTH(b, dora_fwd, (&b->cpu, &y->cpu, &z->cpu, &m->cpu, &norm->cpu),
         (&b->gpu, &y->gpu, &z->gpu, &m->gpu, &norm->gpu));
    same(b, what, y, BF16);
    for (int beta = 0; beta < 2; beta++) {
        BOTH(b, dora_bwd,
             (&b->cpu, &dz->cpu, (float)beta, &dm->cpu, (float)beta, &dy->cpu, &z->cpu, &m->cpu,
              &norm->cpu),
             (&b->gpu, &dz->gpu, (float)beta, &dm->gpu, (float)beta, &dy->gpu, &z->gpu, &m->gpu,
              &norm->gpu));
        same(b, what, dz, BF16);
        same(b, what, dm, 1e-4);
        BOTH(b, dora_bwd, /* one of the two alone */
             (&b->cpu, NULL, 0, &dm16->cpu, (float)beta, &dy->cpu, &z->cpu, &m->cpu, &norm->cpu),
             (&b->gpu, NULL, 0, &dm16->gpu, (float)beta, &dy->gpu, &z->gpu, &m->gpu, &norm->gpu));
        same(b, what, dm16, 2 * BF16);
        BOTH(b, dora_bwd,
             (&b->cpu, &dz->cpu, (float)beta, NULL, 0, &dy->cpu, &z->cpu, &m->cpu, &norm->cpu),
             (&b->gpu, &dz->gpu, (float)beta, NULL, 0, &dy->gpu, &z->gpu, &m->gpu, &norm->gpu));
        same(b, what, dz, BF16);
    }
    drop_all(b);
}

Test(parity_bf16, magnitudes)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][4] = {{1, 1, 1, 0},      {7, 13, 5, 3},
                                        {129, 64, 100, 8}, {500, 1024, 4096, 16},
                                        {3, 4096, 64, 0},  {2048, 100, 14336, 24}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        dora(&b, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}

Test(parity_bf16, quantised_matrices)
{
    Bench b;
    if (!open_both(&b)) return;
    static const int64_t shapes[][2] = {{16, 64},  {1024, 4096}, {48, 1024}, {4096, 128},
                                        {40, 192}, {7, 13},      {33, 129},  {5, 8200},
                                        {48, 64},  {272, 192},   {16, 4096}, {48, 14336},
                                        {16, 256}, {64, 2304},   {32, 11008}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int type = QUANT_NF4; type <= QUANT_FP8; type++) {
            quantised(&b, type, QUANT_BLOCK, false, shapes[i][0], shapes[i][1]);
            if (type <= QUANT_FP4)
                quantised(&b, type, QUANT_BLOCK, true, shapes[i][0], shapes[i][1]);
        }
    for (int64_t block = QUANT_LEAST_BLOCK; block <= QUANT_MOST_BLOCK; block *= 2) {
        quantised(&b, QUANT_NF4, block, true, 48, 1024);
        quantised(&b, QUANT_NF4, block, block % 128 != 0, 272, 192);
        quantised(&b, QUANT_FP4, block, false, 33, 129);
    }
    quantised(&b, QUANT_NF4, QUANT_BLOCK, true, 35072, 256); /* a block has many groups */
    quantised(&b, QUANT_FP4, QUANT_BLOCK, false, 8704, 768);
    fused(&b, QUANT_NF4, true, 64, 256); /* whose groups are of parts with other tables */
    fused(&b, QUANT_FP4, false, 64, 2560);
    static const int64_t cols[] = {64, 128, 164, 192, 264, 1024, 1280, 4096, 8256};
    for (int type = QUANT_NF4; type <= QUANT_FP8; type++)
        for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++) {
            fused(&b, type, false, 1, cols[i]);
            fused(&b, type, type <= QUANT_FP4, 1, cols[i]);
        }
    cr_assert_eq(b.n_failed, 0);
    close_both(&b);
}
