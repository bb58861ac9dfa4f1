/* Principal singular vectors: against PEFT's PiSSA of small layers, and the randomised way against the whole one. */
#include "base/rng.h"
#include "base/str.h"
#include "kernels/svd.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float *values_of(const SafeTensors *f, const char *name, const char *what, int64_t *m,
                        int64_t *n)
{
    char *full = str_format("%s.%s", name, what);
    const SafeTensor *t = safetensors_find(f, full);
    cr_assert_not_null(t, "%s", full);
    free(full);
    *m = t->shape[0], *n = t->shape[1];
    return memcpy(xmalloc(t->bytes), t->data, t->bytes);
}

typedef struct Svd {
    float *u, *s, *vt;
} Svd;

static Svd decompose(Pool *pool, const float *w, int64_t m, int64_t n, int64_t r, int iterations)
{
    Svd x = {xmalloc((size_t)(m * r) * 4), xmalloc((size_t)r * 4), xmalloc((size_t)(r * n) * 4)};
    SvdOpts opts = {.rank = r, .iterations = iterations, .key = 5};
    cr_assert(svd_principal(pool, x.u, x.s, x.vt, w, m, n, &opts));
    return x;
}

static void svd_free(Svd *x)
{
    free(x->u), free(x->s), free(x->vt);
}

/* What is left of w without its principal part. */
static float *rest_of(Pool *pool, const Svd *x, const float *w, int64_t m, int64_t n, int64_t r)
{
    float *b = xmalloc((size_t)(m * r) * 4), *rest = xmalloc((size_t)(m * n) * 4);
    for (int64_t i = 0; i < m * r; i++)
        b[i] = x->u[i] * x->s[i % r];
    memcpy(rest, w, (size_t)(m * n) * 4);
    svd_subtract(pool, rest, b, x->vt, m, n, r, 1);
    free(b);
    return rest;
}

Test(svd, equals_pefts_pissa)
{
    static const char *const names[] = {"wide", "tall", "square"};
    char *path = source_path("tests/fixtures/pissa.safetensors");
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    Pool *pool = pool_new(2);
    for (int i = 0; i < 3; i++)
        for (int iterations = 0; iterations <= 12; iterations += 12) {
            int64_t m, n;
            float *w = values_of(f, names[i], "w", &m, &n);
            float *ba = values_of(f, names[i], "ba", &m, &n);
            float *want = values_of(f, names[i], "rest", &m, &n);
            Svd x = decompose(pool, w, m, n, 4, iterations);
            float *rest = rest_of(pool, &x, w, m, n, 4);
            for (int64_t k = 0; k < m * n; k++) {
                cr_assert_float_eq(rest[k], want[k], 1e-5, "%s, %d, rest %d", names[i], iterations,
                                   (int)k);
                cr_assert_float_eq(w[k] - rest[k], ba[k], 1e-5, "%s, %d, part %d", names[i],
                                   iterations, (int)k);
            }
            free(w), free(ba), free(want), free(rest);
            svd_free(&x);
        }
    pool_free(pool);
    safetensors_close(f);
    free(path);
}

/* Gaussian matrices, whose singular values hardly fall: four iterations take out 95 % of what is possible; vectors
 * are orthonormal; threads change no bit. */
Test(svd, randomised_is_nearly_exact)
{
    enum { M = 300, N = 520, R = 16 };
    float *w = xmalloc(M * N * 4);
    for (int i = 0; i < M * N; i++)
        w[i] = (float)rng_normal(3, (uint64_t)i);
    Pool *pools[2] = {pool_new(1), pool_new(3)};
    Svd exact = decompose(pools[0], w, M, N, R, 0), near = decompose(pools[0], w, M, N, R, 4),
        again = decompose(pools[1], w, M, N, R, 4);
    double part[2] = {0};
    for (int k = 0; k < R; k++) {
        part[0] += (double)exact.s[k] * (double)exact.s[k];
        part[1] += (double)near.s[k] * (double)near.s[k];
        if (k > 0) cr_expect_leq(exact.s[k], exact.s[k - 1]);
    }
    cr_expect(part[1] > 0.94 * part[0] && part[1] < 1.00001 * part[0], "%g of %g", part[1],
              part[0]);
    const Svd *both[2] = {&exact, &near};
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < R; i++)
            for (int j = 0; j < R; j++) {
                double u = 0, v = 0;
                for (int k = 0; k < M; k++)
                    u += (double)both[way]->u[k * R + i] * (double)both[way]->u[k * R + j];
                for (int k = 0; k < N; k++)
                    v += (double)both[way]->vt[i * N + k] * (double)both[way]->vt[j * N + k];
                cr_assert_float_eq(u, i == j, 1e-5, "u %d %d", i, j);
                cr_assert_float_eq(v, i == j, 1e-5, "v %d %d", i, j);
            }
    cr_expect_arr_eq(near.u, again.u, M * R * 4);
    cr_expect_arr_eq(near.vt, again.vt, R * N * 4);
    w[77] = NAN;
    float none[M * R];
    cr_expect(!svd_principal(pools[0], none, again.s, again.vt, w, M, N,
                             &(SvdOpts){.rank = R, .iterations = 1}));
    svd_free(&exact), svd_free(&near), svd_free(&again);
    pool_free(pools[0]), pool_free(pools[1]);
    free(w);
}
