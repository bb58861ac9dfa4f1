#include "autograd/ops.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

typedef struct Heads {
    int n_heads, n_kv_heads, dim;
    bool norm;
} Heads;

static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Heads *t = ud;
    static const int32_t lens[] = {1, 4, 2};
    BedDocs docs;
    bed_docs(b, &docs, 3, lens);
    op_split_rope(&b->ctx, in[0], docs.positions, bed_rope(b, 4, t->dim), t->norm ? in[1] : NULL,
                  t->norm ? in[2] : NULL, t->n_heads, t->n_kv_heads, 1e-3f, &out[0], &out[1],
                  &out[2]);
}

static const Heads plain = {2, 2, 4}, groups = {4, 1, 6}, norm = {2, 1, 8, .norm = true};

static const GradCase cases[] = {
    {"plain", &plain, .in = {{"qkv", 7, 24}}, .n_out = 3},
    {"groups", &groups, .in = {{"qkv", 7, 36}}, .n_out = 3},
    {"pitch", &groups, .in = {{"qkv", 7, 36, .pad = 24}}, .n_out = 3, .twice = true},
    {"norms", &norm, .in = {{"qkv", 7, 32}, {"q_norm", 8, .mean = 1}, {"k_norm", 8, .mean = 1}},
     .n_out = 3},
    {"norms, two consumers", &norm,
     .in = {{"qkv", 7, 32, .pad = 24}, {"q_norm", 8, .param = true}, {"k_norm", 8, .param = true}},
     .n_out = 3, .twice = true},
    {"one frozen norm", &norm,
     .in = {{"qkv", 7, 32},
            {"q_norm", 8, .param = true, .frozen = true},
            {"k_norm", 8, .param = true}},
     .n_out = 3},
    {"norms alone", &norm,
     .in = {{"qkv", 7, 32, .frozen = true},
            {"q_norm", 8, .param = true},
            {"k_norm", 8, .param = true}},
     .n_out = 3},
    {"only q is read", &plain, .in = {{"qkv", 7, 24}}, .n_out = 1},
};

Test(split_rope, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
