/* AdamW with states in 8 bits: against bitsandbytes' AdamW8bit, from a committed file and, where the package is installed
 * ($LORAC_PYTHON, by default python3), freshly made; against AdamW with states in f32; how codes are found without a search. */
#include "base/str.h"
#include "kernels/cuda/dynamic8.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"
#include "tests/support/bed.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t blocks_of(int64_t n)
{
    return (n + STATES_BLOCK - 1) / STATES_BLOCK;
}

static Tensor vector_of(Bed *b, DType dtype, int64_t n)
{
    Tensor *t = scope_tensor(b->inputs, dtype, 1, &n, 0, MEM_OPTIMIZER);
    tensor_zero(&b->dev, t);
    return *t;
}

static AdamwStates states_of(Bed *b, int64_t n)
{
    return (AdamwStates){vector_of(b, DT_U8, n), vector_of(b, DT_U8, n),
                         vector_of(b, DT_F32, blocks_of(n)), vector_of(b, DT_F32, blocks_of(n))};
}

static Tensor scalars_of(Bed *b, double lr, double beta1, double beta2, int t, double scale)
{
    Tensor step = vector_of(b, DT_F32, STEP_N);
    tensor_write(&b->dev, &step,
                 (float[STEP_N]){[STEP_LR] = (float)lr,
                                 [STEP_BIAS1] = (float)(1 - pow(beta1, t)),
                                 [STEP_BIAS2] = (float)(1 - pow(beta2, t)),
                                 [STEP_GRAD_SCALE] = (float)scale});
    return step;
}

/* ---- against the package ------------------------------------------------------------------------ */

static const SafeTensor *find(const SafeTensors *f, const char *name, int k)
{
    char *full = str_format("%s.%d", name, k);
    const SafeTensor *t = safetensors_find(f, full);
    cr_assert_not_null(t, "%s", full);
    free(full);
    return t;
}

static void *host_of(Bed *b, const Tensor *t)
{
    void *host = xmalloc(tensor_bytes(t));
    tensor_read(&b->dev, t, host);
    return host;
}

/* Nearly all the same: products and sums are rounded in another order there, and a number at an edge may fall to the other
 * side. */
static void expect_codes(Bed *b, const SafeTensor *want, const Tensor *got)
{
    uint8_t *codes = host_of(b, got);
    int64_t n = tensor_numel(got), other = 0;
    for (int64_t i = 0; i < n; i++) {
        int off = codes[i] - want->data[i];
        cr_expect_leq(abs(off), 1, "%s: code %d is %d, not %d", want->name, (int)i, codes[i],
                      want->data[i]);
        other += off != 0;
    }
    cr_expect_leq(other, n / 500, "%s: %d of %d codes differ", want->name, (int)other, (int)n);
    free(codes);
}

/* Relative, to `least` at least. */
static void expect_floats(Bed *b, const SafeTensor *want, const Tensor *got, double tolerance,
                          double least)
{
    float *x = host_of(b, got);
    for (int64_t i = 0; i < tensor_numel(got); i++) {
        float y;
        memcpy(&y, want->data + 4 * i, sizeof y);
        cr_expect_float_eq(x[i], y, tolerance * fmax(least, fabs((double)y)),
                           "%s[%d]: %.9g, not %.9g", want->name, (int)i, (double)x[i], (double)y);
    }
    free(x);
}

