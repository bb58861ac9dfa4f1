/* The linear op with low-rank adapters (Hu et al. 2021) on row slices of its matrix, in the separate form: the
 * adapter's products stand beside the base's.
 *
 *   z = drop(x),  u = z a^T,  y[:, slice] += scale u b^T
 *   du = scale dy[:, slice] b,  db = scale dy[:, slice]^T u,  da = du^T z,  dx += mask (du a)
 *
 * z is not kept: the mask is a function of counters, so backward draws it again. */
#include "autograd/ops/lora_node.h"

static void slice_backward(Ctx *c, Node *n, int i)
{
    const Kernels *k = c->dev->k;
    const LoraArgs *args = n->args;
    const LoraSlice *s = &args->slices[i];
    const Tensor *x = tape_saved(c, n, LORA_SAVE_X);
    Tensor *const *saved = &n->saved[LORA_SAVE_SLICE + 3 * i];
    Tensor *a = saved[0], *b = saved[1], *u = saved[2];
    Tensor dy = tensor_slice_cols(grad_of(n, 0), s->row0, tensor_rows(b));
    DropoutArgs drop = lora_dropout(c, args, s);
    float beta;

    Tensor *db = grad_into(c, n->in[LORA_B0 + 2 * i], &beta);
    if (db)
        k->matmul(c->dev, db, &dy, u,
                  (MatmulArgs){.trans_a = true, .alpha = s->scale, .beta = beta});
    if (!n->in[LORA_X]->needs_grad && !n->in[LORA_A0 + 2 * i]->needs_grad) return;

    Tensor *du = rule_scratch(c, u->dtype, tensor_rows(u), tensor_cols(u));
    k->matmul(c->dev, du, &dy, b, (MatmulArgs){.alpha = s->scale});
    Tensor *full =
        s->dropout > 0 ? rule_scratch(c, x->dtype, tensor_rows(x), tensor_cols(x)) : NULL;
    Tensor *da = grad_into(c, n->in[LORA_A0 + 2 * i], &beta);
    if (da) {
        if (full) k->dropout_fwd(c->dev, full, x, &drop);
        k->matmul(c->dev, da, du, full ? full : x,
                  (MatmulArgs){.trans_a = true, .alpha = 1, .beta = beta});
    }
    Tensor *dx = grad_into(c, n->in[LORA_X], &beta);
    if (!dx) return;
    if (full) {
        k->matmul(c->dev, full, du, a, (MatmulArgs){.alpha = 1});
        k->dropout_bwd(c->dev, dx, beta, full, &drop);
    } else {
        k->matmul(c->dev, dx, du, a, (MatmulArgs){.alpha = 1, .beta = beta});
    }
}

static void linear_lora_backward(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    const LoraArgs *args = n->args;
    Tensor *dy = grad_of(n, 0);
    float beta;
    Tensor *dx = grad_into(c, n->in[LORA_X], &beta);
    if (dx) linear_dx(c, dx, beta, dy, n->saved[LORA_SAVE_W]);
    Tensor *dw = grad_into(c, n->in[LORA_W], &beta);
    if (dw)
        k->matmul(c->dev, dw, dy, tape_saved(c, n, LORA_SAVE_X),
                  (MatmulArgs){.trans_a = true, .alpha = 1, .beta = beta});
    Tensor *db = grad_into(c, n->in[LORA_BIAS], &beta);
    if (db) k->bias_bwd(c->dev, db, beta, dy);
    for (int i = 0; i < args->n; i++)
        slice_backward(c, n, i);
    grad_pass(c, n, 0, n->in[LORA_RESIDUAL]);
}

/* y[:, slice] += scale u b^T */
static void slice_add(Ctx *c, Tensor *y, const Tensor *u, const Tensor *b, const LoraSlice *s)
{
    Tensor part = tensor_slice_cols(y, s->row0, tensor_rows(b));
    c->dev->k->matmul(c->dev, &part, u, b,
                      (MatmulArgs){.trans_b = true, .alpha = s->scale, .beta = 1});
}

static void linear_lora_remake(Ctx *c, Node *n)
{
    const LoraArgs *args = n->args;
    const Tensor *x = tape_saved(c, n, LORA_SAVE_X),
                 *residual = tape_saved(c, n, LORA_SAVE_RESIDUAL);
    Tensor *y = tape_output(c, n, 0);
    linear_forward(c, y, x, n->saved[LORA_SAVE_W], n->saved[LORA_SAVE_BIAS], residual);
    for (int i = 0; i < args->n; i++) {
        Tensor *const *saved = &n->saved[LORA_SAVE_SLICE + 3 * i];
        slice_add(c, y, saved[2], saved[1], &args->slices[i]);
    }
}

static const Op linear_lora_op = {.name = "linear_lora",
                                  .backward = linear_lora_backward,
                                  .remake = linear_lora_remake,
                                  .remade_from = RECOMPUTE_ATTENTION};

/* y[:, slice] += scale drop(x) a^T b^T; returns u. */
static Tensor *slice_forward(Ctx *c, Tensor *y, Tensor *x, const LoraArgs *args, int i)
{
    const Kernels *k = c->dev->k;
    const LoraSlice *s = &args->slices[i];
    ASSERT(s->row0 >= 0 && s->row0 + tensor_rows(s->b) <= tensor_cols(y),
           "linear_lora: rows %lld to %lld of %lld", (long long)s->row0,
           (long long)(s->row0 + tensor_rows(s->b)), (long long)tensor_cols(y));
    Tensor *u = tensor_new_matrix(c, tensor_rows(x), tensor_rows(s->a));
    Tensor *z = x;
    if (s->dropout > 0) {
        DropoutArgs drop = lora_dropout(c, args, s);
        z = tensor_like(c, x);
        k->dropout_fwd(c->dev, z, x, &drop);
    }
    k->matmul(c->dev, u, z, s->a, (MatmulArgs){.trans_b = true, .alpha = 1});
    if (z != x) scope_drop(c->scope, z);
    slice_add(c, y, u, s->b, s);
    return u;
}

Tensor *op_linear_lora(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                       const LoraSlice *lora, int n_lora, const Tensor *samples,
                       const Tensor *positions)
{
    op_begin(c, &linear_lora_op);
    ASSERT(n_lora >= 1 && n_lora <= LORA_MAX_SLICES, "linear_lora: %d adapters", n_lora);
    Tensor *y = linear_output(c, x, w, residual, 0);
    linear_forward(c, y, x, w, bias, residual);

    LoraArgs *args = lora_args_new(c, lora, n_lora, samples, positions);
    Tensor *u[LORA_MAX_SLICES];
    for (int i = 0; i < n_lora; i++)
        u[i] = slice_forward(c, y, x, args, i);
    lora_record(c, &linear_lora_op, 1, (Tensor *[]){y}, x, w, bias, residual, args, u);
    return y;
}
