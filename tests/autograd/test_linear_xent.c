#include "autograd/ops.h"
#include "tests/support/close.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const int32_t targets[] = {0, 10, 3, 3, 7};

typedef struct Chunks {
    int64_t rows, chunk_rows;
} Chunks;

enum { GRAD_SCALE = 2 }; /* also the weight of the loss in the checks */

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Chunks *t = ud;
    Tensor *sum = bed_fill(b, bed_vector(b, 1), 1, 0, 0);
    out[0] = op_linear_xent(&b->ctx, in[0], in[1], bed_i32(b, targets, t->rows), GRAD_SCALE, sum,
                            NULL, t->chunk_rows);
}

static const Chunks whole = {5, 0}, single = {5, 1}, pairs = {5, 2}, none = {0, 0};

static const GradCase cases[] = {
    {"whole", &whole, .in = {{"h", 5, 6}, {"w", 11, 6}}, .weight = GRAD_SCALE},
    {"row by row", &single, .in = {{"h", 5, 6}, {"w", 11, 6}}, .weight = GRAD_SCALE},
    {"pairs, pitch", &pairs, .in = {{"h", 5, 6, .pad = 24}, {"w", 11, 6, .pad = 24}},
     .weight = GRAD_SCALE},
    {"head as a parameter", &pairs, .in = {{"h", 5, 6}, {"w", 11, 6, .param = true}},
     .weight = GRAD_SCALE},
    {"two micro-batches", &pairs, .in = {{"h", 5, 6}, {"w", 11, 6, .param = true}},
     .weight = GRAD_SCALE, .twice = true},
    {"two consumers", &whole, .in = {{"h", 5, 6}, {"w", 11, 6}}, .weight = GRAD_SCALE,
     .twice = true},
    {"frozen head", &pairs, .in = {{"h", 5, 6}, {"w", 11, 6, .param = true, .frozen = true}},
     .weight = GRAD_SCALE},
    {"frozen input", &pairs, .in = {{"h", 5, 6, .frozen = true}, {"w", 11, 6, .param = true}},
     .weight = GRAD_SCALE},
    {"nothing is trained on", &none, .in = {{"h", 0, 6}, {"w", 11, 6, .param = true}},
     .weight = GRAD_SCALE},
};

Test(linear_xent, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}

/* A tied matrix: the head's gradient is there before backward begins, the embedding's joins it. */
static void tied(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    static const int32_t ids[] = {1, 10, 1, 4, 0};
    Tensor *h = op_embedding(&b->ctx, bed_i32(b, ids, 5), in[0]);
    Tensor *sum = bed_fill(b, bed_vector(b, 1), 1, 0, 0);
    out[0] = op_linear_xent(&b->ctx, h, in[0], bed_i32(b, targets, 5), GRAD_SCALE, sum, NULL, 2);
}

Test(linear_xent, tied_to_the_embedding)
{
    const GradCase g[] = {
        {"tied", .in = {{"w", 11, 6}}, .weight = GRAD_SCALE},
        {"tied parameter, twice", .in = {{"w", 11, 6, .param = true}}, .weight = GRAD_SCALE,
         .twice = true},
    };
    cr_expect(gradcheck(&g[0], tied));
    cr_expect(gradcheck(&g[1], tied));
}

Test(linear_xent, losses_and_their_sum)
{
    enum { M = 5, C = 6, V = 11 };
    Bed b;
    bed_open(&b, 1);
    Tensor *h = bed_fill(&b, bed_matrix(&b, M, C, 0), 1, 1, 0),
           *w = bed_fill(&b, bed_matrix(&b, V, C, 0), 2, 1, 0);
    Tensor *sum = bed_fill(&b, bed_vector(&b, 1), 1, 0, 100), *rows = bed_vector(&b, M);
    Tensor *loss = op_linear_xent(&b.ctx, h, w, bed_i32(&b, targets, M), 1, sum, rows, 2);
    float *hh = bed_read(&b, h), *hw = bed_read(&b, w);
    double want[M + 2] = {0};
    for (int r = 0; r < M; r++) {
        double z[V], total = 0;
        for (int v = 0; v < V; v++) {
            z[v] = 0;
            for (int i = 0; i < C; i++)
                z[v] += (double)hh[r * C + i] * (double)hw[v * C + i];
            total += exp(z[v]);
        }
        want[r] = log(total) - z[targets[r]];
        want[M] += want[r];
    }
    want[M + 1] = want[M] + 100;
    float *got_rows = bed_read(&b, rows), *got = bed_read(&b, loss), *got_sum = bed_read(&b, sum);
    cr_expect(close_enough("row_loss", got_rows, want, M, close_tolerance(DT_F32, C)));
    cr_expect(close_enough("loss", got, &want[M], 1, close_tolerance(DT_F32, C)));
    cr_expect(close_enough("loss_sum", got_sum, &want[M + 1], 1, close_tolerance(DT_F32, C)));
    free(hh), free(hw), free(got_rows), free(got), free(got_sum);
    bed_close(&b);
}

/* The logits of all rows never exist. */
Test(linear_xent, needs_the_memory_of_a_chunk)
{
    enum { M = 1000, C = 4, V = 500, CHUNK = 10 };
    Bed b;
    bed_open(&b, 1);
    int32_t zeros[M] = {0};
    Tensor *h = bed_fill(&b, bed_matrix(&b, M, C, 0), 1, 1, 0),
           *w = bed_fill(&b, bed_matrix(&b, V, C, 0), 2, 1, 0);
    Tensor *sum = bed_fill(&b, bed_vector(&b, 1), 1, 0, 0), *t = bed_i32(&b, zeros, M);
    size_t before = b.dev.mem.live_total;
    op_linear_xent(&b.ctx, h, w, t, 1, sum, NULL, CHUNK);
    cr_expect_lt(b.dev.mem.peak_total - before, (size_t)(CHUNK * V * 4 + M * 4 + 4096));
    bed_close(&b);
}
