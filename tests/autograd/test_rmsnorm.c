#include "autograd/ops.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    out[0] = op_rmsnorm(&b->ctx, in[0], in[1], 1e-3f, 8);
}

static const GradCase cases[] = {
    {"plain", .in = {{"x", 7, 10}, {"w", 10, .mean = 1}}},
    {"one row, odd", .in = {{"x", 1, 37}, {"w", 37, .mean = 1}}},
    {"pitch", .in = {{"x", 5, 18, .pad = 24}, {"w", 18, .mean = 1, .param = true}}},
    {"two consumers", .in = {{"x", 5, 18, .pad = 24}, {"w", 18, .param = true}}, .twice = true},
    {"frozen w", .in = {{"x", 5, 8}, {"w", 8, .frozen = true, .param = true}}},
    {"frozen x", .in = {{"x", 5, 8, .frozen = true}, {"w", 8, .param = true}}, .twice = true},
};

Test(rmsnorm, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