/* Each step from the package's own state before it.  Zeros have one code here and another there, where the absmax is 0. */
static void check_file(const char *path)
{
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    Bed b;
    bed_open(&b, 2);
    float c[5];
    memcpy(c, safetensors_find(f, "scalars")->data, sizeof c);
    int64_t n = safe_numel(find(f, "w", 0));
    Tensor w = vector_of(&b, DT_F32, n), grad = vector_of(&b, DT_F32, n);
    const AdamwArgs args = {c[1], c[2], c[3], 1, {{n, 1, c[4]}}};
    for (int k = 1; safetensors_count(f) > 6 * k; k++) {
        AdamwStates s = states_of(&b, n);
        tensor_write(&b.dev, &w, find(f, "w", k - 1)->data);
        tensor_write(&b.dev, &grad, find(f, "g", k)->data);
        if (k > 1) {
            tensor_write(&b.dev, &s.m, find(f, "m", k - 1)->data);
            tensor_write(&b.dev, &s.v, find(f, "v", k - 1)->data);
            tensor_write(&b.dev, &s.m_max, find(f, "m_absmax", k - 1)->data);
            tensor_write(&b.dev, &s.v_max, find(f, "v_absmax", k - 1)->data);
        }
        Tensor step = scalars_of(&b, (double)c[0], (double)c[1], (double)c[2], k, 1);
        b.dev.k->adamw(&b.dev, &w, NULL, &s, &grad, &step, &args);
        expect_floats(&b, find(f, "w", k), &w, 1e-6, 1);
        expect_floats(&b, find(f, "m_absmax", k), &s.m_max, 1e-6, 0);
        expect_floats(&b, find(f, "v_absmax", k), &s.v_max, 1e-6, 0);
        expect_codes(&b, find(f, "m", k), &s.m);
        expect_codes(&b, find(f, "v", k), &s.v);
    }
    bed_close(&b);
    safetensors_close(f);
}

Test(kernel_adamw8, equals_bitsandbytes)
{
    char *path = source_path("tests/fixtures/quant/adamw8.safetensors");
    check_file(path);
    free(path);
}

Test(kernel_adamw8, equals_the_package_here)
{
    const char *python = getenv("LORAC_PYTHON") ? getenv("LORAC_PYTHON") : "python3";
    char *probe =
        str_format("%s -c 'import bitsandbytes, torch, safetensors' >/dev/null 2>&1", python);
    int absent = system(probe);
    free(probe);
    if (absent)
        cr_skip_test("SKIPPED: %s has no bitsandbytes; the committed file was compared", python);
    char *script = source_path("tools/make_adamw8.py"), *dir = tmp_dir();
    char *out = str_format("%s/fresh.safetensors", dir);
    char *run = str_format("%s %s %s %d 2>/dev/null", python, script, out, (int)getpid());
    cr_assert_eq(system(run), 0, "%s", run);
    check_file(out);
    free(run), free(out), free(script);
    tmp_dir_remove(dir);
}

/* ---- against states in f32 ---------------------------------------------------------------------- */

/* Decoded states after one step from 0: m and v of the formulas to half a cell of the map, the sign of m always; weights as
 * with states in f32, to the bit on the CPU. */
