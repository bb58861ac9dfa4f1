/* Encoding and decoding of quantised matrices: published tables, worked cases, and the bytes of the bitsandbytes package, from a
 * committed file and, where the package is installed ($LORAC_PYTHON, by default python3), freshly made. */
#include "base/str.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"
#include "tests/support/groups.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A part that stands alone, in packed bytes of its own. */
static Tensor *alone(Bed *b, QuantPart *q)
{
    size_t bytes = 0;
    quant_place(q, &bytes);
    int64_t n = (int64_t)bytes;
    return scope_tensor(b->inputs, DT_U8, 1, &n, 0, MEM_WEIGHT);
}

static uint8_t *read_packed(Bed *b, const Tensor *packed)
{
    uint8_t *host = xmalloc((size_t)tensor_numel(packed));
    tensor_read(&b->dev, packed, host);
    return host;
}

/* ---- against the package ------------------------------------------------------------------------ */

typedef struct Package {
    Bed bed;
    SafeTensors *file;
} Package;

static const SafeTensor *find(const Package *p, const char *name, const char *suffix)
{
    char *full = str_format("%s%s", name, suffix);
    const SafeTensor *t = safetensors_find(p->file, full);
    free(full);
    return t;
}

static bool same(const Package *p, const char *name, const char *suffix, const void *got,
                 size_t bytes)
{
    const SafeTensor *t = find(p, name, suffix);
    cr_assert(t, "%s%s", name, suffix);
    cr_expect_eq(t->bytes, bytes, "%s%s: %zu bytes, not %zu", name, suffix, bytes, t->bytes);
    if (t->bytes != bytes) return false;
    const uint8_t *g = got;
    for (size_t i = 0; i < bytes; i++)
        if (g[i] != t->data[i]) {
            cr_expect(false, "%s%s: byte %zu is %02x, not %02x", name, suffix, i, g[i], t->data[i]);
            return false;
        }
    return true;
}

static void check_case(Package *p, const char *name)
{
    const SafeTensor *w = find(p, "w", strchr(name, '.'));
    cr_assert(w, "%s", name);
    QuantPart q = {.rows = w->shape[0], .cols = w->shape[1], .block = QUANT_BLOCK};
    const char *block = strstr(name, ".block-");
    if (block) q.block = strtoll(block + strlen(".block-"), NULL, 10);
    q.type = str_starts(name, "nf4")    ? QUANT_NF4
             : str_starts(name, "fp4")  ? QUANT_FP4
             : str_starts(name, "int8") ? QUANT_INT8
                                        : QUANT_FP8;
    q.nested = strstr(name, "nested") != NULL;
    Bed *b = &p->bed;
    Tensor *packed = alone(b, &q);
    Tensor *src = bed_matrix(b, q.rows, q.cols, 5), *y = bed_matrix(b, q.rows, q.cols, 3);
    float *numbers = xmalloc((size_t)quant_numel(&q) * sizeof *numbers);
    convert_to_f32(numbers, w->data, w->dtype == ST_BF16 ? DT_BF16 : DT_F32, quant_numel(&q));
    tensor_write(&b->dev, src, numbers);
    free(numbers);
    b->dev.k->quantize(&b->dev, packed, &q, src);
    b->dev.k->dequantize(&b->dev, y, packed, &q, 1);
    uint8_t *got = read_packed(b, packed);
    same(p, name, ".weight", got + q.codes, quant_codes_bytes(&q));
    const char *scales = q.type == QUANT_INT8  ? ".SCB"
                         : q.type == QUANT_FP8 ? ".weight_scale"
                                               : ".weight.absmax";
    bool zeros =
        strstr(name, "zeros") != NULL; /* the package's CPU column keeps 1e-38 of a short block */
    if (!zeros) same(p, name, scales, got + q.scales, quant_scales_bytes(&q));
    if (quant_is_4bit(q.type)) same(p, name, ".weight.quant_map", got + q.tables, 16 * 4);
    if (q.nested) {
        same(p, name, ".weight.nested_absmax", got + q.nested_scales, quant_nested_bytes(&q));
        same(p, name, ".weight.nested_quant_map", got + q.tables + 16 * 4, 256 * 4);
        const SafeTensor *state =
            find(p, name,
                 q.type == QUANT_NF4 ? ".weight.quant_state.bitsandbytes__nf4"
                                     : ".weight.quant_state.bitsandbytes__fp4");
        char text[512];
        cr_assert(state && state->bytes < sizeof text);
        memcpy(text, state->data, state->bytes);
        text[state->bytes] = 0;
        float offset,
            want = strtof(strstr(text, "nested_offset\": ") + strlen("nested_offset\": "), NULL);
        memcpy(&offset, got + q.tables + (16 + 256) * 4, sizeof offset);
        cr_expect_eq(offset, want, "%s: offset %.9g, not %.9g", name, (double)offset, (double)want);
    }
    const SafeTensor *value = find(p, name, ".value");
    float *values = bed_read(b, y);
    const float *expected = value ? (const float *)(const void *)value->data : NULL;
    for (int64_t i = 0; value && i < quant_numel(&q); i++)
        if (values[i] != expected[i]) {
            cr_expect(false, "%s: value %lld is %.9g, not %.9g", name, (long long)i,
                      (double)values[i], (double)expected[i]);
            break;
        }
    cr_expect(bed_pad_intact(b, y), "%s: wrote the pad", name);
    free(values);
    free(got);
}

