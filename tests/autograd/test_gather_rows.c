#include "autograd/ops.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

typedef struct Chosen {
    int64_t n;
    int32_t rows[8];
} Chosen;

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Chosen *chosen = ud;
    out[0] = op_gather_rows(&b->ctx, in[0], bed_i32(b, chosen->rows, chosen->n));
}

static const Chosen some = {3, {0, 4, 5}}, all = {4, {0, 1, 2, 3}}, none = {0, {0}};

static const GradCase cases[] = {
    {"some", &some, .in = {{"x", 7, 5}}},
    {"all", &all, .in = {{"x", 4, 6}}},
    {"none", &none, .in = {{"x", 3, 4}}},
    {"two consumers", &some, .in = {{"x", 6, 3}}, .twice = true},
};

Test(gather_rows, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