static void first_step(int64_t n, DType w_dtype, DType grad_dtype)
{
    Bed b;
    bed_open(&b, 2);
    bool halves = w_dtype == DT_BF16, gpu = strcmp(b.dev.backend->name, "cpu") != 0;
    Tensor *start = bed_fill(&b, bed_vector(&b, n), 1, 1, 0);
    Tensor grad = vector_of(&b, grad_dtype, n), w[2], low[2];
    bed_fill(&b, &grad, 2, 0.3, 0);
    float *x = host_of(&b, start);
    uint16_t *hi_host = xmalloc((size_t)n * sizeof *hi_host);
    int16_t *low_host = xmalloc((size_t)n * sizeof *low_host);
    convert_split(hi_host, low_host, x, n);
    AdamwStates fine = {vector_of(&b, DT_F32, n), vector_of(&b, DT_F32, n), {0}, {0}},
                coarse = states_of(&b, n), *states[2] = {&fine, &coarse};
    AdamwArgs args = {0.9f, 0.95f, 1e-8f, 1, {{n, 1, 0.1f}}};
    if (n > 2 * STATES_BLOCK)
        args = (AdamwArgs){0.9f, 0.95f, 1e-8f, 2, {{2 * STATES_BLOCK, 0.5f, 0.1f}, {n, 1, 0}}};
    Tensor step = scalars_of(&b, 1e-2, 0.9, 0.95, 1, 0.5);
    for (int k = 0; k < 2; k++) {
        w[k] = vector_of(&b, w_dtype, n);
        low[k] = vector_of(&b, DT_I16, n);
        tensor_write(&b.dev, &w[k], halves ? (void *)hi_host : (void *)x);
        tensor_write(&b.dev, &low[k], low_host);
        b.dev.k->adamw(&b.dev, &w[k], halves ? &low[k] : NULL, states[k], &grad, &step, &args);
    }
    float *got[2] = {xmalloc((size_t)n * sizeof(float)), xmalloc((size_t)n * sizeof(float))};
    for (int k = 0; k < 2; k++) {
        tensor_read_f32(&b.dev, &w[k], got[k]);
        if (halves) tensor_read(&b.dev, &w[k], hi_host);
        if (halves) tensor_read(&b.dev, &low[k], low_host);
        if (halves) convert_join(got[k], hi_host, low_host, n);
    }
    float *m = host_of(&b, &fine.m), *v = host_of(&b, &fine.v), *m_max = host_of(&b, &coarse.m_max),
          *v_max = host_of(&b, &coarse.v_max), map_m[256], map_v[256];
    uint8_t *cm = host_of(&b, &coarse.m), *cv = host_of(&b, &coarse.v);
    quant_dynamic_map(map_m, true);
    quant_dynamic_map(map_v, false);
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i / STATES_BLOCK;
        double tolerance = gpu ? 1e-6 * fmax(1, fabs((double)got[0][i])) : 0;
        cr_assert_leq(fabs((double)got[1][i] - (double)got[0][i]), tolerance, "w[%d]", (int)i);
        double dm = fabs((double)(map_m[cm[i]] * m_max[k] - m[i])) / (double)m_max[k];
        double dv = fabs((double)(map_v[cv[i]] * v_max[k] - v[i])) / (double)v_max[k];
        cr_assert_leq(dm, 0.5 * 0.9 / 64 + 1e-6, "m[%d]", (int)i);
        cr_assert_leq(dv, 0.5 * 0.9 / 128 + 1e-6, "v[%d]", (int)i);
        cr_assert(m[i] >= 0 ? cm[i] >= 127 : cm[i] < 127, "m[%d] = %g has code %d", (int)i,
                  (double)m[i], cm[i]);
    }
    free(x), free(hi_host), free(low_host), free(got[0]), free(got[1]), free(m), free(v);
    free(m_max), free(v_max), free(cm), free(cv);
    bed_close(&b);
}

Test(kernel_adamw8, first_step_has_the_bits_of_f32)
{
    static const int64_t sizes[] = {1, 7, 256, 300, 5000, 70001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 4; k++)
            first_step(sizes[i], k & 1 ? DT_BF16 : DT_F32, k & 2 ? DT_BF16 : DT_F32);
}

/* The largest and the least, zeros, signs that must stay, all zeros: code by code. */
Test(kernel_adamw8, worked_block)
{
    Bed b;
    bed_open(&b, 1);
    enum { N = STATES_BLOCK + 8 };
    float g[N] = {10, -10, 0, 1e-7f, -1e-7f, -1e-30f, 5, -0.1f};
    Tensor w = vector_of(&b, DT_F32, N), grad = vector_of(&b, DT_F32, N);
    AdamwStates s = states_of(&b, N);
    tensor_write(&b.dev, &grad, g);
    const AdamwArgs args = {0.5f, 0.5f, 1e-8f, 1, {{N, 1, 0}}};
    Tensor step = scalars_of(&b, 1, 0.5, 0.5, 1, 1);
    b.dev.k->adamw(&b.dev, &w, NULL, &s, &grad, &step, &args);
    uint8_t *m = host_of(&b, &s.m), *v = host_of(&b, &s.v);
    float *m_max = host_of(&b, &s.m_max), *v_max = host_of(&b, &s.v_max);
    cr_expect_eq(m_max[0], 5.0f);
    cr_expect_eq(v_max[0], 50.0f);
    /* of the upper decade's 64 cells 0.5 lies in number 28, counted from 0; 0.01 is the end of the fifth decade: its last middle is nearest */
    const int want_m[8] = {255, 0, 127, 127, 126, 126, 127 + 64 + 28, 127 - 31};
    /* v / 50 = 1, 1, 0, 1e-16, 1e-16, 0, 0.25 and 0.0001 */
    const int want_v[8] = {255, 255, 0, 0, 0, 0, 127 + 21, 14};
    for (int i = 0; i < 8; i++) {
        cr_expect_eq(m[i], want_m[i], "m[%d]: %d, not %d", i, m[i], want_m[i]);
        cr_expect_eq(v[i], want_v[i], "v[%d]: %d, not %d", i, v[i], want_v[i]);
    }
    cr_expect_eq(m_max[1], 0.0f);
    cr_expect_eq(v_max[1], 0.0f);
    cr_expect_eq(m[STATES_BLOCK], 127);
    cr_expect_eq(v[STATES_BLOCK], 0);
    free(m), free(v), free(m_max), free(v_max);
    bed_close(&b);
}