enum { N_CASES = 28 + 7 * 4 };

static int check_file(const char *path)
{
    Package p = {0};
    Err err = {0};
    cr_assert_eq(safetensors_open(&p.file, path, &err), OK, "%s", err.line);
    bed_open(&p.bed, 2);
    int n = 0;
    for (int i = 0; i < safetensors_count(p.file); i++) {
        const char *name = safetensors_at(p.file, i)->name;
        if (!str_ends(name, ".weight")) continue;
        char *stem = str_format("%.*s", (int)(strlen(name) - strlen(".weight")), name);
        check_case(&p, stem);
        free(stem);
        n++;
    }
    float map[256], values[256];
    quant_dynamic_map(map, true);
    same(&p, "dynamic.signed", "", map, sizeof map);
    quant_dynamic_map(map, false);
    same(&p, "dynamic.unsigned", "", map, sizeof map);
    for (int i = 0; i < 256; i++)
        values[i] = fp8_to_f32((uint8_t)i);
    const float *want = (const float *)(const void *)find(&p, "fp8.values", "")->data;
    for (int i = 0; i < 256; i++)
        cr_expect(values[i] == want[i] || (isnan(values[i]) && isnan(want[i])), "fp8 code %d", i);
    bed_close(&p.bed);
    safetensors_close(p.file);
    return n;
}

Test(kernel_quant, equals_bitsandbytes_bytes)
{
    char *path = source_path("tests/fixtures/quant/bitsandbytes.safetensors");
    cr_expect_eq(check_file(path), N_CASES);
    free(path);
}

Test(kernel_quant, equals_the_package_here)
{
    const char *python = getenv("LORAC_PYTHON") ? getenv("LORAC_PYTHON") : "python3";
    char *probe =
        str_format("%s -c 'import bitsandbytes, torch, safetensors' >/dev/null 2>&1", python);
    int absent = system(probe);
    free(probe);
    if (absent)
        cr_skip_test("SKIPPED: %s has no bitsandbytes; the committed file was compared", python);
    char *script = source_path("tools/make_quant.py"), *dir = tmp_dir();
    char *out = str_format("%s/fresh.safetensors", dir);
    char *run = str_format("%s %s %s %d 2>/dev/null", python, script, out, (int)getpid());
    cr_assert_eq(system(run), 0, "%s", run);
    cr_expect_eq(check_file(out), N_CASES);
    free(run), free(out), free(dir), free(script);
}

