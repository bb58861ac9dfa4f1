/* Results do not depend on the number of threads: a block of ops, forward and backward, to the bit. */
#include "autograd/ops.h"
#include "tests/support/bed.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { N_DOCS = 4, C = 72, H = 6, K = 3, D = 12, F = 100, V = 300, R = 4 };
static const int32_t lens[N_DOCS] = {150, 1, 77, 300};

typedef struct Results {
    float *data[16];
    size_t bytes[16];
    int n;
} Results;

static void keep(Bed *b, Results *r, Tensor *t)
{
    r->data[r->n] = bed_read(b, t);
    r->bytes[r->n++] = (size_t)tensor_numel(t) * sizeof(float);
}

static Tensor *param(Bed *b, uint64_t key, int64_t rows, int64_t cols)
{
    Tensor *t = cols ? bed_matrix(b, rows, cols, 0) : bed_vector(b, rows);
    bed_fill(b, t, key, cols ? 0.1 : 0.2, cols ? 0 : 1);
    t->is_param = t->needs_grad = true;
    t->grad = cols ? bed_matrix(b, rows, cols, 0) : bed_vector(b, rows);
    return t;
}

static void run(int threads, Results *results)
{
    Bed b;
    bed_open(&b, threads);
    BedDocs docs;
    bed_docs(&b, &docs, N_DOCS, lens);
    int32_t ids[528], targets[528];
    for (int i = 0; i < docs.n; i++) {
        ids[i] = (int32_t)rng_below(1, (uint64_t)i, V);
        targets[i] = (int32_t)rng_below(2, (uint64_t)i, V);
    }
    enum { EMBED, NORM, QKV, BIAS, O, GATE_UP, DOWN, LORA_A, LORA_B, N_PARAMS };
    Tensor *p[N_PARAMS] = {
        param(&b, 1, V, C),
        param(&b, 2, C, 0),
        param(&b, 3, (H + 2 * K) * D, C),
        param(&b, 4, (H + 2 * K) * D, 0),
        param(&b, 5, C, H * D),
        param(&b, 6, 2 * F, C),
        param(&b, 7, C, F),
        param(&b, 8, R, F),
        param(&b, 9, C, R),
    };
    Tape *tape = tape_new(b.arena);
    b.ctx.tape = tape;
    Ctx *c = &b.ctx;
    Tensor *x = op_embedding(c, bed_i32(&b, ids, docs.n), p[EMBED]);
    Tensor *h = op_rmsnorm(c, x, p[NORM], 1e-5f, 0), *q, *k, *v;
    op_split_rope(c, op_linear(c, h, p[QKV], p[BIAS], NULL), docs.positions, bed_rope(&b, 300, D),
                  NULL, NULL, H, K, 0, &q, &k, &v);
    x = op_linear(c, op_attention(c, q, k, v, H, K, &docs.docs, 0), p[O], NULL, x);
    h = op_swiglu(c, op_linear(c, op_rmsnorm(c, x, p[NORM], 1e-5f, 0), p[GATE_UP], NULL, NULL), 0);
    LoraSlice lora = {p[LORA_A], p[LORA_B], 0, 2, 0.1f, 5};
    x = op_linear_lora(c, h, p[DOWN], NULL, x, &lora, 1, docs.samples, docs.positions);
    Tensor *sum = bed_fill(&b, bed_vector(&b, 1), 1, 0, 0);
    Tensor *loss =
        op_linear_xent(c, x, p[EMBED], bed_i32(&b, targets, docs.n), 0.01f, sum, NULL, 100);
    keep(&b, results, loss);
    tensor_seed_grad(c, loss, 1);
    tape_backward(c);
    c->tape = NULL;
    tape_free(tape);
    for (int i = 0; i < N_PARAMS; i++)
        keep(&b, results, p[i]->grad);
    Tensor *norm = bed_vector(&b, 1);
    b.dev.k->sum_squares(&b.dev, norm, 0, p[EMBED]->grad);
    keep(&b, results, norm);
    bed_close(&b);
}

Test(threads, do_not_change_a_bit)
{
    static const int threads[] = {1, 4, 3};
    Results r[3] = {0};
    for (int i = 0; i < 3; i++)
        run(threads[i], &r[i]);
    for (int i = 1; i < 3; i++)
        for (int j = 0; j < r[0].n; j++)
            cr_expect(memcmp(r[0].data[j], r[i].data[j], r[0].bytes[j]) == 0,
                      "result %d on %d threads", j, threads[i]);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < r[i].n; j++)
            free(r[i].data[j]);
}
