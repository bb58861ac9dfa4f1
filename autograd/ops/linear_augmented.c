/* The linear op with adapters in the augmented layout: base and adapter in one product each way, at the price of
 * R columns behind the operands.  What the separate form (linear_lora.c) spends on reading and rewriting y and dx
 * for skinny products is gone; the mathematics and the roundings are the same. */
#include "autograd/operand.h"
#include "autograd/ops.h"
#include "autograd/param.h"

enum { X, W, BIAS, RESIDUAL, A0, B0 }; /* of in[]; the second slice's a, b follow */
/* u is kept by itself where x is made again, which does not bring back what lay behind it */
enum { SAVE_X, SAVE_W, SAVE_U, SAVE_BIAS, SAVE_RESIDUAL };

typedef struct AugmentedArgs {
    LoraSlice slices[LORA_MAX_SLICES];
    int n;
    int64_t rank; /* R */
    uint64_t version;
} AugmentedArgs;

int64_t lora_pad(int64_t total_rank)
{
    enum { UNIT = 64 }; /* columns: in bf16 a line of the cache, so that rows begin with one */
    return (total_rank + UNIT - 1) / UNIT * UNIT;
}

/* Rows and columns of the matrix that t's storage holds around it: same pitch, from t's first element on. */
static Tensor around(const Tensor *t, int64_t row0, int64_t rows, int64_t col0, int64_t cols)
{
    ASSERT(col0 + cols <= t->ld, "%s: columns %lld+%lld in a pitch of %lld",
           t->name ? t->name : "?", (long long)col0, (long long)cols, (long long)t->ld);
    Tensor v = *t;
    v.n_dims = 2;
    v.shape[0] = rows;
    v.shape[1] = cols;
    v.offset += (size_t)(row0 * t->ld + col0) * dtype_bytes(t->dtype);
    v.grad = NULL;
    v.is_param = v.needs_grad = false;
    return v;
}

/* M with A and sB in its room, unless they are there. */
static Tensor *open_matrix(Ctx *c, Tensor *w, const AugmentedArgs *args)
{
    Tensor *m = operand_open(c, w);
    uint64_t *holds = operand_room(c, m);
    if (holds && *holds == args->version) return m;
    if (holds) *holds = args->version;
    AdapterPart parts[LORA_MAX_SLICES];
    for (int i = 0; i < args->n; i++) {
        const LoraSlice *s = &args->slices[i];
        parts[i] = (AdapterPart){s->a, s->b, s->row0, s->scale};
    }
    c->dev->k->write_adapters(c->dev, m, parts, args->n);
    return m;
}

static void linear_augmented_backward(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    const AugmentedArgs *args = n->args;
    Tensor *dy = grad_of(n, 0), *w = open_matrix(c, n->saved[SAVE_W], args);
    int64_t rows = tensor_rows(dy), out = tensor_rows(w), in = tensor_cols(w), rank = args->rank;
    float beta;

    Tensor du = around(dy, 0, rows, out, rank), sb = around(w, 0, out, in, rank);
    k->matmul(c->dev, &du, dy, &sb, (MatmulArgs){.alpha = 1});
    Tensor *dx = grad_into(c, n->in[X], &beta);
    if (dx) {
        Tensor dy_du = around(dy, 0, rows, 0, out + rank), w_a = around(w, 0, out + rank, 0, in);
        k->matmul(c->dev, dx, &dy_du, &w_a, (MatmulArgs){.alpha = 1, .beta = beta});
    }
    operand_close(c, n->saved[SAVE_W], w);
}

/* da of all slices: one product reads x once for them; its rows then go their ways. */
static void grads_of_a(Ctx *c, Node *n, const Tensor *du, const Tensor *x)
{
    const Kernels *k = c->dev->k;
    const AugmentedArgs *args = n->args;
    MatmulArgs product = {.trans_a = true, .alpha = 1};
    Tensor *da[LORA_MAX_SLICES], *all = NULL;
    float beta[LORA_MAX_SLICES];
    for (int i = 0; i < args->n; i++)
        da[i] = grad_into(c, n->in[A0 + 2 * i], &beta[i]);
    if (args->n == 1) {
        product.beta = beta[0];
        if (da[0]) k->matmul(c->dev, da[0], du, x, product);
        return;
    }
    for (int i = 0; i < args->n && !all; i++)
        if (da[i]) all = rule_scratch(c, da[i]->dtype, args->rank, tensor_cols(x));
    if (!all) return;
    k->matmul(c->dev, all, du, x, product);
    int64_t at = 0;
    for (int i = 0; i < args->n; i++) {
        int64_t r = tensor_rows(args->slices[i].a);
        Tensor part = tensor_slice_rows(all, at, r);
        at += r;
        if (!da[i]) continue;
        if (beta[i] == 0)
            k->copy(c->dev, da[i], &part);
        else
            k->axpy(c->dev, da[i], 1, &part);
    }
}