/* ---- worked cases ------------------------------------------------------------------------------- */

Test(kernel_quant, thresholds_go_down)
{
    const float *nf4 = quant_table(QUANT_NF4), *fp4 = quant_table(QUANT_FP4);
    for (int i = 0; i < 16; i++) {
        cr_expect_eq(quant_encode4(QUANT_NF4, nf4, nf4[i]), i);
        int got = quant_encode4(QUANT_FP4, fp4, fp4[i]);
        cr_expect_eq(fp4[got], fp4[i]);
    }
    for (int i = 0; i + 1 < 16; i++) {
        float middle = (nf4[i] + nf4[i + 1]) * 0.5f;
        cr_expect_eq(quant_encode4(QUANT_NF4, nf4, middle), i, "a tie goes to the lower code");
        cr_expect_eq(quant_encode4(QUANT_NF4, nf4, nextafterf(middle, 2)), i + 1);
    }
    cr_expect_eq(quant_encode4(QUANT_NF4, nf4, 0), 7);
}

/* 0x3f800000 is 1: the first element lies in the high nibble. */
Test(kernel_quant, worked_block)
{
    Bed b;
    bed_open(&b, 1);
    QuantPart q = {.type = QUANT_NF4, .rows = 1, .cols = 5, .block = 64};
    Tensor *packed = alone(&b, &q), *x = bed_matrix(&b, 1, 5, 0), *y = bed_matrix(&b, 1, 5, 0);
    tensor_write(&b.dev, x, (const float[]){-4, 4, 0, 1, 2});
    b.dev.k->quantize(&b.dev, packed, &q, x);
    uint8_t *got = read_packed(&b, packed);
    cr_expect_eq(got[q.codes], 0x0f);     /* -1, 1 */
    cr_expect_eq(got[q.codes + 1], 0x7a); /* 0; 0.25 is nearer to 0.246 */
    cr_expect_eq(got[q.codes + 2], 0xc7); /* 0.5 is nearer to 0.441; the spare half */
    b.dev.k->dequantize(&b.dev, y, packed, &q, 1);
    float *v = bed_read(&b, y);
    const float *t = quant_table(QUANT_NF4), want[] = {-4, 4, 0, 4 * t[10], 4 * t[12]};
    for (int i = 0; i < 5; i++)
        cr_expect_eq(v[i], want[i], "%d: %g", i, (double)v[i]);
    free(v), free(got);
    bed_close(&b);
}

/* Just below -41.5: 127 / absmax in one step is another float than the reciprocal times 127, and gives -42. */
Test(kernel_quant, int8_near_a_tie)
{
    enum { COLS = 64 };
    Bed b;
    bed_open(&b, 1);
    QuantPart q = {.type = QUANT_INT8, .rows = 1, .cols = COLS, .block = COLS};
    Tensor *packed = alone(&b, &q), *w = bed_matrix(&b, 1, COLS, 0);
    float x[COLS] = {-0x1.374p-4f, 0x1.dc4p-3f}, scb;
    tensor_write(&b.dev, w, x);
    b.dev.k->quantize(&b.dev, packed, &q, w);
    uint8_t *got = read_packed(&b, packed);
    memcpy(&scb, got + q.scales, sizeof scb);
    cr_expect((int8_t)got[q.codes] == -41 && (int8_t)got[q.codes + 1] == 127 && scb == x[1],
              "%d %d %g", (int8_t)got[q.codes], (int8_t)got[q.codes + 1], (double)scb);
    free(got);
    bed_close(&b);
}

