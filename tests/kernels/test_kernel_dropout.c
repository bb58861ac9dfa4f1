/* Dropout: the mask is that of dropout_draw, in both directions, and a document's own wherever it stands. */
#include "base/str.h"
#include "tests/support/cases.h"
#include "tests/support/close.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const int32_t lens[] = {5, 1, 30};

Test(kernel_dropout, follows_dropout_draw)
{
    static const float ps[] = {0, 0.1f, 0.5f, 0.9f};
    static const int64_t widths[] = {1, 3, 4, 7, 64, 66, 256, 523};
    Bed b;
    bed_open(&b, 2);
    BedDocs docs;
    bed_docs(&b, &docs, 3, lens);
    int64_t n = docs.n;
    for (int p = 0; p < 4; p++) {
        for (int w = 0; w < 8; w++) {
            int64_t C = widths[w];
            DropoutArgs args = {ps[p], 12345, docs.samples, docs.positions};
            Tensor *x = bed_fill(&b, bed_matrix(&b, n, C, 24), 1, 1, 0);
            Tensor *y = bed_matrix(&b, n, C, 24);
            Tensor *dx = bed_fill(&b, bed_matrix(&b, n, C, 24), 2, 1, 0);
            float *hx = bed_read(&b, x), *old = bed_read(&b, dx);
            b.dev.k->dropout_fwd(&b.dev, y, x, &args);
            b.dev.k->dropout_bwd(&b.dev, dx, 1, x, &args);
            float *hy = bed_read(&b, y), *hdx = bed_read(&b, dx);
            double *want = xcalloc((size_t)(2 * n * C), sizeof *want);
            for (int d = 0; d < 3; d++) {
                for (int64_t i = docs.cu[d] * C; i < docs.cu[d + 1] * C; i++) {
                    int32_t position = (int32_t)(i / C) - docs.cu[d];
                    bool keep = dropout_draw(12345, 100 + d, position, i % C) >= ps[p];
                    want[i] = keep ? (double)hx[i] / (1 - (double)ps[p]) : 0;
                    want[n * C + i] = want[i] + (double)old[i];
                }
            }
            cr_expect(close_enough("y", hy, want, n * C, close_tolerance(DT_F32, 1)));
            cr_expect(close_enough("dx", hdx, want + n * C, n * C, close_tolerance(DT_F32, 1)));
            cr_expect(bed_pad_intact(&b, y) && bed_pad_intact(&b, dx));
            free(hx), free(old), free(hy), free(hdx), free(want);
        }
    }
    bed_close(&b);
}

Test(kernel_dropout, drops_its_share_and_differs_by_all_that_keys_it)
{
    enum { N = 200, C = 100 };
    Bed b;
    bed_open(&b, 2);
    int32_t len = N;
    BedDocs docs;
    bed_docs(&b, &docs, 1, &len);
    Tensor *ones = bed_fill(&b, bed_matrix(&b, N, C, 0), 1, 0, 1), *y = bed_matrix(&b, N, C, 0);
    float *mask[2];
    for (int i = 0; i < 2; i++) {
        DropoutArgs args = {0.3f, 1 + (uint64_t)i, docs.samples, docs.positions};
        b.dev.k->dropout_fwd(&b.dev, y, ones, &args);
        mask[i] = bed_read(&b, y);
    }
    int dropped = 0, same = 0, row_same = 0;
    for (int i = 0; i < N * C; i++) {
        dropped += mask[0][i] == 0;
        same += (mask[0][i] == 0) == (mask[1][i] == 0);
        row_same += (mask[0][i] == 0) == (mask[0][i % C] == 0);
    }
    /* six standard deviations of a binomial; two independent masks agree with 0.3^2 + 0.7^2 = 0.58 */
    cr_expect(abs(dropped - 6000) < 390, "%d of 20000 dropped", dropped);
    cr_expect(abs(same - 11600) < 420, "%d of 20000 as under the other key", same);
    cr_expect(row_same < 15000, "rows repeat: %d", row_same);
    free(mask[0]), free(mask[1]);
    bed_close(&b);
}