static void linear_augmented_finish(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    const AugmentedArgs *args = n->args;
    Tensor *dy = grad_of(n, 0), *w = n->saved[SAVE_W];
    int64_t rows = tensor_rows(dy), out = tensor_rows(w), in = tensor_cols(w), rank = args->rank;
    float beta;
    Tensor *db = grad_into(c, n->in[BIAS], &beta);
    if (db) k->bias_bwd(c->dev, db, beta, dy);

    const Tensor *x = tape_saved(c, n, SAVE_X);
    Tensor u = n->saved[SAVE_U] ? *n->saved[SAVE_U] : around(x, 0, rows, in, rank);
    Tensor du = around(dy, 0, rows, out, rank);
    grads_of_a(c, n, &du, x);
    int64_t at = 0;
    for (int i = 0; i < args->n; i++) {
        const LoraSlice *s = &args->slices[i];
        int64_t r = tensor_rows(s->a);
        Tensor u_i = tensor_slice_cols(&u, at, r);
        Tensor dy_i = tensor_slice_cols(dy, s->row0, tensor_rows(s->b));
        Tensor *db_i = grad_into(c, n->in[B0 + 2 * i], &beta);
        if (db_i)
            k->matmul(c->dev, db_i, &dy_i, &u_i,
                      (MatmulArgs){.trans_a = true, .alpha = s->scale, .beta = beta});
        at += r;
    }
    grad_pass(c, n, 0, n->in[RESIDUAL]);
}

/* y = residual + [x u] [W sB]^T + bias, where u lies behind x */
static void augmented_forward(Ctx *c, Tensor *y, const Tensor *x, Tensor *w, const Tensor *bias,
                              const Tensor *residual, int64_t rank)
{
    int64_t in = tensor_cols(w) + rank;
    Tensor x_u = around(x, 0, tensor_rows(x), 0, in), w_sb = around(w, 0, tensor_rows(w), 0, in);
    linear_forward(c, y, &x_u, &w_sb, bias, residual);
}

static void linear_augmented_remake(Ctx *c, Node *n)
{
    const AugmentedArgs *args = n->args;
    const Tensor *x = tape_saved(c, n, SAVE_X), *residual = tape_saved(c, n, SAVE_RESIDUAL);
    if (n->saved[SAVE_U]) {
        Tensor u = around(x, 0, tensor_rows(x), tensor_cols(x), args->rank);
        c->dev->k->copy(c->dev, &u, n->saved[SAVE_U]);
    }
    Tensor *y = tape_output(c, n, 0), *m = open_matrix(c, n->saved[SAVE_W], args);
    augmented_forward(c, y, x, m, n->saved[SAVE_BIAS], residual, args->rank);
    operand_close(c, n->saved[SAVE_W], m);
}

static const Op linear_augmented_op = {.name = "linear_augmented",
                                       .backward = linear_augmented_backward,
                                       .finish = linear_augmented_finish,
                                       .remake = linear_augmented_remake,
                                       .remade_from = RECOMPUTE_ATTENTION};

Tensor *op_linear_augmented(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                            const LoraSlice *lora, int n_lora, uint64_t version)
{
    op_begin(c, &linear_augmented_op);
    ASSERT(n_lora >= 1 && n_lora <= LORA_MAX_SLICES, "linear_augmented: %d adapters", n_lora);
    ASSERT(!w->needs_grad, "linear_augmented: %s is trained", w->name ? w->name : "?");
    const Kernels *k = c->dev->k;
    int64_t rows = tensor_rows(x), out = tensor_rows(w), in = tensor_cols(w);
    AugmentedArgs *args = arena_alloc(c->arena, sizeof *args);
    *args = (AugmentedArgs){.n = n_lora, .version = version};
    Tensor *inputs[NODE_MAX_IN] = {x, w, bias, residual};
    for (int i = 0; i < n_lora; i++) {
        ASSERT(lora[i].dropout == 0, "linear_augmented: dropout %g", (double)lora[i].dropout);
        args->slices[i] = lora[i];
        args->rank += tensor_rows(lora[i].a);
        inputs[A0 + 2 * i] = lora[i].a;
        inputs[B0 + 2 * i] = lora[i].b;
    }
    Tensor *y = linear_output(c, x, w, residual, lora_pad(args->rank));
    Tensor *m = open_matrix(c, w, args);
    Tensor u = around(x, 0, rows, in, args->rank), a = around(m, out, args->rank, 0, in);
    k->matmul(c->dev, &u, x, &a, (MatmulArgs){.trans_b = true, .alpha = 1});
    augmented_forward(c, y, x, m, bias, residual, args->rank);
    operand_close(c, w, m);

    Node *n = tape_record(c, &linear_augmented_op, 1, (Tensor *[]){y}, A0 + 2 * n_lora, inputs);
    if (n) {
        n->args = args;
        tape_save(n, SAVE_X, x);
        tape_save(n, SAVE_W, w);
        tape_save_source(n, SAVE_BIAS, bias);
        tape_save_source(n, SAVE_RESIDUAL, residual);
        if (x->maker) {
            int64_t pad = lora_pad(args->rank) - args->rank;
            Tensor *kept = tensor_new_padded(c, rows, args->rank, pad);
            k->copy(c->dev, kept, &u);
            tape_save(n, SAVE_U, kept);
        }
    }
    return y;
}