Test(kernel_quant, fp8_rounds_to_even)
{
    static const struct {
        float x;
        uint8_t code;
    } cases[] = {
        {0, 0},          {-0.0f, 0x80},   {1, 0x38},       {448, 0x7e},     {1e9f, 0x7e},
        {-1e9f, 0xfe},   {0x1p-9f, 1},    {0x1p-10f, 0},   {0x1.8p-10f, 1}, {0x1.8p-9f, 2},
        {1.0625f, 0x38}, {1.1875f, 0x3a}, {-1.125f, 0xb9}, {464, 0x7e},     {0x1p-6f, 8},
        {0x1.fp-7f, 8},  {0x1.ep-7f, 8},  {0x1.cp-7f, 7},  {15.9f, 0x58},   {0x1p-20f, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(fp8_from_f32(cases[i].x), cases[i].code, "%g: %02x", (double)cases[i].x,
                     fp8_from_f32(cases[i].x));
    for (int i = 0; i < 256; i++)
        if ((i & 0x7f) != 0x7f) cr_expect_eq(fp8_from_f32(fp8_to_f32((uint8_t)i)), i);
    cr_expect_eq(fp8_from_f32(NAN) & 0x7f, 0x7f);
}

/* scale (q - zero), columns in groups or in the order of a permutation. */
static void check_groups(QuantType type, bool ordered, int64_t block)
{
    enum { R = 6, C = 40 };
    Bed b;
    bed_open(&b, 2);
    QuantPart q = {.type = type, .rows = R, .cols = C, .block = block, .ordered = ordered};
    Tensor *packed = alone(&b, &q), *y = bed_matrix(&b, R, C, 2);
    int64_t n = quant_n_scales(&q), row_bytes = type == QUANT_GROUP4 ? C / 2 : C;
    uint8_t *host = xcalloc((size_t)tensor_numel(packed), 1);
    double *want = xcalloc(R * C, sizeof *want);
    for (int r = 0; r < R; r++)
        for (int64_t g = 0; g < n; g++) {
            uint16_t scale = f16_from_f32(0.01f * (float)(r + 1) + 0.003f * (float)g);
            memcpy(host + q.scales + 2 * (r * n + g), &scale, 2);
            host[q.zeros + (size_t)(r * n + g)] = (uint8_t)(3 + r + g);
        }
    for (int c = 0; c < C; c++) {
        int32_t group = (int32_t)(ordered ? (7 * c) % n : c / block);
        if (ordered) memcpy(host + q.groups + 4 * c, &group, 4);
        for (int r = 0; r < R; r++) {
            int code = (5 * r + 3 * c) % (type == QUANT_GROUP4 ? 16 : 256);
            uint8_t *at = host + q.codes + r * row_bytes;
            if (type == QUANT_GROUP8)
                at[c] = (uint8_t)code;
            else
                at[c / 2] |= (uint8_t)(code << (c % 2 * 4));
            float scale = f16_to_f32(f16_from_f32(0.01f * (float)(r + 1) + 0.003f * (float)group));
            want[r * C + c] = (double)scale * (code - (3 + r + group));
        }
    }
    tensor_write(&b.dev, packed, host);
    b.dev.k->dequantize(&b.dev, y, packed, &q, 1);
    float *got = bed_read(&b, y);
    for (int i = 0; i < R * C; i++)
        cr_expect_eq(got[i], (float)want[i], "%s %d %d: %d", quant_type_name(type), ordered,
                     (int)block, i);
    free(got), free(host), free(want);
    bed_close(&b);
}

Test(kernel_quant, groups)
{
    for (int type = QUANT_GROUP4; type <= QUANT_GROUP8; type++)
        for (int ordered = 0; ordered < 2; ordered++) {
            check_groups(type, ordered, 8);
            check_groups(type, ordered, 16); /* the last group is short */
            check_groups(type, ordered, 40);
        }
}

/* ---- LLM.int8 ----------------------------------------------------------------------------------- */

static void check_mixed(Package *p, const char *name, bool add)
{
    Bed *b = &p->bed;
    const SafeTensor *x = find(p, name, ".x"), *w = find(p, name, ".weight"),
                     *y = find(p, name, ".y"), *scb = find(p, name, ".SCB");
    cr_assert(x && w && y && scb, "%s", name);
    int64_t n = x->shape[0], rows = w->shape[0], cols = w->shape[1];
    QuantPart q = {.type = QUANT_INT8, .rows = rows, .cols = cols, .block = cols};
    Tensor *packed = alone(b, &q), *in = bed_matrix(b, n, cols, 5),
           *out = bed_matrix(b, n, rows, 3);
    Tensor *plus = add ? bed_fill(b, bed_matrix(b, n, rows, 0), 4, 1, 0) : NULL;
    uint8_t *host = xcalloc((size_t)tensor_numel(packed), 1);
    memcpy(host + q.codes, w->data, w->bytes);
    memcpy(host + q.scales, scb->data, scb->bytes);
    tensor_write(&b->dev, packed, host);
    tensor_write(&b->dev, in, x->data);
    b->dev.k->quant_mixed(&b->dev, out, plus, in, packed, &q, 6);
    float *got = bed_read(b, out), *more = plus ? bed_read(b, plus) : NULL;
    double *want = xmalloc((size_t)(n * rows) * sizeof *want);
    for (int64_t i = 0; i < n * rows; i++) {
        float v;
        memcpy(&v, y->data + 4 * i, sizeof v);
        want[i] = (double)v + (more ? (double)more[i] : 0);
    }
    cr_expect(close_enough(name, got, want, n * rows, close_tolerance(DT_F32, cols)), "%s", name);
    cr_expect(bed_pad_intact(b, out), "%s: wrote the pad", name);
    free(host), free(got), free(more), free(want);
}

/* Outliers in some columns, none, all; a row of zeros, one row, odd widths. */
Test(kernel_quant, mixed_is_llm_int8)
{
    static const char *const names[] = {"some", "none", "one", "odd", "all", "large"};
    char *path = source_path("tests/fixtures/quant/int8_mixed.safetensors");
    Package p = {0};
    Err err = {0};
    cr_assert_eq(safetensors_open(&p.file, path, &err), OK, "%s", err.line);
    bed_open(&p.bed, 2);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_mixed(&p, names[i], false);
        check_mixed(&p, names[i], true);
    }
    bed_close(&p.bed);
    safetensors_close(p.file);
    free(path);
}

/* ---- products ----------------------------------------------------------------------------------- */

/* more: 4 bits with nested scales, groups with columns in an order of their own. */
static void check_matvec(Bed *b, QuantType type, int64_t block, bool more, int64_t rows,
                         int64_t cols, int64_t n, float beta)
{
    QuantPart q = {.type = type, .rows = rows, .cols = cols, .block = block};
    q.nested = more && quant_is_4bit(type);
    q.ordered = more && quant_is_group(type);
    Tensor *packed = alone(b, &q);
    Tensor *w = bed_matrix(b, rows, cols, 0);
    Tensor *x = bed_fill(b, bed_matrix(b, n, cols, 8), 2, 1, 0);
    Tensor *y = bed_matrix(b, n, rows, 4);
    if (beta != 0) bed_fill(b, y, 3, 1, 0);
    float *old = bed_read(b, y);
    if (quant_is_group(type)) {
        uint8_t *host = xcalloc((size_t)tensor_numel(packed), 1);
        groups_draw(host, &q, 1);
        tensor_write(&b->dev, packed, host);
        free(host);
    } else {
        Tensor *src = bed_fill(b, bed_matrix(b, rows, cols, 0), 1, 0.1, 0);
        b->dev.k->quantize(&b->dev, packed, &q, src);
    }
    b->dev.k->dequantize(&b->dev, w, packed, &q, 1);
    b->dev.k->quant_matvec(&b->dev, y, beta != 0 ? y : NULL, x, NULL, packed, &q, 1);
    float *hw = bed_read(b, w), *hx = bed_read(b, x), *got = bed_read(b, y);
    double *want = xcalloc((size_t)(n * rows), sizeof *want);
    for (int64_t t = 0; t < n; t++)
        for (int64_t r = 0; r < rows; r++) {
            double sum = beta != 0 ? (double)beta * (double)old[t * rows + r] : 0;
            for (int64_t i = 0; i < cols; i++)
                sum += (double)hx[t * cols + i] * (double)hw[r * cols + i];
            want[t * rows + r] = sum;
        }
    char *name = str_format("%s %lldx%lld n %lld", quant_type_name(type), (long long)rows,
                            (long long)cols, (long long)n);
    cr_expect(close_enough(name, got, want, n * rows, close_tolerance(DT_F32, cols)), "%s", name);
    cr_expect(bed_pad_intact(b, y), "%s: wrote the pad", name);
    free(name), free(hw), free(hx), free(got), free(want), free(old);
}

/* A norm before a product gives what norm and product give. */
Test(kernel_quant, matvec_norms_first)
{
    Bed b;
    bed_open(&b, 2);
    enum { ROWS = 32, COLS = 256 };
    const float eps = 0.1f;
    for (int type = QUANT_NF4; type <= QUANT_FP8; type++)
        for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++) {
            QuantPart q = {.type = type, .rows = ROWS, .cols = COLS, .block = QUANT_BLOCK};
            Tensor *packed = alone(&b, &q);
            Tensor *src = bed_fill(&b, bed_matrix(&b, ROWS, COLS, 0), 1, 0.1, 0);
            Tensor *x = bed_fill(&b, bed_matrix(&b, n, COLS, 8), 2, 1, 0);
            Tensor *w = bed_fill(&b, bed_vector(&b, COLS), 3, 0.2, 1);
            Tensor *h = bed_matrix(&b, n, COLS, 0), *rstd = bed_vector(&b, n);
            Tensor *want = bed_matrix(&b, n, ROWS, 0), *got = bed_matrix(&b, n, ROWS, 0);
            const NormBefore norm = {
                .w = w, .eps = eps, .y = bed_matrix(&b, n, COLS, 0), .rstd = bed_vector(&b, n)};
            const Kernels *k = b.dev.k;
            k->quantize(&b.dev, packed, &q, src);
            k->rmsnorm_fwd(&b.dev, h, rstd, x, w, eps);
            k->quant_matvec(&b.dev, want, NULL, h, NULL, packed, &q, 1);
            k->quant_matvec(&b.dev, got, NULL, x, &norm, packed, &q, 1);
            float *vw = bed_read(&b, want), *vg = bed_read(&b, got);
            cr_expect_eq(memcmp(vw, vg, (size_t)(n * ROWS) * sizeof *vw), 0, "%s, %lld rows",
                         quant_type_name(type), (long long)n);
            free(vw), free(vg);
        }
    bed_close(&b);
}

