#include "autograd/ops.h"
#include "tests/support/close.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>
#include <stdlib.h>

typedef struct Adapted {
    int n_slices;
    int64_t row0[LORA_MAX_SLICES];
    float dropout[LORA_MAX_SLICES];
    bool bias, residual;
} Adapted;

static const int32_t lens[] = {3, 1, 2};

/* in: x, w, (a, b) of each slice, then the bias and the residual where there are such. */
static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Adapted *t = ud;
    BedDocs docs;
    bed_docs(b, &docs, 3, lens);
    LoraSlice slices[LORA_MAX_SLICES];
    for (int i = 0; i < t->n_slices; i++)
        slices[i] = (LoraSlice){in[2 + 2 * i],   in[3 + 2 * i], t->row0[i],
                                0.5f + (float)i, t->dropout[i], (uint64_t)i};
    int at = 2 + 2 * t->n_slices;
    Tensor *bias = t->bias ? in[at++] : NULL, *residual = t->residual ? in[at] : NULL;
    out[0] = op_linear_lora(&b->ctx, in[0], in[1], bias, residual, slices, t->n_slices,
                            docs.samples, docs.positions);
}

static const Adapted one = {1, {0}}, last_rows = {1, {5}}, three = {3, {0, 4, 6}},
                     dropped = {1, {2}, {0.5f}}, mixed = {3, {0, 4, 6}, {0.3f, 0, 0.6f}},
                     all = {1, {0}, {0.25f}, true, true};

