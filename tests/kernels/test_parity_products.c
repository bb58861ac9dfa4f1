/* Products on a GPU in bf16 against the CPU's in f32 (test_parity_bf16.c): plain ones, of a few rows, with quantised
 * matrices.  Skips aloud without a GPU. */
#include "base/str.h"
#include "kernels/kernels.h"
#include "tests/support/groups.h"
#include "tests/support/parity.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static void product(Pairs *b, int64_t m, int64_t n, int64_t k, bool ta, bool tb, float beta,
                    int64_t pad, bool f32_out)
{
    char what[120];
    snprintf(what, sizeof what, "matmul %lldx%lldx%lld %d%d beta %g pad %lld out %s", (long long)m,
             (long long)n, (long long)k, ta, tb, (double)beta, (long long)pad,
             f32_out ? "f32" : "bf16");
    Pair *a = pair_matrix(b, ta ? k : m, ta ? m : k, pad),
         *bb = pair_matrix(b, tb ? n : k, tb ? k : n, pad);
    Pair *c = f32_out ? pair_fill(b, pair_make(b, DT_F32, DT_F32, 2, (int64_t[]){m, n}, pad), 1, 0)
                      : pair_matrix(b, m, n, pad);
    MatmulArgs args = {ta, tb, 0.5f, beta, NULL};
    BOTH(b, matmul, (&b->cpu, &c->cpu, &a->cpu, &bb->cpu, args),
         (&b->gpu, &c->gpu, &a->gpu, &bb->gpu, args));
    pair_same(b, what, c, f32_out ? 1e-5 : BF16);
    /* what is added lies elsewhere, in rows of another pitch */
    DType out = f32_out ? DT_F32 : DT_BF16;
    Pair *add = pair_fill(b, pair_make(b, out, DT_F32, 2, (int64_t[]){m, n}, pad ? 0 : 8), 1, 0);
    MatmulArgs cpu_args = {ta, tb, 0.5f, 1, &add->cpu}, gpu_args = {ta, tb, 0.5f, 1, &add->gpu};
    BOTH(b, matmul, (&b->cpu, &c->cpu, &a->cpu, &bb->cpu, cpu_args),
         (&b->gpu, &c->gpu, &a->gpu, &bb->gpu, gpu_args));
    pair_same(b, what, c, f32_out ? 1e-5 : BF16);
    pairs_drop(b);
}

Test(parity_products, products)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][3] = {{1, 1, 1},      {1, 64, 64},    {7, 5, 3},
                                        {128, 256, 64}, {333, 129, 77}, {512, 1024, 4096},
                                        {64, 16, 2048}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int t = 0; t < 4; t++)
            for (int out = 0; out < 2; out++)
                product(&b, shapes[i][0], shapes[i][1], shapes[i][2], t & 1, t & 2, (float)(t & 1),
                        t == 2 ? 24 : 0, out);
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Products of a few rows, by the kernel that has them: odd widths and addresses go another way. */
Test(parity_products, products_of_a_few_rows)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][2] = {
        {1, 8},  {40, 64},   {1000, 4096}, {257, 4144}, {16, 264},  {128256, 128}, {33, 20000},
        {5, 13}, {4096, 16}, {301, 40},    {16, 14336}, {64, 4096}, {133, 72}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int64_t m = 1; m <= 9; m++) {
            product(&b, m, shapes[i][0], shapes[i][1], false, true, 0, 0, false);
            product(&b, m, shapes[i][0], shapes[i][1], false, true, 1, 24, m % 2);
        }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}

/* Encodes drawn values on both sides, to the same bytes. */
static void encode(Pairs *b, const char *what, Pair *packed, const QuantPart *q)
{
    const size_t bytes = tensor_bytes(&packed->cpu);
    Pair *w = pair_matrix(b, q->rows, q->cols, 8);
    uint8_t *host[2] = {xcalloc(bytes, 1), xcalloc(bytes, 1)};
    BOTH(b, quantize, (&b->cpu, &packed->cpu, q, &w->cpu), (&b->gpu, &packed->gpu, q, &w->gpu));
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
}

