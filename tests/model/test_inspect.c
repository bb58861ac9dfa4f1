/* Numbers of stored tensors, and where two sets of them part. */
#include "base/fs.h"
#include "model/inspect.h"
#include "model/inspect_source.h"
#include "tensor/convert.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static SafeTensor tensor(const char *name, SafeDType dtype, int n_dims, const int64_t *shape,
                         const void *data)
{
    SafeTensor t = {.name = name, .dtype = dtype, .n_dims = n_dims, .shape = shape, .data = data};
    t.bytes = (size_t)safe_numel(&t) * (size_t)safe_dtype_bits(dtype) / 8;
    return t;
}

static char *write(const char *dir, const char *file, const SafeTensor *t, int n)
{
    Err err = {0};
    char *path = path_join(dir, file);
    cr_assert_eq(safetensors_write(path, t, n, NULL, NULL, NULL, &err), OK, "%s", err.line);
    return path;
}

Test(inspect, numbers)
{
    char *dir = tmp_dir();
    const float f32[6] = {3, -4, NAN, INFINITY, -INFINITY, 0};
    const uint16_t bf16[2] = {bf16_from_f32(1.5f), bf16_from_f32(-2)};
    const int64_t i64[3] = {-7, 5, 1};
    const uint8_t u8[2] = {255, 1}, f8[4] = {1, 2, 3, 4};
    const double f64[1] = {1e300};
    const int64_t six[2] = {2, 3}, two[1] = {2}, three[1] = {3}, four[1] = {4}, none[1] = {0};
    const SafeTensor t[] = {
        tensor("layers.10", ST_F32, 2, six, f32), tensor("layers.9", ST_BF16, 1, two, bf16),
        tensor("ints", ST_I64, 1, three, i64),    tensor("bytes", ST_U8, 1, two, u8),
        tensor("f8", ST_F8_E4M3, 1, four, f8),    tensor("scalar", ST_F64, 0, NULL, f64),
        tensor("empty", ST_F32, 1, none, f32),
    };
    static const struct {
        const char *name;
        bool numbers;
        double norm, min, max;
        int64_t n_nan, n_inf;
    } want[] = {
        {"bytes", true, 255.00196077677496, 1, 255, 0, 0},
        {"empty", true, 0, 0, 0, 0, 0},
        {"f8", false, 0, 0, 0, 0, 0},
        {"ints", true, 8.660254037844387, -7, 5, 0, 0},
        {"layers.9", true, 2.5, -2, 1.5, 0, 0},
        {"layers.10", true, 5, -4, 3, 1, 2},
        {"scalar", true, INFINITY, 1e300, 1e300, 0, 0}, /* its square is not */
    };
    char *path = write(dir, "x.safetensors", t, 7);
    Inspection r;
    Err err = {0};
    cr_assert_eq(inspect_weights(&r, path, NULL, &err), OK, "%s", err.line);
    cr_assert_eq(r.n, 7);
    cr_expect_eq(r.kind, INSPECT_FILE);
    for (int i = 0; i < 7; i++) {
        const TensorInfo *g = &r.items[i];
        cr_assert_str_eq(g->name, want[i].name);
        cr_expect_eq(g->has_numbers, want[i].numbers, "%s", g->name);
        cr_expect(g->norm == want[i].norm || fabs(g->norm / want[i].norm - 1) < 1e-12, "%s: %.17g",
                  g->name, g->norm);
        cr_expect(g->min == want[i].min && g->max == want[i].max, "%s: %g %g", g->name, g->min,
                  g->max);
        cr_expect(g->n_nan == want[i].n_nan && g->n_inf == want[i].n_inf, "%s", g->name);
    }
    cr_expect_eq(r.numel, 18);
    cr_expect_eq(r.numel_of[ST_U8], 2);
    cr_expect_eq(r.bytes, 24 + 4 + 24 + 2 + 4 + 8);
    cr_expect(r.n_nan == 1 && r.n_inf == 2);
    inspection_clear(&r);
    free(path);
    tmp_dir_remove(dir);
}

Test(inspect, kinds)
{
    static const struct {
        const char *rel;
        InspectKind kind;
        int n;
    } cases[] = {
        {"tests/fixtures/golden/llama3-tiny", INSPECT_MODEL, 29},
        {"tests/fixtures/golden/llama3-tiny/lora_init", INSPECT_ADAPTER, 42},
        {"tests/fixtures/golden/llama3-tiny/sft_final.safetensors", INSPECT_FILE, 29},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = source_path(cases[i].rel);
        Inspection r;
        Err err = {0};
        cr_assert_eq(inspect_weights(&r, path, NULL, &err), OK, "%s", err.line);
        cr_expect_eq(r.kind, cases[i].kind);
        cr_expect_eq(r.n, cases[i].n);
        inspection_clear(&r);
        free(path);
    }
    Inspection r;
    Err err = {0};
    char *dir = tmp_dir();
    cr_expect_eq(inspect_weights(&r, dir, NULL, &err), E_INPUT);
    cr_expect(strstr(err.line, dir), "%s", err.line);
    tmp_dir_remove(dir);
}