/* Three parts of one matrix, encoded alike or not, are what each of them is alone. */
static void check_parts(Bed *b, const QuantType types[3], bool nested, int64_t cols)
{
    static const int64_t rows[3] = {32, 16, 48};
    enum { ALL = 96, N = 3 };
    QuantPart q[3];
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        q[i] = (QuantPart){.type = types[i], .rows = rows[i], .cols = cols, .block = QUANT_BLOCK};
        q[i].nested = nested && quant_is_4bit(types[i]);
        quant_place(&q[i], &bytes);
    }
    int64_t n = (int64_t)bytes, row0 = 0;
    Tensor *packed = scope_tensor(b->inputs, DT_U8, 1, &n, 0, MEM_WEIGHT);
    Tensor *all = bed_matrix(b, ALL, cols, 8), *one = bed_matrix(b, ALL, cols, 8);
    Tensor *x = bed_fill(b, bed_matrix(b, N, cols, 8), 2, 1, 0);
    Tensor *add = bed_fill(b, bed_matrix(b, N, ALL, 0), 4, 1, 0);
    Tensor *y = bed_matrix(b, N, ALL, 4), *z = bed_matrix(b, N, ALL, 4);
    for (int i = 0; i < 3; i++) {
        Tensor *src =
            bed_fill(b, bed_matrix(b, rows[i], cols, 0), 7 + (uint64_t)i, 0.1 * (i + 1), 0);
        b->dev.k->quantize(&b->dev, packed, &q[i], src);
        Tensor part = tensor_slice_rows(one, row0, rows[i]),
               z_i = tensor_slice_cols(z, row0, rows[i]);
        Tensor add_i = tensor_slice_cols(add, row0, rows[i]);
        b->dev.k->dequantize(&b->dev, &part, packed, &q[i], 1);
        b->dev.k->quant_matvec(&b->dev, &z_i, &add_i, x, NULL, packed, &q[i], 1);
        row0 += rows[i];
    }
    b->dev.k->dequantize(&b->dev, all, packed, q, 3);
    b->dev.k->quant_matvec(&b->dev, y, add, x, NULL, packed, q, 3);
    float *va = bed_read(b, all), *vo = bed_read(b, one), *vy = bed_read(b, y),
          *vz = bed_read(b, z);
    cr_expect_eq(memcmp(va, vo, (size_t)(ALL * cols) * sizeof *va), 0, "%s, %s: values",
                 quant_type_name(types[0]), quant_type_name(types[2]));
    cr_expect_eq(memcmp(vy, vz, N * ALL * sizeof *vy), 0, "%s, %s: products",
                 quant_type_name(types[0]), quant_type_name(types[2]));
    cr_expect(bed_pad_intact(b, all) && bed_pad_intact(b, y));
    free(va), free(vo), free(vy), free(vz);
}

