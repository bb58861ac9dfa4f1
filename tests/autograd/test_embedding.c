#include "autograd/ops.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

static const int32_t ids[] = {3, 0, 8, 3, 3, 5, 8}; /* 3 and 8 repeat; 1, 2, 4, 6, 7 never come */

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    out[0] = op_embedding(&b->ctx, bed_i32(b, ids, 7), in[0]);
}

static const GradCase cases[] = {
    {"plain", .in = {{"w", 9, 6}}},
    {"two batches", .in = {{"w", 9, 5, .param = true}}, .twice = true},
    {"frozen", .in = {{"w", 9, 5, .param = true, .frozen = true}}},
};

Test(embedding, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
