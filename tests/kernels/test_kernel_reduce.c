/* Sums over all elements, and counting what is not finite. */
#include "base/str.h"
#include "tests/support/bed.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t lengths[] = {0, 1, 15, 16, 17, 1000, 32768, 32769, 100003};

Test(kernel_reduce, sums)
{
    Bed b;
    bed_open(&b, 2);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        int64_t n = lengths[i];
        Tensor *x = bed_fill(&b, bed_vector(&b, n), 1, 1, 0.5);
        float *hx = bed_read(&b, x);
        double want[3] = {0.5, 5, 0};
        for (int64_t j = 0; j < n; j++) {
            want[0] += (double)hx[j];
            want[1] += (double)hx[j] * (double)hx[j];
        }
        want[2] = want[1] - 5;
        float start[2] = {0.5f, 5};
        Tensor *out[3] = {bed_vector(&b, 1), bed_vector(&b, 1), bed_vector(&b, 1)};
        tensor_write(&b.dev, out[0], &start[0]);
        tensor_write(&b.dev, out[1], &start[1]);
        b.dev.k->sum(&b.dev, out[0], 1, x);
        b.dev.k->sum_squares(&b.dev, out[1], 1, x);
        b.dev.k->sum_squares(&b.dev, out[2], 0, x); /* holds NaN before */
        for (int k = 0; k < 3; k++) {
            float *got = bed_read(&b, out[k]);
            cr_expect(close_enough("sum", got, &want[k], 1, 1e-7), "%d of %lld", k, (long long)n);
            free(got);
        }
        free(hx);
    }
    bed_close(&b);
}

Test(kernel_reduce, sums_do_not_lose_small_terms)
{
    enum { N = 1 << 17 };
    Bed b;
    bed_open(&b, 2);
    float *x = xmalloc(N * sizeof *x);
    for (int i = 0; i < N; i++)
        x[i] = i ? 1e-4f : 1e6f; /* a float sum would stay at 1e6 */
    Tensor *t = bed_vector(&b, N), *out = bed_vector(&b, 1);
    tensor_write(&b.dev, t, x);
    b.dev.k->sum(&b.dev, out, 0, t);
    float *got = bed_read(&b, out);
    cr_expect_float_eq((double)got[0], 1e6 + 1e-4 * (N - 1), 0.1);
    free(x), free(got);
    bed_close(&b);
}

Test(kernel_reduce, count_nonfinite)
{
    enum { N = 100000 };
    Bed b;
    bed_open(&b, 2);
    float *x = xcalloc(N, sizeof *x);
    x[0] = NAN, x[1] = -INFINITY, x[40000] = INFINITY, x[N - 1] = -NAN;
    x[7] = 3.4e38f, x[8] = -1e-45f; /* finite */
    Tensor *t = bed_vector(&b, N), *out = bed_vector(&b, 1);
    tensor_write(&b.dev, t, x);
    b.dev.k->count_nonfinite(&b.dev, out, 0, t);
    b.dev.k->count_nonfinite(&b.dev, out, 1, t);
    float *got = bed_read(&b, out);
    cr_expect_eq(got[0], 8.0f);
    free(x), free(got);
    bed_close(&b);
}

static int64_t checksum_of(Bed *b, const Tensor *x)
{
    int64_t one = 1, got;
    Tensor sum = tensor_alloc(&b->dev, DT_I64, 1, &one, MEM_WORKSPACE);
    b->dev.k->checksum(&b->dev, &sum, x);
    tensor_read(&b->dev, &sum, &got);
    tensor_clear(&sum);
    return got;
}

/* The same for any pitch and device; another for another element or another order; bytes of any number and address. */
Test(kernel_reduce, checksum)
{
    static const int64_t shapes[][3] = {{1, 1, 0}, {1, 2, 0},      {5, 3, 0},
                                        {7, 8, 5}, {300, 1001, 3}, {2000, 64, 0}};
    Bed b;
    bed_open(&b, 3);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t rows = shapes[i][0], cols = shapes[i][1], per_row = (cols + 1) / 2;
        Tensor *x = bed_fill(&b, bed_matrix(&b, rows, cols, shapes[i][2]), 1, 1, 0);
        float *h = bed_read(&b, x);
        uint64_t want = 0;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t w = 0; w < per_row; w++) {
                uint32_t half[2] = {0, 0};
                memcpy(half, &h[r * cols + 2 * w], 2 * w + 1 < cols ? 8 : 4);
                want +=
                    checksum_term(half[0] | (uint64_t)half[1] << 32, (uint64_t)(r * per_row + w));
            }
        cr_expect_eq(checksum_of(&b, x), (int64_t)want, "%lld x %lld", (long long)rows,
                     (long long)cols);
        float swapped = h[rows * cols - 1];
        if (rows * cols > 1 && swapped != h[0]) {
            h[rows * cols - 1] = h[0];
            h[0] = swapped;
            Tensor *other = bed_matrix(&b, rows, cols, 0);
            tensor_write_f32(&b.dev, other, h);
            cr_expect_neq(checksum_of(&b, other), (int64_t)want);
        }
        free(h);
    }
    uint8_t bytes[29];
    for (int i = 0; i < 29; i++)
        bytes[i] = (uint8_t)(37 * i);
    int64_t n = 29;
    Tensor codes = tensor_alloc(&b.dev, DT_U8, 1, &n, MEM_WORKSPACE), part = codes;
    tensor_write(&b.dev, &codes, bytes);
    part.offset += 3;
    part.shape[0] = part.ld = 17;
    uint64_t want = 0;
    for (uint64_t w = 0; w < 3; w++) {
        uint64_t word = 0;
        for (uint64_t k = 8 * w; k < 17 && k < 8 * w + 8; k++)
            word |= (uint64_t)bytes[3 + k] << (8 * (k - 8 * w));
        want += checksum_term(word, w);
    }
    cr_expect_eq(checksum_of(&b, &part), (int64_t)want);
    tensor_clear(&codes);
    bed_close(&b);
}
