/* The largest of each row, and what is no number; the tokens that come next. */
#include "base/str.h"
#include "tests/support/bed.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

enum { ROWS = 8 };

static void check(Bed *b, int64_t cols, int64_t pad)
{
    Tensor *x = bed_fill(b, bed_matrix(b, ROWS, cols, pad), (uint64_t)cols, 1, 0);
    float *v = bed_read(b, x);
    for (int64_t i = 0; i < cols; i++) {
        v[1 * cols + i] = -5;        /* all equal: the lowest */
        v[2 * cols + i] = -INFINITY; /* nothing to choose */
        v[3 * cols + i] = i == cols - 1 ? -1e30f : -INFINITY;
        v[4 * cols + i] = i % 2 ? 0.0f : -0.0f; /* one number */
        v[7 * cols + i] = -1 - (float)((i + 3) % cols);
    }
    v[5 * cols + cols / 2] = NAN;
    v[6 * cols + cols - 1] = INFINITY;
    tensor_write_f32(&b->dev, x, v);
    int32_t want[ROWS] = {0, 0, -1, (int32_t)cols - 1, 0, -1, -1, (int32_t)((2 * cols - 3) % cols)};
    for (int64_t i = 1; i < cols; i++)
        if (v[i] > v[want[0]]) want[0] = (int32_t)i;
    int64_t n = ROWS;
    Tensor *best = scope_tensor(b->inputs, DT_I32, 1, &n, 0, MEM_ACTIVATION);
    b->dev.k->argmax(&b->dev, best, x);
    int32_t got[ROWS];
    tensor_read(&b->dev, best, got);
    for (int r = 0; r < ROWS; r++)
        cr_expect_eq(got[r], want[r], "%lld columns, row %d: %d, not %d", (long long)cols, r,
                     got[r], want[r]);
    free(v);
}

Test(kernel_argmax, largest_lowest_or_none)
{
    static const int64_t cols[] = {3, 5, 31, 256, 1000, 16384, 32003};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        Bed b;
        bed_open(&b, 2);
        check(&b, cols[i], i % 2 ? 24 : 0);
        bed_close(&b);
    }
}

Test(kernel_argmax, next_tokens)
{
    static const int64_t sizes[] = {1, 3, 300};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Bed b;
        bed_open(&b, 2);
        const int64_t n = sizes[i];
        int32_t best[300], had[300], got[300];
        for (int k = 0; k < n; k++)
            best[k] = k % 3 == 1 ? -1 : 7 * k, had[k] = 5 + k;
        Tensor *t[3]; /* past, ids, best */
        for (int k = 0; k < 3; k++) {
            t[k] = scope_tensor(b.inputs, DT_I32, 1, &n, 0, MEM_ACTIVATION);
            tensor_write(&b.dev, t[k], k == 2 ? best : had);
        }
        b.dev.k->next_tokens(&b.dev, t[0], t[1], t[2]);
        b.dev.k->next_tokens(&b.dev, t[0], NULL, NULL);
        tensor_read(&b.dev, t[0], got);
        for (int k = 0; k < n; k++)
            cr_expect_eq(got[k], had[k] + 2, "past of %d: %d", k, got[k]);
        tensor_read(&b.dev, t[1], got);
        for (int k = 0; k < n; k++)
            cr_expect_eq(got[k], k % 3 == 1 ? 0 : 7 * k, "token of %d: %d", k, got[k]);
        bed_close(&b);
    }
}