Test(inspect, where_two_traces_part)
{
    char *a = tmp_dir(), *b = tmp_dir();
    const int64_t n = 70000; /* more than a chunk */
    float *va = xcalloc((size_t)n, sizeof *va), *vb = xcalloc((size_t)n, sizeof *vb);
    for (int64_t i = 0; i < n; i++)
        va[i] = vb[i] = (float)(i % 100);
    SafeTensor ta = tensor("out", ST_F32, 1, &n, va), tb = tensor("out", ST_F32, 1, &n, vb);
    free(write(a, "000000.embedding.safetensors", &ta, 1));
    free(write(b, "000000.embedding.safetensors", &tb, 1));
    vb[66001] += 0.5f;
    vb[3] += 0.25f;
    free(write(a, "000001.rmsnorm.safetensors", &ta, 1));
    free(write(b, "000001.rmsnorm.safetensors", &tb, 1));
    vb[0] = NAN;
    free(write(a, "000002.linear.safetensors", &ta, 1));
    free(write(b, "000002.linear.safetensors", &tb, 1));
    const int64_t shorter = 10;
    SafeTensor tc = tensor("out", ST_F32, 1, &shorter, vb);
    free(write(a, "000003.linear.safetensors", &ta, 1));
    free(write(b, "000003.linear.safetensors", &tc, 1));
    free(write(b, "000004.linear.safetensors", &tc, 1));

    DiffReport r;
    Err err = {0};
    cr_assert_eq(inspect_diff(&r, a, b, 1e-4, NULL, &err), OK, "%s", err.line);
    cr_assert_eq(r.n, 5);
    cr_expect_eq(r.first, 1);
    cr_expect_eq(r.n_different, 4);
    cr_expect_eq(r.items[0].kind, DIFF_NONE);
    cr_expect_eq(r.items[1].kind, DIFF_VALUES);
    cr_expect_str_eq(r.items[1].name, "000001.rmsnorm");
    cr_expect_eq(r.items[1].max_abs, 0.5);
    cr_expect_eq(r.items[1].at, 66001);
    cr_expect_eq(r.items[1].value_b - r.items[1].value_a, 0.5);
    cr_expect_eq(r.items[1].n_different, 2);
    cr_expect_lt(fabs(r.items[1].max_rel - 0.5 / 99), 1e-9);
    cr_expect(isinf(r.items[2].max_abs) && r.items[2].at == 0);
    cr_expect_eq(r.items[3].kind, DIFF_SHAPE);
    cr_expect_eq(r.items[4].kind, DIFF_ONLY_B);
    diff_report_clear(&r);

    cr_assert_eq(inspect_diff(&r, a, b, 0.01, NULL, &err), OK, "%s", err.line);
    cr_expect_eq(r.first, 2);
    diff_report_clear(&r);
    free(va);
    free(vb);
    tmp_dir_remove(a);
    tmp_dir_remove(b);
}

/* Names in another order, one side in bf16: compared as numbers. */
Test(inspect, other_dtypes_and_names)
{
    char *dir = tmp_dir();
    const int64_t one = 1;
    const float f = 1.00390625f; /* halfway between two bf16 numbers */
    const uint16_t h = bf16_from_f32(f);
    const SafeTensor a[] = {tensor("l.2", ST_F32, 1, &one, &f),
                            tensor("l.10", ST_F32, 1, &one, &f)};
    const SafeTensor b[] = {tensor("l.10", ST_BF16, 1, &one, &h),
                            tensor("l.3", ST_F32, 1, &one, &f)};
    char *pa = write(dir, "a.safetensors", a, 2), *pb = write(dir, "b.safetensors", b, 2);
    DiffReport r;
    Err err = {0};
    cr_assert_eq(inspect_diff(&r, pa, pb, 0.01, NULL, &err), OK, "%s", err.line);
    cr_assert_eq(r.n, 3);
    cr_expect(str_eq(r.items[0].name, "l.2") && r.items[0].kind == DIFF_ONLY_A);
    cr_expect(str_eq(r.items[1].name, "l.3") && r.items[1].kind == DIFF_ONLY_B);
    cr_expect(str_eq(r.items[2].name, "l.10") && r.items[2].kind == DIFF_NONE &&
              r.items[2].other_dtype && r.items[2].n_different == 1);
    diff_report_clear(&r);
    free(pa);
    free(pb);
    tmp_dir_remove(dir);
}

Test(inspect, order_of_names)
{
    static const char *const sorted[] = {"a",    "a.1",    "a.01", "a.2.b", "a.2.c",
                                         "a.10", "a.10.1", "b",    "b0"};
    for (size_t i = 0; i + 1 < sizeof sorted / sizeof *sorted; i++) {
        int order = weight_name_order(sorted[i], sorted[i + 1]);
        /* 1 and 01 only need to differ */
        cr_expect(i == 1 ? order != 0 : order < 0, "%s %s", sorted[i], sorted[i + 1]);
        cr_expect_eq(weight_name_order(sorted[i], sorted[i]), 0);
    }
}
