#include "autograd/ops.h"
#include "base/str.h"
#include "tensor/safetensors.h"
#include "tests/support/close.h"
#include "tests/support/gradcheck.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct Scaled {
    int n_slices;
    int64_t row0[LORA_MAX_SLICES];
    float dropout;
    bool bias, residual;
} Scaled;

static const int32_t lens[] = {3, 1, 2};

/* in: x, w, (a, b, m) of each slice, then the bias and the residual where there are such.  No gradient goes through the
 * norms, so here they are some numbers of their own. */
static void run(Bed *b, Tensor *const *in, Tensor **out, const void *ud)
{
    const Scaled *t = ud;
    BedDocs docs;
    bed_docs(b, &docs, 3, lens);
    LoraSlice slices[LORA_MAX_SLICES];
    DoraSlice dora[LORA_MAX_SLICES];
    for (int i = 0; i < t->n_slices; i++) {
        Tensor *const *abm = in + 2 + 3 * i;
        slices[i] =
            (LoraSlice){abm[0], abm[1], t->row0[i], 0.5f + (float)i, t->dropout, (uint64_t)i};
        Tensor *norm = bed_fill(b, bed_vector(b, tensor_numel(abm[2])), 90 + (uint64_t)i, 0.2, 1.5);
        dora[i] = (DoraSlice){abm[2], norm, t->row0[i]};
    }
    int at = 2 + 3 * t->n_slices;
    Tensor *bias = t->bias ? in[at++] : NULL, *residual = t->residual ? in[at] : NULL, *z, *rest;
    if (t->dropout > 0) {
        op_linear_dora(&b->ctx, in[0], in[1], bias, residual, slices, t->n_slices, docs.samples,
                       docs.positions, &z, &rest);
        out[0] = op_dora(&b->ctx, z, NULL, rest, dora, t->n_slices);
    } else {
        z = op_linear_lora(&b->ctx, in[0], in[1], NULL, NULL, slices, t->n_slices, NULL, NULL);
        out[0] = op_dora(&b->ctx, z, bias, residual, dora, t->n_slices);
    }
}

static const Scaled whole = {1, {0}}, some = {1, {3}, 0, true, true}, two = {2, {0, 5}},
                    dropped = {1, {0}, 0.5f}, dropped_some = {1, {3}, 0.3f, true, true},
                    dropped_two = {2, {0, 5}, 0.4f, false, true};

#define W                                                                                          \
    {                                                                                              \
        "w", 8, 7, .frozen = true, .param = true                                                   \
    }
#define ABM(i, rows, ...)                                                                          \
    {"a" #i, 2, 7, __VA_ARGS__}, {"b" #i, rows, 2, __VA_ARGS__},                                   \
    {                                                                                              \
        "m" #i, rows, .mean = 2, __VA_ARGS__                                                       \
    }

static const GradCase cases[] = {
    {"whole matrix", &whole, .in = {{"x", 6, 7}, W, ABM(0, 8, .param = true)}},
    {"some rows, bias, residual", &some,
     .in = {{"x", 6, 7}, W, ABM(0, 4, .param = true), {"bias", 8}, {"residual", 6, 8}}},
    {"two slices", &two,
     .in = {{"x", 6, 7}, W, ABM(0, 4, .param = true), ABM(1, 3, .param = true)}},
    {"dropout", &dropped, .in = {{"x", 6, 7}, W, ABM(0, 8, .param = true)}},
    {"dropout, some rows, bias, residual, pitch, twice", &dropped_some,
     .in = {{"x", 6, 7, .pad = 24},
            {"w", 8, 7, .pad = 24, .frozen = true},
            ABM(0, 4, .param = true),
            {"bias", 8},
            {"residual", 6, 8, .pad = 24}},
     .twice = true},
    {"dropout, frozen x, as in a first block", &dropped_two,
     .in = {{"x", 6, 7, .frozen = true},
            W,
            ABM(0, 4, .param = true),
            ABM(1, 3, .param = true),
            {"residual", 6, 8, .frozen = true}}},
    {"dropout, frozen adapter", &dropped, .in = {{"x", 6, 7}, W, ABM(0, 8, .frozen = true)}},
};

Test(dora, gradients)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect(gradcheck(&cases[i], run), "%s", cases[i].name);
}