#define AB(i, rows, ...)                                                                           \
    {"a" #i, 2, 7, __VA_ARGS__},                                                                   \
    {                                                                                              \
        "b" #i, rows, 2, __VA_ARGS__                                                               \
    }

static const GradCase cases[] = {
    {"whole matrix", &one, .in = {{"x", 6, 7}, {"w", 8, 7}, AB(0, 8, 0)}},
    {"last rows", &last_rows, .in = {{"x", 6, 7}, {"w", 8, 7}, AB(0, 3, 0)}},
    {"three slices", &three,
     .in = {{"x", 6, 7}, {"w", 8, 7}, AB(0, 4, 0), AB(1, 2, 0), AB(2, 2, 0)}},
    {"dropout", &dropped, .in = {{"x", 6, 7}, {"w", 8, 7}, AB(0, 6, 0)}},
    {"dropout in some, params, frozen base", &mixed,
     .in = {{"x", 6, 7},
            {"w", 8, 7, .frozen = true, .param = true},
            AB(0, 4, 0, .param = true),
            AB(1, 2, 0, .param = true),
            AB(2, 2, 0, .param = true)}},
    {"pitch, bias, residual, twice", &all,
     .in = {{"x", 6, 7, .pad = 24},
            {"w", 8, 7, .pad = 24},
            AB(0, 8, 24, .param = true),
            {"bias", 8},
            {"residual", 6, 8, .pad = 24}},
     .twice = true},
    {"frozen x, as in a first block", &mixed,
     .in = {{"x", 6, 7, .frozen = true},
            {"w", 8, 7, .frozen = true, .param = true},
            AB(0, 4, 0, .param = true),
            AB(1, 2, 0, .param = true),
            AB(2, 2, 0, .param = true)}},
    {"frozen adapter", &dropped, .in = {{"x", 6, 7}, {"w", 8, 7}, AB(0, 6, 0, .frozen = true)}},
    {"b alone", &one,
     .in = {{"x", 6, 7, .frozen = true},
            {"w", 8, 7, .frozen = true},
            {"a0", 2, 7, .frozen = true},
            {"b0", 8, 2}}},
};

Test(linear_lora, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}

/* What it computes: x (w + scale b a)^T on the slice's rows, and without an adapter's rows just x w^T. */
Test(linear_lora, is_the_linear_op_of_the_merged_matrix)
{
    enum { N = 6, I = 7, O = 8, ROW0 = 5, ROWS = 3, R = 2 };
    Bed b;
    bed_open(&b, 1);
    Tensor *x = bed_fill(&b, bed_matrix(&b, N, I, 0), 1, 1, 0),
           *w = bed_fill(&b, bed_matrix(&b, O, I, 0), 2, 1, 0);
    Tensor *la = bed_fill(&b, bed_matrix(&b, R, I, 0), 3, 1, 0),
           *lb = bed_fill(&b, bed_matrix(&b, ROWS, R, 0), 4, 1, 0);
    LoraSlice slice = {.a = la, .b = lb, .row0 = ROW0, .scale = 0.5f};
    Tensor *y = op_linear_lora(&b.ctx, x, w, NULL, NULL, &slice, 1, NULL, NULL);
    float *hx = bed_read(&b, x), *hw = bed_read(&b, w), *ha = bed_read(&b, la),
          *hb = bed_read(&b, lb);
    double want[N * O];
    for (int n = 0; n < N; n++) {
        for (int o = 0; o < O; o++) {
            want[n * O + o] = 0;
            for (int i = 0; i < I; i++) {
                double merged = (double)hw[o * I + i];
                for (int r = 0; r < R && o >= ROW0; r++)
                    merged += 0.5 * (double)hb[(o - ROW0) * R + r] * (double)ha[r * I + i];
                want[n * O + o] += (double)hx[n * I + i] * merged;
            }
        }
    }
    float *got = bed_read(&b, y);
    cr_expect(close_enough("y", got, want, N * O, close_tolerance(DT_F32, I)));
    free(hx), free(hw), free(ha), free(hb), free(got);
    bed_close(&b);
}

/* PEFT draws a mask for each target module, and the input of the base product is not dropped. */
Test(linear_lora, each_site_has_its_own_mask_and_the_base_none)
{
    Bed b;
    bed_open(&b, 1);
    BedDocs docs;
    bed_docs(&b, &docs, 3, lens);
    Tensor *x = bed_fill(&b, bed_matrix(&b, 6, 32, 0), 1, 1, 0),
           *w = bed_fill(&b, bed_matrix(&b, 4, 32, 0), 2, 0, 0);
    Tensor *la = bed_fill(&b, bed_matrix(&b, 2, 32, 0), 3, 1, 0),
           *lb = bed_fill(&b, bed_matrix(&b, 4, 2, 0), 4, 1, 0);
    float *y[4];
    static const struct {
        float dropout;
        uint64_t site, key;
    } runs[] = {{0.5f, 1, 7}, {0.5f, 2, 7}, {0.5f, 1, 8}, {0.5f, 1, 7}};
    for (int i = 0; i < 4; i++) {
        b.ctx.key = runs[i].key;
        LoraSlice slice = {la, lb, 0, 1, runs[i].dropout, runs[i].site};
        y[i] = bed_read(
            &b, op_linear_lora(&b.ctx, x, w, NULL, NULL, &slice, 1, docs.samples, docs.positions));
    }
    cr_expect_arr_neq(y[0], y[1], 24 * sizeof(float), "another site");
    cr_expect_arr_neq(y[0], y[2], 24 * sizeof(float), "another epoch");
    cr_expect_arr_eq(y[0], y[3], 24 * sizeof(float), "the same again");
    bed_fill(&b, lb, 4, 0, 0);
    bed_fill(&b, w, 2, 1, 0);
    LoraSlice slice = {la, lb, 0, 1, 0.5f, 1};
    float *base = bed_read(&b, op_linear(&b.ctx, x, w, NULL, NULL));
    float *got = bed_read(
        &b, op_linear_lora(&b.ctx, x, w, NULL, NULL, &slice, 1, docs.samples, docs.positions));
    cr_expect_arr_eq(got, base, 24 * sizeof(float), "b = 0: the base's product");
    for (int i = 0; i < 4; i++)
        free(y[i]);
    free(base), free(got);
    bed_close(&b);
}