/* The packed bytes of n parts, the same on both sides: encoded, or drawn where nothing encodes them. */
static Pair *encoded(Pairs *b, const char *what, QuantPart *q, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        quant_place(&q[i], &bytes);
    int64_t n_bytes = (int64_t)bytes;
    Pair *packed = pair_make(b, DT_U8, DT_U8, 1, &n_bytes, 0);
    uint8_t *host = xcalloc(bytes, 1); /* zeros between the pieces */
    for (int i = 0; i < n && quant_is_group(q[0].type); i++)
        groups_draw(host, &q[i], 100 * (uint64_t)i);
    tensor_write(&b->cpu, &packed->cpu, host);
    tensor_write(&b->gpu, &packed->gpu, host);
    free(host);
    for (int i = 0; i < n && !quant_is_group(q[0].type); i++)
        encode(b, what, packed, &q[i]);
    return packed;
}

/* What there is beside a type's plain form: 4 bits with nested scales, groups with columns in an order of their own. */
static bool has_more(QuantType type)
{
    return quant_is_4bit(type) || quant_is_group(type);
}

static QuantPart part_of(QuantType type, int64_t block, bool more, int64_t rows, int64_t cols)
{
    QuantPart q = {.type = type, .rows = rows, .cols = cols, .block = block};
    q.nested = more && quant_is_4bit(type);
    q.ordered = more && quant_is_group(type);
    return q;
}

/* Products of n rows, added to something or not, of x as it is or normed by w. */
static void products(Pairs *b, const char *what, Pair *packed, const QuantPart *q, int n_parts,
                     Pair *w, int64_t n, int64_t rows)
{
    Pair *x = pair_matrix(b, n, q[0].cols, 8), *out = pair_matrix(b, n, rows, 8),
         *add = pair_matrix(b, n, rows, 0), *y = pair_matrix(b, n, q[0].cols, 0),
         *rstd = pair_vector(b, n, DT_F32);
    /* a large eps: it must count */
    const NormBefore cpu = {.w = &w->cpu, .eps = 0.1f, .y = &y->cpu, .rstd = &rstd->cpu},
                     gpu = {.w = &w->gpu, .eps = 0.1f, .y = &y->gpu, .rstd = &rstd->gpu};
    for (int k = 0; k < (n <= 2 ? 4 : 2); k++) { /* more rows are normed as two are */
        const bool adds = k % 2 == 1, norms = k >= 2;
        char name[160];
        snprintf(name, sizeof name, "%s%s%s", what, adds ? ", added" : "", norms ? ", normed" : "");
        BOTH(b, quant_matvec,
             (&b->cpu, &out->cpu, adds ? &add->cpu : NULL, &x->cpu, norms ? &cpu : NULL,
              &packed->cpu, q, n_parts),
             (&b->gpu, &out->gpu, adds ? &add->gpu : NULL, &x->gpu, norms ? &gpu : NULL,
              &packed->gpu, q, n_parts));
        pair_same(b, name, out, BF16);
    }
}

/* The same bytes on both sides, the same values, and products of a few rows. */
static void quantised(Pairs *b, QuantType type, int64_t block, bool more, int64_t rows,
                      int64_t cols)
{
    char what[120];
    snprintf(what, sizeof what, "%s%s %lld %lldx%lld", quant_type_name(type),
             more ? " nested or ordered" : "", (long long)block, (long long)rows, (long long)cols);
    QuantPart q = part_of(type, block, more, rows, cols);
    Pair *packed = encoded(b, what, &q, 1), *y = pair_matrix(b, rows, cols, 16);
    BOTH(b, dequantize, (&b->cpu, &y->cpu, &packed->cpu, &q, 1),
         (&b->gpu, &y->gpu, &packed->gpu, &q, 1));
    pair_same(b, what, y, BF16 / 2);
    Pair *w = pair_vector(b, cols, DT_BF16);
    for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++)
        products(b, what, packed, &q, 1, w, n, rows);
    for (int64_t n = 1; n <= 130 && type == QUANT_INT8; n += 43) {
        Pair *x = pair_matrix(b, n, cols, 8), *out = pair_matrix(b, n, rows, 8),
             *add = pair_matrix(b, n, rows, 0);
        for (int k = 0; k < 2;
             k++) { /* the draws have few magnitudes above 2.5, and none above 100 */
            float threshold = k ? 100 : 2.5f;
            BOTH(b, quant_mixed,
                 (&b->cpu, &out->cpu, &add->cpu, &x->cpu, &packed->cpu, &q, threshold),
                 (&b->gpu, &out->gpu, &add->gpu, &x->gpu, &packed->gpu, &q, threshold));
            pair_same(b, what, out, BF16);
        }
    }
    pairs_drop(b);
}