/* ---- PEFT -------------------------------------------------------------------------------------- */

static const SafeTensor *find(const SafeTensors *f, const char *name, const char *key)
{
    char *full = str_format("%s.%s", name, key);
    const SafeTensor *t = safetensors_find(f, full);
    free(full);
    return t;
}

static Tensor *load(Bed *b, const SafeTensors *f, const char *name, const char *key)
{
    const SafeTensor *t = find(f, name, key);
    if (!t) return NULL;
    Tensor *to =
        t->n_dims == 2 ? bed_matrix(b, t->shape[0], t->shape[1], 0) : bed_vector(b, t->shape[0]);
    float *host = xmalloc(t->bytes);
    memcpy(host, t->data, t->bytes);
    tensor_write_f32(&b->dev, to, host);
    free(host);
    return to;
}

static Tensor *leaf(Bed *b, const SafeTensors *f, const char *name, const char *key)
{
    Tensor *t = load(b, f, name, key);
    cr_assert(t, "%s.%s", name, key);
    t->needs_grad = true;
    return t;
}

static void check_equal(Bed *b, const SafeTensors *f, const char *name, const char *key,
                        const Tensor *got)
{
    const SafeTensor *t = find(f, name, key);
    cr_assert(t && got, "%s.%s", name, key);
    int64_t n = safe_numel(t);
    cr_assert_eq(n, tensor_numel(got));
    double *want = xmalloc((size_t)n * sizeof *want);
    for (int64_t i = 0; i < n; i++) {
        float v;
        memcpy(&v, t->data + 4 * i, sizeof v);
        want[i] = (double)v;
    }
    float *values = bed_read(b, got);
    cr_expect(close_enough(key, values, want, n, close_tolerance(DT_F32, 64)), "%s.%s", name, key);
    free(values);
    free(want);
}

/* One target module of PEFT's, forward and backward, with the mask that ours draws. */
static void check_module(const SafeTensors *f, const char *name, uint64_t site)
{
    Bed b;
    bed_open(&b, 1);
    BedDocs docs;
    bed_docs(&b, &docs, 3, lens);
    b.ctx.key = 77;
    Tensor *x = leaf(&b, f, name, "x"), *la = leaf(&b, f, name, "a"), *lb = leaf(&b, f, name, "b"),
           *m = leaf(&b, f, name, "m"), *w = load(&b, f, name, "w"),
           *bias = load(&b, f, name, "bias"), *dy = load(&b, f, name, "dy"), *z, *rest;
    LoraSlice slice = {la, lb, 0, 6.0f / 4, 0.4f, site};
    Tensor *norm = bed_vector(&b, tensor_rows(w)), *base = bed_vector(&b, tensor_rows(w));
    dora_norms(&b.ctx, w, &slice, &(DoraNorms){norm, base, .measure_base = true}, 1);
    Tape *tape = tape_new(b.arena);
    b.ctx.tape = tape;
    scope_push(b.scope);
    op_linear_dora(&b.ctx, x, w, bias, NULL, &slice, 1, docs.samples, docs.positions, &z, &rest);
    Tensor *y = op_dora(&b.ctx, z, NULL, rest, &(DoraSlice){m, norm, 0}, 1);
    check_equal(&b, f, name, "y", y);
    scope_pop(b.scope, NULL);
    tensor_seed_grad(&b.ctx, y, 1);
    b.dev.k->copy(&b.dev, y->grad, dy);
    tape_backward(&b.ctx);
    b.ctx.tape = NULL;
    tape_free(tape);
    check_equal(&b, f, name, "dx", x->grad);
    check_equal(&b, f, name, "da", la->grad);
    check_equal(&b, f, name, "db", lb->grad);
    check_equal(&b, f, name, "dm", m->grad);
    Tensor *leaves[] = {x, la, lb, m};
    for (int i = 0; i < 4; i++)
        tensor_drop_grad(leaves[i]);
    bed_close(&b);
}

Test(dora, dropout_is_pefts)
{
    char *path = source_path("tests/fixtures/dora_dropout.safetensors");
    SafeTensors *f;
    Err err = {0};
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    check_module(f, "one", 1);
    check_module(f, "two", 2);
    safetensors_close(f);
    free(path);
}
