/* Cross-entropy and its gradient against double, logits beyond the range of exp included. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* Around what one block of a GPU holds of a row, and eight. */
static const RowsCase long_cases[] = {
    {"one block", 3, 8192, 0},
    {"one block and a vector", 3, 8196, 4},
    {"three blocks", 9, 20000, 0},
    {"eight blocks", 2, 65536, 0},
    {"eight larger blocks", 2, 65540, 0},
    {"beyond blocks", 2, 131076, 0},
    {"long, no vectors", 2, 20001, 0},
};
enum { N_LONG_CASES = sizeof long_cases / sizeof *long_cases };

static void check(Bed *b, const RowsCase *t, double sigma, float grad_scale)
{
    int64_t R = t->rows, V = t->cols;
    Tensor *logits = bed_fill(b, bed_matrix(b, R, V, t->pad), 1, sigma, 3 * sigma);
    Tensor *loss = bed_vector(b, R);
    int32_t *targets = xcalloc((size_t)R + 1, sizeof *targets);
    for (int64_t r = 0; r < R; r++)
        targets[r] = (int32_t)rng_below(7, (uint64_t)r, (uint64_t)V);
    Tensor *t_targets = bed_i32(b, targets, R);
    float *x = bed_read(b, logits);
    double *eloss = xcalloc((size_t)R + 1, sizeof *eloss);
    double *ed = xcalloc((size_t)(R * V) + 1, sizeof *ed);
    for (int64_t r = 0; r < R; r++) {
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < V; i++)
            max = fmax(max, (double)x[r * V + i]);
        for (int64_t i = 0; i < V; i++)
            sum += exp((double)x[r * V + i] - max);
        eloss[r] = max + log(sum) - (double)x[r * V + targets[r]];
        for (int64_t i = 0; i < V; i++)
            ed[r * V + i] =
                (exp((double)x[r * V + i] - max) / sum - (i == targets[r])) * (double)grad_scale;
    }
    b->dev.k->softmax_xent(&b->dev, loss, logits, t_targets, grad_scale);
    float *gloss = bed_read(b, loss), *gd = bed_read(b, logits);
    cr_expect(close_enough(t->name, gloss, eloss, R, close_tolerance(DT_F32, 1)), "loss");
    if (grad_scale != 0)
        cr_expect(close_enough(t->name, gd, ed, R * V, close_tolerance(DT_F32, 1)), "gradient");
    else
        cr_expect_arr_eq(gd, x, (size_t)(R * V) * sizeof *x, "%s: logits changed", t->name);
    cr_expect(bed_pad_intact(b, logits), "%s: wrote the pad", t->name);
    free(targets), free(x), free(eloss), free(ed), free(gloss), free(gd);
}

Test(kernel_softmax_xent, equals_formulas)
{
    static const double sigmas[] = {1, 100, 20000}; /* exp overflows, then almost all underflow */
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_rows_cases + N_LONG_CASES; i++) {
        const RowsCase *t = i < n_rows_cases ? &rows_cases[i] : &long_cases[i - n_rows_cases];
        for (int s = 0; s < 3; s++) {
            check(&b, t, sigmas[s], 0.125f);
            check(&b, t, sigmas[s], 0);
        }
    }
    bed_close(&b);
}

Test(kernel_softmax_xent, nan_and_infinity_reach_the_loss)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *loss = bed_vector(&b, 2);
    const float cases[][6] = {
        {0, NAN, 0, 1, 2, 3}, {NAN, 0, 0, 1, 2, 3}, {0, INFINITY, 0, 1, 2, 3}};
    const int32_t targets[] = {0, 2};
    for (int i = 0; i < 3; i++) {
        Tensor *logits = bed_matrix(&b, 2, 3, 0);
        tensor_write(&b.dev, logits, cases[i]);
        b.dev.k->softmax_xent(&b.dev, loss, logits, bed_i32(&b, targets, 2), 1);
        float *got = bed_read(&b, loss);
        cr_expect(!isfinite(got[0]) && fabsf(got[1] - 0.407606f) < 1e-5f, "case %d", i);
        free(got);
    }
    bed_close(&b);
}
