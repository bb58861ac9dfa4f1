/* LAPACK's one home.  It counts matrices by columns: our (m,n) by rows is its (n,m), the transpose, so singular vectors change
 * sides and an LQ decomposition takes the place of a QR. */
#include "kernels/svd.h"

#include "base/rng.h"
#include "base/str.h"
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* OpenBLAS has them, its headers do not; the last argument is the length of the text. */
void sgesdd_(const char *jobz, const int *m, const int *n, float *a, const int *lda, float *s,
             float *u, const int *ldu, float *vt, const int *ldvt, float *work, const int *lwork,
             int *iwork, int *info, size_t jobz_len);
void sgelqf_(const int *m, const int *n, float *a, const int *lda, float *tau, float *work,
             const int *lwork, int *info);
void sorglq_(const int *m, const int *n, const int *k, float *a, const int *lda, const float *tau,
             float *work, const int *lwork, int *info);

/* Vectors looked for beside those wanted: they make the last of these exact sooner. */
enum { SPARE = 8, PART_ROWS = 256 };

static float *floats(int64_t n)
{
    return xmalloc((size_t)n * sizeof(float));
}

/* ---- products in parts -------------------------------------------------------------------------- */

static void product_part(void *ud, int64_t i)
{
    Gemm g = *(const Gemm *)ud;
    int64_t row = i * PART_ROWS;
    g.m = g.m - row < PART_ROWS ? g.m - row : PART_ROWS;
    g.a += g.trans_a ? row : row * g.lda;
    g.c += row * g.ldc;
    gemm_run(&g);
}

static void product(Pool *pool, const Gemm *g)
{
    pool_run(pool, (g->m + PART_ROWS - 1) / PART_ROWS, product_part, (void *)(uintptr_t)g);
}

void svd_subtract(Pool *pool, float *w, const float *b, const float *a, int64_t m, int64_t n,
                  int64_t r, float scale)
{
    gemm_setup();
    Gemm g = {.m = m,
              .n = n,
              .k = r,
              .a = b,
              .lda = r,
              .b = a,
              .ldb = n,
              .c = w,
              .ldc = n,
              .alpha = -scale,
              .beta = 1};
    product(pool, &g);
}

/* ---- LAPACK ------------------------------------------------------------------------------------- */

/* The rows of a (rows, cols), rows by rows in memory of LAPACK's order: (m,n) there.  u (m,k), vt (k,n), k the smaller. */
static bool decompose(float *a, int m, int n, float *u, float *s, float *vt)
{
    int k = m < n ? m : n, info = 0, lwork = -1;
    int *iwork = xmalloc(8 * (size_t)k * sizeof *iwork);
    float best = 0;
    sgesdd_("S", &m, &n, a, &m, s, u, &m, vt, &k, &best, &lwork, iwork, &info, 1);
    lwork = (int)(best * 1.001f) + 1; /* a float may have rounded it down */
    float *work = floats(lwork);
    if (info == 0) sgesdd_("S", &m, &n, a, &m, s, u, &m, vt, &k, work, &lwork, iwork, &info, 1);
    free(work);
    free(iwork);
    ASSERT(info >= 0, "sgesdd: argument %d", -info);
    return info == 0;
}

/* The k columns of y (m,k) become orthonormal. */
static void orthonormalize(float *y, int m, int k)
{
    int info = 0, lwork = k * 64;
    float *tau = floats(k), *work = floats(lwork);
    sgelqf_(&k, &m, y, &k, tau, work, &lwork, &info);
    if (info == 0) sorglq_(&k, &m, &k, y, &k, tau, work, &lwork, &info);
    ASSERT(info == 0, "sgelqf: %d", info);
    free(tau);
    free(work);
}

/* ---- the two ways ------------------------------------------------------------------------------- */