/* The three parts of a fused matrix in one call; the second of 4 bits has a table of its own. */
static void fused(Pairs *b, QuantType type, bool more, int64_t times, int64_t cols)
{
    const int64_t rows[3] = {64 * times, 32 * times, 48 * times}, all = 144 * times;
    QuantPart q[3];
    char what[80];
    snprintf(what, sizeof what, "%s%s, three parts of %lld columns", quant_type_name(type),
             more ? " nested or ordered" : "", (long long)cols);
    for (int i = 0; i < 3; i++)
        q[i] = part_of(type, QUANT_BLOCK, more, rows[i], cols);
    Pair *packed = encoded(b, what, q, 3);
    if (quant_is_4bit(type)) {
        uint8_t *host = xmalloc(tensor_bytes(&packed->cpu));
        tensor_read(&b->cpu, &packed->cpu, host);
        float *table = (float *)(void *)(host + q[1].tables);
        for (int i = 0; i < 16; i++)
            table[i] *= 0.75f;
        tensor_write(&b->cpu, &packed->cpu, host);
        tensor_write(&b->gpu, &packed->gpu, host);
        free(host);
    }
    Pair *y = pair_matrix(b, all, cols, 16);
    BOTH(b, dequantize, (&b->cpu, &y->cpu, &packed->cpu, q, 3),
         (&b->gpu, &y->gpu, &packed->gpu, q, 3));
    pair_same(b, what, y, BF16 / 2);
    device_use_stream(&b->gpu, STREAM_AHEAD); /* with a few large blocks */
    b->gpu.k->dequantize(&b->gpu, &y->gpu, &packed->gpu, q, 3);
    b->gpu.backend->sync(&b->gpu);
    device_use_stream(&b->gpu, STREAM_COMPUTE);
    pair_same(b, what, y, BF16 / 2);
    Pair *w = pair_vector(b, cols, DT_BF16);
    for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++)
        products(b, what, packed, q, 3, w, n, all);
    pairs_drop(b);
}

Test(parity_products, quantised_matrices)
{
    Pairs b;
    if (!pairs_open(&b, false)) return;
    static const int64_t shapes[][2] = {{16, 64},  {1024, 4096}, {48, 1024}, {4096, 128},
                                        {40, 192}, {7, 13},      {33, 129},  {5, 8200},
                                        {48, 64},  {272, 192},   {16, 4096}, {48, 14336},
                                        {16, 256}, {64, 2304},   {32, 11008}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int type = QUANT_NF4; type < QUANT_N; type++) {
            quantised(&b, type, QUANT_BLOCK, false, shapes[i][0], shapes[i][1]);
            if (has_more(type)) quantised(&b, type, QUANT_BLOCK, true, shapes[i][0], shapes[i][1]);
        }
    for (int type = QUANT_GROUP4; type <= QUANT_GROUP8; type++)
        for (int ordered = 0; ordered < 2; ordered++) {
            quantised(&b, type, 32, ordered, 48, 1024);
            quantised(&b, type, 128, ordered, 48, 11008);
            quantised(&b, type, 4096, ordered, 40, 4096); /* one group a row */
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
    for (int type = QUANT_NF4; type < QUANT_N; type++)
        for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++) {
            fused(&b, type, false, 1, cols[i]);
            if (has_more(type)) fused(&b, type, true, 1, cols[i]);
        }
    cr_assert_eq(b.n_failed, 0);
    pairs_close(&b);
}