Test(kernel_adamw8, skip_changes_nothing)
{
    Bed b;
    bed_open(&b, 1);
    Tensor w = vector_of(&b, DT_F32, 300), grad = vector_of(&b, DT_F32, 300);
    AdamwStates s = states_of(&b, 300);
    uint8_t sevens[300];
    memset(sevens, 7, sizeof sevens);
    tensor_write(&b.dev, &s.m, sevens);
    bed_fill(&b, &grad, 1, 1, 0);
    Tensor step = vector_of(&b, DT_F32, STEP_N);
    tensor_write(&b.dev, &step, (float[STEP_N]){1, 1, 1, 1, 1});
    const AdamwArgs args = {0.9f, 0.9f, 1e-8f, 1, {{300, 1, 0}}};
    b.dev.k->adamw(&b.dev, &w, NULL, &s, &grad, &step, &args);
    uint8_t *m = host_of(&b, &s.m);
    float *m_max = host_of(&b, &s.m_max), *x = host_of(&b, &w);
    cr_expect_arr_eq(m, sevens, sizeof sevens);
    cr_expect_eq(m_max[0], 0.0f);
    for (int i = 0; i < 300; i++)
        cr_expect_eq(x[i], 0.0f);
    free(m), free(m_max), free(x);
    bed_close(&b);
}

/* ---- without a search --------------------------------------------------------------------------- */

static int found(const float *edges, int n, int cells, float x, float log_error)
{
    uint32_t decade = dynamic_decade(log2f(x) + log_error) - DYNAMIC_ROUND;
    cr_assert(decade < DYNAMIC_DECADES, "decade %u", decade);
    int k = (int)(dynamic_guess(x, dynamic_line((int)decade, cells), n) - DYNAMIC_ROUND);
    cr_assert(k >= 0 && k < n, "%a: guess %d", (double)x, k);
    return x > edges[k + 1] ? k + 1 : k;
}

static void expect_found(const float *magnitudes, int n, int cells)
{
    float edges[DYNAMIC_V_N + 1];
    for (int k = 0; k <= n; k++)
        edges[k] = dynamic_edge(magnitudes, n, k);
    for (int sign = -1; sign <= 1; sign++) {
        float error = (float)sign * 1e-5f; /* of a GPU's logarithm, and more */
        /* around every edge, every magnitude and every end of a decade */
        for (int k = 0; k < 2 * n + DYNAMIC_DECADES; k++) {
            float at = k < n       ? edges[k + 1]
                       : k < 2 * n ? magnitudes[k - n]
                                   : powf(10, (float)(k - 2 * n - DYNAMIC_DECADES));
            float x = at;
            for (int i = 0; i < 40; i++)
                x = nextafterf(x, 0);
            for (int i = 0; i < 80; i++, x = nextafterf(x, 2))
                if (x <= 1.0f)
                    cr_assert_eq(found(edges, n, cells, x, error), quant_nearest(magnitudes, n, x),
                                 "%a", (double)x);
        }
        for (int i = 0; i < 400000; i++) {
            float x = (float)exp(-20 * rng_uniform(7, (uint64_t)i));
            cr_assert_eq(found(edges, n, cells, x, error), quant_nearest(magnitudes, n, x), "%a",
                         (double)x);
        }
        cr_assert_eq(found(edges, n, cells, 0, error), 0);
        cr_assert_eq(found(edges, n, cells, nextafterf(1, 2), error), n - 1);
    }
}

Test(kernel_adamw8, codes_are_found_without_a_search)
{
    float map[256];
    quant_dynamic_map(map, true);
    expect_found(map + 127, DYNAMIC_M_N, DYNAMIC_M_CELLS);
    quant_dynamic_map(map, false);
    expect_found(map, DYNAMIC_V_N, DYNAMIC_V_CELLS);
}
