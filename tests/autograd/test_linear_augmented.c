/* The augmented layout against finite differences, and against the separate form on the same numbers. */
#include "autograd/ops.h"
#include "tests/support/close.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>
#include <stdlib.h>

typedef struct Adapted {
    int n_slices;
    int64_t row0[LORA_MAX_SLICES];
    bool bias, residual;
} Adapted;

/* w's numbers with room for `rank` ranks around them; the room is zero. */
static Tensor *with_room(Bed *b, const Tensor *w, int64_t rank)
{
    int64_t rows = tensor_rows(w), cols = tensor_cols(w);
    Tensor *big = bed_matrix(b, rows + rank, cols, lora_pad(rank));
    tensor_zero(&b->dev, big);
    Tensor *inside = arena_alloc(b->arena, sizeof *inside);
    *inside = tensor_slice_rows(big, 0, rows);
    b->dev.k->copy(&b->dev, inside, w);
    return inside;
}

/* in: x, norm, w, (a, b) of each slice, then the bias and the residual where there are such.  A norm stands before the
 * product because its input must have room for u. */
static Tensor *run_form(Bed *b, Tensor *const *in, const Adapted *t, bool augmented)
{
    LoraSlice slices[LORA_MAX_SLICES];
    int64_t rank = 0;
    for (int i = 0; i < t->n_slices; i++) {
        slices[i] = (LoraSlice){in[3 + 2 * i], in[4 + 2 * i], t->row0[i], 0.5f + (float)i, 0, 0};
        rank += tensor_rows(slices[i].a);
    }
    int at = 3 + 2 * t->n_slices;
    Tensor *bias = t->bias ? in[at++] : NULL, *residual = t->residual ? in[at] : NULL;
    Tensor *h = op_rmsnorm(&b->ctx, in[0], in[1], 1e-3f, augmented ? lora_pad(rank) : 0);
    if (!augmented)
        return op_linear_lora(&b->ctx, h, in[2], bias, residual, slices, t->n_slices, NULL, NULL);
    return op_linear_augmented(&b->ctx, h, with_room(b, in[2], rank), bias, residual, slices,
                               t->n_slices, 1);
}

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    out[0] = run_form(b, in, ud, true);
}

static const Adapted one = {1, {0}}, last_rows = {1, {5}}, three = {3, {0, 4, 6}},
                     all = {1, {0}, true, true};

#define X_NORM_W(frozen_x)                                                                         \
    {"x", 6, 7, .frozen = frozen_x}, {"norm", 7, .mean = 1, .frozen = frozen_x},                   \
    {                                                                                              \
        "w", 8, 7, .frozen = true                                                                  \
    }
#define AB(i, rows, ...)                                                                           \
    {"a" #i, 2, 7, __VA_ARGS__},                                                                   \
    {                                                                                              \
        "b" #i, rows, 2, __VA_ARGS__                                                               \
    }

static const GradCase cases[] = {
    {"whole matrix", &one, .in = {X_NORM_W(false), AB(0, 8, 0)}},
    {"last rows", &last_rows, .in = {X_NORM_W(false), AB(0, 3, 0)}},
    {"three slices", &three, .in = {X_NORM_W(false), AB(0, 4, 0), AB(1, 2, 0), AB(2, 2, 0)}},
    {"params, frozen x", &three,
     .in = {X_NORM_W(true), AB(0, 4, 0, .param = true), AB(1, 2, 0, .param = true),
            AB(2, 2, 0, .param = true)}},
    {"bias, residual, twice", &all,
     .in = {X_NORM_W(false), AB(0, 8, 0, .param = true), {"bias", 8}, {"residual", 6, 8}},
     .twice = true},
    {"frozen adapter", &one, .in = {X_NORM_W(false), AB(0, 8, 0, .frozen = true)}},
};

Test(linear_augmented, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}

Test(linear_augmented, equals_the_separate_form)
{
    enum { N = 37, I = 48, O = 96, R = 5 };
    static const Adapted t = {3, {0, 32, 64}, true, true};
    Bed b;
    bed_open(&b, 2);
    Tensor *in[11] = {bed_fill(&b, bed_matrix(&b, N, I, 0), 1, 1, 0),
                      bed_fill(&b, bed_vector(&b, I), 2, 0.1, 1),
                      bed_fill(&b, bed_matrix(&b, O, I, 0), 3, 1, 0)};
    for (int i = 0; i < 3; i++) {
        in[3 + 2 * i] = bed_fill(&b, bed_matrix(&b, R, I, 0), (uint64_t)(4 + i), 1, 0);
        in[4 + 2 * i] = bed_fill(&b, bed_matrix(&b, 32, R, 0), (uint64_t)(8 + i), 1, 0);
    }
    in[9] = bed_fill(&b, bed_vector(&b, O), 12, 1, 0);
    in[10] = bed_fill(&b, bed_matrix(&b, N, O, 0), 13, 1, 0);
    float *got = bed_read(&b, run_form(&b, in, &t, true));
    float *separate = bed_read(&b, run_form(&b, in, &t, false));
    double want[N * O];
    for (int i = 0; i < N * O; i++)
        want[i] = (double)separate[i];
    cr_expect(close_enough("y", got, want, N * O, close_tolerance(DT_F32, I)));
    free(got), free(separate);
    bed_close(&b);
}
