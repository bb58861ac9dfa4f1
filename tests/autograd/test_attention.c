#include "autograd/ops.h"
#include "tests/support/cases.h"
#include "tests/support/gradcheck.h"

#include <criterion/criterion.h>

typedef struct Packed {
    int n_heads, n_kv_heads, n_docs;
    int32_t lens[4];
    bool same; /* q, k and v are one tensor */
} Packed;

/* The documents outlive the forward pass: backward reads them. */
static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Packed *t = ud;
    BedDocs *docs = arena_alloc(b->arena, sizeof *docs);
    bed_docs(b, docs, t->n_docs, t->lens);
    docs->docs.cu_host = docs->cu;
    Tensor *k = t->same ? in[0] : in[1], *v = t->same ? in[0] : in[2];
    out[0] = op_attention(&b->ctx, in[0], k, v, t->n_heads, t->n_kv_heads, &docs->docs, 8);
}

static const Packed one = {1, 1, 1, {6}}, packed = {2, 2, 4, {1, 5, 2, 3}},
                    groups = {4, 2, 3, {3, 1, 4}}, many = {2, 1, 1, {67}},
                    same = {2, 2, 2, {5, 1}, .same = true};

static const GradCase cases[] = {
    {"one document", &one, .in = {{"q", 6, 4}, {"k", 6, 4}, {"v", 6, 4}}},
    {"packed", &packed, .in = {{"q", 11, 12}, {"k", 11, 12}, {"v", 11, 12}}},
    {"groups", &groups, .in = {{"q", 8, 16}, {"k", 8, 8}, {"v", 8, 8}}},
    {"two blocks of queries", &many, .in = {{"q", 67, 8}, {"k", 67, 4}, {"v", 67, 4}}},
    {"two consumers", &groups, .in = {{"q", 8, 16}, {"k", 8, 8}, {"v", 8, 8}}, .twice = true},
    {"one tensor for all", &same, .in = {{"x", 6, 6}}},
    {"one tensor for all, twice", &same, .in = {{"x", 6, 6}}, .twice = true},
    {"frozen q", &packed, .in = {{"q", 11, 12, .frozen = true}, {"k", 11, 12}, {"v", 11, 12}}},
    {"v alone", &packed,
     .in = {{"q", 11, 12, .frozen = true}, {"k", 11, 12, .frozen = true}, {"v", 11, 12}}},
};

Test(attention, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}
