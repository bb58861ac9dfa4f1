/* Products by OpenBLAS, which computes on the calling thread only: c is cut into tiles by its shape, and the
 * tiles go over the device's pool.  The only file that knows CBLAS. */
#include "kernels/cpu/cpu.h"

#include <cblas.h>
#include <string.h>

void gemm_setup(void)
{
    openblas_set_num_threads(1);
}

/* One row: a product with a vector reads the matrix once and packs nothing. */
static void gemv_run(const Gemm *g)
{
    blasint inc = g->trans_a ? (blasint)g->lda : 1;
    if (g->trans_b)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)g->n, (blasint)g->k, g->alpha, g->b,
                    (blasint)g->ldb, g->a, inc, g->beta, g->c, 1);
    else
        cblas_sgemv(CblasRowMajor, CblasTrans, (blasint)g->k, (blasint)g->n, g->alpha, g->b,
                    (blasint)g->ldb, g->a, inc, g->beta, g->c, 1);
}

void gemm_run(const Gemm *g)
{
    if (g->m == 0 || g->n == 0) return;
    for (int64_t i = 0; g->add && g->beta != 0 && i < g->m; i++)
        memcpy(g->c + i * g->ldc, g->add + i * g->ldadd, (size_t)g->n * sizeof *g->c);
    if (g->m == 1 && g->k > 0) {
        gemv_run(g);
        return;
    }
    cblas_sgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,
                g->trans_b ? CblasTrans : CblasNoTrans, (blasint)g->m, (blasint)g->n, (blasint)g->k,
                g->alpha, g->a, (blasint)g->lda, g->b, (blasint)g->ldb, g->beta, g->c,
                (blasint)g->ldc);
}

typedef struct Tiles {
    Gemm whole;
    int64_t rows, cols; /* of a tile */
    int64_t n_down, n_across;
} Tiles;

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Length of each of about `parts` equal parts of n: a multiple of 16, not below `least`. */
static int64_t part_of(int64_t n, int64_t parts, int64_t least)
{
    int64_t len = (n + parts - 1) / parts;
    return (len < least ? least : len + 15) / 16 * 16;
}

/* A tile is two million multiply-adds or more; at most 64 tiles, whatever the number of threads, since a product's bits
 * depend on its tiles.  Rows are cut first, but not below 64: each tile packs its side of b anew, which at 32 rows
 * costs a fifth and at 64 a tenth of a product.  Then columns, where rows are few (weight gradients, decoding). */
static Tiles tiles_of(const Gemm *g)
{
    Tiles t = {.whole = *g};
    int64_t want = min_i64(64, 1 + g->m * g->n / (1 << 10) * g->k / (1 << 11));
    t.rows = part_of(g->m, want, 64);
    t.n_down = (g->m + t.rows - 1) / t.rows;
    t.cols = part_of(g->n, want / t.n_down > 0 ? want / t.n_down : 1, 48);
    t.n_across = (g->n + t.cols - 1) / t.cols;
    return t;
}

static void tile_run(void *ud, int64_t i)
{
    const Tiles *t = ud;
    int64_t row = i / t->n_across * t->rows, col = i % t->n_across * t->cols;
    Gemm g = t->whole;
    g.m = min_i64(t->rows, g.m - row);
    g.n = min_i64(t->cols, g.n - col);
    g.a += g.trans_a ? row : row * g.lda;
    g.b += g.trans_b ? col * g.ldb : col;
    g.c += row * g.ldc + col;
    if (g.add) g.add += row * g.ldadd + col;
    gemm_run(&g);
}

void cpu_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    int64_t m = tensor_rows(c), n = tensor_cols(c);
    int64_t k = args.trans_a ? tensor_rows(a) : tensor_cols(a);
    check_matrix(a, args.trans_a ? k : m, args.trans_a ? m : k, "matmul: a");
    check_matrix(b, args.trans_b ? n : k, args.trans_b ? k : n, "matmul: b");
    check_matrix(c, m, n, "matmul: c");
    if (args.add) check_matrix(args.add, m, n, "matmul: add");
    ASSERT(a->ld <= INT32_MAX && b->ld <= INT32_MAX && c->ld <= INT32_MAX && m <= INT32_MAX &&
               k <= INT32_MAX,
           "matmul: (%lld,%lld) by k %lld is beyond 32 bits", (long long)m, (long long)n,
           (long long)k);
    Gemm g = {
        .trans_a = args.trans_a,
        .trans_b = args.trans_b,
        .m = m,
        .n = n,
        .k = k,
        .a = data_f32(a),
        .b = data_f32(b),
        .c = data_f32(c),
        .lda = a->ld,
        .ldb = b->ld,
        .ldc = c->ld,
        .alpha = args.alpha,
        .beta = args.beta,
        .add = args.add ? data_f32(args.add) : NULL,
        .ldadd = args.add ? args.add->ld : 0,
    };
    if (m == 0 || n == 0) return;
    Tiles t = tiles_of(&g);
    pool_run(d->pool, t.n_down * t.n_across, tile_run, &t);
}