Test(kernel_quant, parts_together_are_the_parts)
{
    Bed b;
    bed_open(&b, 2);
    for (int type = QUANT_NF4; type <= QUANT_FP8; type++)
        for (int64_t cols = 128; cols <= 200; cols += 72)
            for (int nested = 0; nested < 2; nested++) {
                const QuantType alike[] = {type, type, type};
                const QuantType mixed[] = {type, type, type == QUANT_NF4 ? QUANT_FP4 : QUANT_NF4};
                check_parts(&b, alike, nested, cols);
                check_parts(&b, mixed, nested, cols);
            }
    bed_close(&b);
}

Test(kernel_quant, matvec_is_the_product)
{
    Bed b;
    bed_open(&b, 2);
    for (int type = QUANT_NF4; type <= QUANT_FP8; type++)
        for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++) {
            check_matvec(&b, type, QUANT_BLOCK, false, 96, 128, n, 0);
            check_matvec(&b, type, QUANT_BLOCK, type <= QUANT_FP4, 80, 192, n, 1);
            check_matvec(&b, type, QUANT_BLOCK, false, 5, 67, n, 1);
            check_matvec(&b, type, QUANT_BLOCK, type <= QUANT_FP4, 16, 4160, n, 0);
        }
    for (int type = QUANT_GROUP4; type <= QUANT_GROUP8; type++)
        for (int64_t n = 1; n <= QUANT_MATVEC_ROWS; n++)
            for (int ordered = 0; ordered < 2; ordered++) {
                check_matvec(&b, type, 32, ordered, 96, 128, n, 0);
                check_matvec(&b, type, 128, ordered, 80, 256, n, 1);
                check_matvec(&b, type, 192, ordered, 16, 192, n, 0); /* one group a row */
                check_matvec(&b, type, 64, ordered, 5, 67, n, 1);
            }
    for (int64_t block = QUANT_LEAST_BLOCK; block <= QUANT_MOST_BLOCK; block *= 2) {
        check_matvec(&b, QUANT_NF4, block, true, 48, 192, 2, 0);
        check_matvec(&b, QUANT_FP4, block, false, 5, 67, 1, 1);
    }
    bed_close(&b);
}
