#include "autograd/ops.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    out[0] = op_swiglu(&b->ctx, in[0], 8);
}

static const GradCase cases[] = {
    {"plain", .in = {{"gate_up", 4, 22}}},
    {"pitch", .in = {{"gate_up", 3, 34, .pad = 24}}},
    {"two consumers", .in = {{"gate_up", 3, 8, .pad = 24}}, .twice = true},
    {"wide gates", .in = {{"gate_up", 6, 40, .sigma = 3}}},
};

Test(swiglu, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