static bool whole(float *u, float *s, float *vt, const float *w, int64_t m, int64_t n, int64_t r)
{
    int64_t k = m < n ? m : n;
    float *a = floats(m * n), *left = floats(n * k), *values = floats(k), *right = floats(k * m);
    memcpy(a, w, (size_t)(m * n) * sizeof *a);
    bool ok = decompose(a, (int)n, (int)m, left, values, right);
    memcpy(s, values, (size_t)r * sizeof *s);
    memcpy(vt, left, (size_t)(r * n) * sizeof *vt);
    for (int64_t i = 0; i < m; i++)
        memcpy(u + i * r, right + i * k, (size_t)r * sizeof *u);
    free(a), free(left), free(values), free(right);
    return ok;
}

typedef struct Search {
    Pool *pool;
    const float *w; /* (m,n) */
    int64_t m, n, k;
    float *y, *z; /* (m,k), (n,k) */
} Search;

/* y = w z, orthonormal. */
static void forth(Search *x)
{
    Gemm g = {.m = x->m,
              .n = x->k,
              .k = x->n,
              .a = x->w,
              .lda = x->n,
              .b = x->z,
              .ldb = x->k,
              .c = x->y,
              .ldc = x->k,
              .alpha = 1};
    product(x->pool, &g);
    orthonormalize(x->y, (int)x->m, (int)x->k);
}

/* z = w^T y */
static void back(Search *x)
{
    Gemm g = {.trans_a = true,
              .m = x->n,
              .n = x->k,
              .k = x->m,
              .a = x->w,
              .lda = x->n,
              .b = x->y,
              .ldb = x->k,
              .c = x->z,
              .ldc = x->k,
              .alpha = 1};
    product(x->pool, &g);
}

/* z's transpose is what w is within the space of y's columns: its decomposition gives w's. */
static bool finish(Search *x, float *u, float *s, float *vt, int64_t r)
{
    int64_t k = x->k;
    float *left = floats(k * k), *values = floats(k), *right = floats(k * x->n);
    bool ok = decompose(x->z, (int)k, (int)x->n, left, values, right);
    memcpy(s, values, (size_t)r * sizeof *s);
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < x->n; j++)
            vt[i * x->n + j] = right[j * k + i];
    Gemm g = {.trans_b = true,
              .m = x->m,
              .n = r,
              .k = k,
              .a = x->y,
              .lda = k,
              .b = left,
              .ldb = k,
              .c = u,
              .ldc = r,
              .alpha = 1};
    product(x->pool, &g);
    free(left), free(values), free(right);
    return ok;
}

bool svd_principal(Pool *pool, float *u, float *s, float *vt, const float *w, int64_t m, int64_t n,
                   const SvdOpts *opts)
{
    int64_t least = m < n ? m : n;
    ASSERT(opts->rank >= 1 && opts->rank <= least, "rank %lld of (%lld,%lld)",
           (long long)opts->rank, (long long)m, (long long)n);
    ASSERT(m <= INT32_MAX / 2 && n <= INT32_MAX / 2, "(%lld,%lld)", (long long)m, (long long)n);
    gemm_setup();
    for (int64_t i = 0; i < m * n; i++)
        if (!isfinite(w[i])) return false;
    if (opts->iterations == 0) return whole(u, s, vt, w, m, n, opts->rank);
    Search x = {.pool = pool, .w = w, .m = m, .n = n, .k = opts->rank + SPARE};
    if (x.k > least) x.k = least;
    x.y = floats(m * x.k);
    x.z = floats(n * x.k);
    for (int64_t i = 0; i < n * x.k; i++)
        x.z[i] = (float)rng_normal(opts->key, (uint64_t)i);
    forth(&x);
    for (int i = 0; i < opts->iterations; i++) {
        back(&x);
        orthonormalize(x.z, (int)n, (int)x.k);
        forth(&x);
    }
    back(&x);
    bool ok = finish(&x, u, s, vt, opts->rank);
    free(x.y);
    free(x.z);
    return ok;
}
