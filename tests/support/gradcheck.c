/* Finite differences: f32 forward passes, losses summed in double on the host. */
#include "tests/support/gradcheck.h"

#include "base/str.h"
#include "tests/support/close.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Steps of h and 2h cancel the cubic term, so h may be large beside the rounding of f32: with h = 2^-6 the rest is
 * about h^4 = 6e-8 of the fifth derivative, and rounding about 2^-24 / h = 4e-6 of the outputs for each term.  h
 * is a multiple of the grid on which bed_fill draws: x + h is exact. */
static const double STEP = 0x1p-6;
static const double TOLERANCE = 1e-4;
enum { MAX_ELEMENTS = 150 };

typedef struct Check {
    const GradCase *g;
    GradFn *fn;
    Bed bed;
    Tensor *in[GRAD_MAX_IN];
    int n_in, n_out;
} Check;

static double weight_of(const Check *k, int call, int out, int64_t i)
{
    return k->g->weight != 0 ? k->g->weight
                             : rng_normal((uint64_t)(1000 + 10 * call + out), (uint64_t)i);
}

static double loss_of(Check *k)
{
    Bed *b = &k->bed;
    double loss = 0;
    for (int call = 0; call < (k->g->twice ? 2 : 1); call++) {
        Tensor *out[GRAD_MAX_OUT];
        scope_push(b->scope);
        k->fn(b, k->in, out, k->g->ud);
        for (int o = 0; o < k->n_out; o++) {
            float *y = bed_read(b, out[o]);
            for (int64_t i = 0; i < tensor_numel(out[o]); i++)
                loss += weight_of(k, call, o, i) * (double)y[i];
            free(y);
        }
        scope_pop(b->scope, NULL);
    }
    return loss;
}

/* The element is addressed through a view, so that a pad stays what it is. */
static double loss_at(Check *k, Tensor *x, int64_t i, float value)
{
    Tensor element = *x;
    element.n_dims = 1;
    element.shape[0] = element.ld = 1;
    element.offset += (size_t)(i / tensor_cols(x) * x->ld + i % tensor_cols(x)) * sizeof(float);
    tensor_write(&k->bed.dev, &element, &value);
    return loss_of(k);
}

static double difference(Check *k, Tensor *x, int64_t i, float at)
{
    double h = STEP;
    double near = loss_at(k, x, i, at + (float)h) - loss_at(k, x, i, at - (float)h);
    double far = loss_at(k, x, i, at + 2 * (float)h) - loss_at(k, x, i, at - 2 * (float)h);
    loss_at(k, x, i, at);
    return (8 * near - far) / (12 * h);
}

/* The outputs' memory is dropped before backward: rules may read only what they saved. */
static void run_backward(Check *k)
{
    Bed *b = &k->bed;
    Tape *tape = tape_new(b->arena);
    b->ctx.tape = tape;
    Tensor *out[2][GRAD_MAX_OUT];
    int n_calls = k->g->twice ? 2 : 1;
    scope_push(b->scope);
    for (int call = 0; call < n_calls; call++)
        k->fn(b, k->in, out[call], k->g->ud);
    scope_pop(b->scope, NULL);
    for (int call = 0; call < n_calls; call++) {
        for (int o = 0; o < k->n_out; o++) {
            Tensor *y = out[call][o];
            if (!y->needs_grad) continue;
            float *r = xmalloc((size_t)tensor_numel(y) * sizeof *r);
            for (int64_t i = 0; i < tensor_numel(y); i++)
                r[i] = (float)weight_of(k, call, o, i);
            tensor_seed_grad(&b->ctx, y, 1);
            tensor_write_f32(&b->dev, y->grad, r);
            free(r);
        }
    }
    tape_backward(&b->ctx);
    b->ctx.tape = NULL;
    tape_free(tape);
}

static bool check_input(Check *k, int index)
{
    const GradInput *spec = &k->g->in[index];
    Tensor *x = k->in[index];
    char what[256];
    snprintf(what, sizeof what, "%s: d%s", k->g->name, spec->name);
    if (spec->frozen) {
        if (x->grad) fprintf(stderr, "%s: frozen, but has a gradient\n", what);
        return !x->grad;
    }
    if (!x->grad) {
        fprintf(stderr, "%s: no gradient\n", what);
        return false;
    }
    int64_t n = tensor_numel(x), step = n / MAX_ELEMENTS + 1, n_checked = 0;
    float *values = bed_read(&k->bed, x), *grad = bed_read(&k->bed, x->grad);
    float *got = xmalloc((size_t)n * sizeof *got);
    double *want = xmalloc((size_t)n * sizeof *want);
    for (int64_t i = 0; i < n; i += step, n_checked++) {
        got[n_checked] = grad[i];
        want[n_checked] = difference(k, x, i, values[i]);
    }
    bool ok = close_enough(what, got, want, n_checked, TOLERANCE);
    if (!spec->param) tensor_drop_grad(x);
    if (!bed_pad_intact(&k->bed, x)) {
        fprintf(stderr, "%s: the input's pad was written\n", what);
        ok = false;
    }
    free(values);
    free(grad);
    free(got);
    free(want);
    return ok;
}

static Tensor *make_input(Bed *b, const GradInput *spec, int index)
{
    Tensor *x =
        spec->cols ? bed_matrix(b, spec->rows, spec->cols, spec->pad) : bed_vector(b, spec->rows);
    bed_fill(b, x, (uint64_t)(1 + index), spec->sigma != 0 ? spec->sigma : 1, spec->mean);
    x->name = spec->name;
    x->needs_grad = !spec->frozen;
    x->is_param = spec->param;
    if (spec->param && !spec->frozen)
        x->grad = spec->cols ? bed_matrix(b, spec->rows, spec->cols, spec->pad)
                             : bed_vector(b, spec->rows);
    return x;
}

bool gradcheck(const GradCase *g, GradFn *fn)
{
    Check k = {.g = g, .fn = fn, .n_out = g->n_out ? g->n_out : 1};
    bed_open(&k.bed, 2);
    for (; k.n_in < GRAD_MAX_IN && g->in[k.n_in].name; k.n_in++)
        k.in[k.n_in] = make_input(&k.bed, &g->in[k.n_in], k.n_in);
    run_backward(&k);
    bool ok = true;
    for (int i = 0; i < k.n_in; i++)
        ok &= check_input(&k, i);
    bed_close(&k.bed);
    return ok;
}
