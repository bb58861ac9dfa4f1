/* Products against sums in double. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* separate: what beta multiplies lies elsewhere, in rows of another pitch. */
static void check(Bed *b, const MatmulCase *t, bool separate)
{
    Tensor *a = bed_matrix(b, t->trans_a ? t->k : t->m, t->trans_a ? t->m : t->k, t->pad);
    Tensor *w = bed_matrix(b, t->trans_b ? t->n : t->k, t->trans_b ? t->k : t->n, t->pad);
    Tensor *c = bed_matrix(b, t->m, t->n, t->pad);
    bed_fill(b, a, 1, 1, 0);
    bed_fill(b, w, 2, 1, 0);
    Tensor *add = separate ? bed_matrix(b, t->m, t->n, t->pad ? 0 : 8) : c;
    if (t->beta != 0) bed_fill(b, add, 3, 1, 0);
    float *ha = bed_read(b, a), *hw = bed_read(b, w), *before = bed_read(b, add);
    b->dev.k->matmul(
        &b->dev, c, a, w,
        (MatmulArgs){t->trans_a, t->trans_b, t->alpha, t->beta, separate ? add : NULL});
    float *got = bed_read(b, c);
    double *want = xmalloc((size_t)(t->m * t->n) * sizeof *want);
    for (int64_t i = 0; i < t->m; i++) {
        for (int64_t j = 0; j < t->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < t->k; l++)
                sum += (double)ha[t->trans_a ? l * t->m + i : i * t->k + l] *
                       (double)hw[t->trans_b ? j * t->k + l : l * t->n + j];
            double old = t->beta != 0 ? (double)t->beta * (double)before[i * t->n + j] : 0;
            want[i * t->n + j] = (double)t->alpha * sum + old;
        }
    }
    cr_expect(close_enough(t->name, got, want, t->m * t->n, close_tolerance(DT_F32, t->k)));
    cr_expect(bed_pad_intact(b, c), "%s: wrote the pad", t->name);
    free(ha), free(hw), free(before), free(got), free(want);
}

Test(kernel_matmul, equals_sums_in_double)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_matmul_cases; i++)
        check(&b, &matmul_cases[i], false);
    bed_close(&b);
}

Test(kernel_matmul, adds_what_lies_elsewhere)
{
    Bed b;
    bed_open(&b, 2);
    for (int i = 0; i < n_matmul_cases; i++)
        check(&b, &matmul_cases[i], true);
    bed_close(&b);
}

/* Batches of almost one size: what a backend keeps of one must not be taken for another's. */
Test(kernel_matmul, neighbouring_sizes)
{
    Bed b;
    bed_open(&b, 2);
    for (int64_t tokens = 113; tokens <= 145; tokens++) {
        char name[40];
        snprintf(name, sizeof name, "%lld tokens", (long long)tokens);
        check(&b, &(MatmulCase){name, tokens, 24, 40, false, true, 1, 0, 0}, false);
        check(&b, &(MatmulCase){name, tokens, 40, 24, false, false, 1, 1, 0}, true);
        check(&b, &(MatmulCase){name, 24, 40, tokens, true, false, 2, 1, 0}, false);
    }
    bed_close(&b);
}

Test(kernel_matmul, nan_and_infinity_arrive)
{
    Bed b;
    bed_open(&b, 1);
    Tensor *x = bed_fill(&b, bed_matrix(&b, 2, 2, 0), 1, 1, 1), *y = bed_matrix(&b, 2, 2, 0);
    float values[4] = {1, NAN, 2, 3};
    tensor_write(&b.dev, x, values);
    b.dev.k->matmul(&b.dev, y, x, x, (MatmulArgs){.trans_b = true, .alpha = 1});
    float *got = bed_read(&b, y);
    cr_expect(isnan(got[0]) && isnan(got[1]) && isnan(got[2]) && got[3] == 13);
    free(got);
    bed_close(&b);
}
