/* The linear op with low-rank adapters that drop their input, as DoRA needs it (peft tuners/lora/variants.py, dora.py): what
 * a magnitude scales is the product of the dropped input with base and adapter alike, and the base's own product of the
 * whole input stays in place of the base's part of that.
 *
 *   x_i = drop(x),  p = x_i W_i^T,  u = x_i a^T,  z_i = p + scale u b^T,  rest_i = residual + bias + x W_i^T - p
 *   dp = dz_i - drest_i,  du = scale dz_i b,  db = scale dz_i^T u,  da = du^T x_i
 *   dx = drest W + sum of mask_i (dp W_i + du a)
 *
 * x_i is not kept: the mask is a function of counters. */
#include "autograd/operand.h"
#include "autograd/ops/lora_node.h"

enum { Z, REST }; /* of out[] */

/* ---- forward ------------------------------------------------------------------------------------ */

/* Rows of W that no adapter sits on have all of their product in rest. */
static bool covers(const LoraSlice *s, int n, int64_t cols)
{
    int64_t rows = 0;
    for (int i = 0; i < n; i++)
        rows += tensor_rows(s[i].b);
    return rows == cols;
}

/* u is written when `fresh`; it was kept otherwise. */
static void slice_forward(Ctx *c, Tensor *z, Tensor *rest, const Tensor *x, Tensor *values,
                          const LoraArgs *args, int i, Tensor *u, bool fresh)
{
    const Kernels *k = c->dev->k;
    const LoraSlice *s = &args->slices[i];
    int64_t rows = tensor_rows(s->b);
    ASSERT(s->row0 >= 0 && s->row0 + rows <= tensor_cols(z), "linear_dora: rows %lld to %lld",
           (long long)s->row0, (long long)(s->row0 + rows));
    Tensor z_i = tensor_slice_cols(z, s->row0, rows),
           rest_i = tensor_slice_cols(rest, s->row0, rows),
           w_i = tensor_slice_rows(values, s->row0, rows);
    DropoutArgs drop = lora_dropout(c, args, s);
    Tensor *dropped = rule_scratch(c, x->dtype, tensor_rows(x), tensor_cols(x));
    k->dropout_fwd(c->dev, dropped, x, &drop);
    k->matmul(c->dev, &z_i, dropped, &w_i, (MatmulArgs){.trans_b = true, .alpha = 1});
    k->axpy(c->dev, &rest_i, -1, &z_i);
    if (fresh) k->matmul(c->dev, u, dropped, s->a, (MatmulArgs){.trans_b = true, .alpha = 1});
    k->matmul(c->dev, &z_i, u, s->b, (MatmulArgs){.trans_b = true, .alpha = s->scale, .beta = 1});
    scope_drop(c->scope, dropped);
}

static void forward(Ctx *c, Tensor *z, Tensor *rest, const Tensor *x, Tensor *w, const Tensor *bias,
                    const Tensor *residual, const LoraArgs *args, Tensor *const *u, bool fresh)
{
    Tensor *values = operand_open(c, w);
    if (!covers(args->slices, args->n, tensor_cols(z))) tensor_zero(c->dev, z);
    linear_forward(c, rest, x, values, bias, residual);
    for (int i = 0; i < args->n; i++)
        slice_forward(c, z, rest, x, values, args, i, u[i], fresh);
    operand_close(c, w, values);
}

/* ---- backward ----------------------------------------------------------------------------------- */

static void slice_backward(Ctx *c, Node *n, int i, Tensor *dx, const Tensor *values)
{
    const Kernels *k = c->dev->k;
    const LoraArgs *args = n->args;
    const LoraSlice *s = &args->slices[i];
    Tensor *const *saved = &n->saved[LORA_SAVE_SLICE + 3 * i];
    Tensor *a = saved[0], *b = saved[1], *u = saved[2], *da, *db;
    const Tensor *x = tape_saved(c, n, LORA_SAVE_X);
    Tensor dz = tensor_slice_cols(grad_of(n, Z), s->row0, tensor_rows(b));
    DropoutArgs drop = lora_dropout(c, args, s);
    float beta;
    if ((db = grad_into(c, n->in[LORA_B0 + 2 * i], &beta)) != NULL)
        k->matmul(c->dev, db, &dz, u,
                  (MatmulArgs){.trans_a = true, .alpha = s->scale, .beta = beta});
    da = grad_into(c, n->in[LORA_A0 + 2 * i], &beta);
    if (!dx && !da) return;

    Tensor *du = rule_scratch(c, u->dtype, tensor_rows(u), tensor_cols(u));
    k->matmul(c->dev, du, &dz, b, (MatmulArgs){.alpha = s->scale});
    Tensor *full = rule_scratch(c, x->dtype, tensor_rows(x), tensor_cols(x));
    if (da) {
        k->dropout_fwd(c->dev, full, x, &drop);
        k->matmul(c->dev, da, du, full, (MatmulArgs){.trans_a = true, .alpha = 1, .beta = beta});
    }
    if (dx) {
        Tensor *dp = rule_scratch(c, dz.dtype, tensor_rows(&dz), tensor_cols(&dz));
        Tensor drest = tensor_slice_cols(grad_of(n, REST), s->row0, tensor_rows(b)),
               w = tensor_slice_rows(values, s->row0, tensor_rows(b));
        k->copy(c->dev, dp, &dz);
        k->axpy(c->dev, dp, -1, &drest);
        k->matmul(c->dev, full, dp, &w, (MatmulArgs){.alpha = 1});
        k->matmul(c->dev, full, du, a, (MatmulArgs){.alpha = 1, .beta = 1});
        k->dropout_bwd(c->dev, dx, 1, full, &drop);
        scope_drop(c->scope, dp);
    }
    scope_drop(c->scope, full);
    scope_drop(c->scope, du);
}

static void linear_dora_backward(Ctx *c, Node *n)
{
    const LoraArgs *args = n->args;
    Tensor *w = n->saved[LORA_SAVE_W], *values = NULL, *drest = grad_of(n, REST);
    float beta;
    Tensor *dx = grad_into(c, n->in[LORA_X], &beta);
    if (dx) {
        values = operand_open(c, w);
        linear_dx(c, dx, beta, drest, values);
    }
    for (int i = 0; i < args->n; i++)
        slice_backward(c, n, i, dx, values);
    if (dx) operand_close(c, w, values);
    Tensor *db = grad_into(c, n->in[LORA_BIAS], &beta);
    if (db) c->dev->k->bias_bwd(c->dev, db, beta, drest);
    grad_pass(c, n, REST, n->in[LORA_RESIDUAL]);
}

static void linear_dora_remake(Ctx *c, Node *n)
{
    const LoraArgs *args = n->args;
    const Tensor *x = tape_saved(c, n, LORA_SAVE_X),
                 *residual = tape_saved(c, n, LORA_SAVE_RESIDUAL);
    Tensor *u[LORA_MAX_SLICES];
    for (int i = 0; i < args->n; i++)
        u[i] = n->saved[LORA_SAVE_SLICE + 3 * i + 2];
    forward(c, tape_output(c, n, Z), tape_output(c, n, REST), x, n->saved[LORA_SAVE_W],
            n->saved[LORA_SAVE_BIAS], residual, args, u, false);
}

static const Op linear_dora_op = {.name = "linear_dora",
                                  .backward = linear_dora_backward,
                                  .remake = linear_dora_remake,
                                  .remade_from = RECOMPUTE_ATTENTION};

void op_linear_dora(Ctx *c, Tensor *x, Tensor *w, Tensor *bias, Tensor *residual,
                    const LoraSlice *lora, int n_lora, const Tensor *samples,
                    const Tensor *positions, Tensor **z, Tensor **rest)
{
    op_begin(c, &linear_dora_op);
    ASSERT(n_lora >= 1 && n_lora <= LORA_MAX_SLICES, "linear_dora: %d adapters", n_lora);
    ASSERT(!w->needs_grad, "linear_dora: %s is trained", w->name ? w->name : "w");
    Tensor *out[2] = {[Z] = tensor_new_matrix(c, tensor_rows(x), tensor_rows(w)),
                      [REST] = linear_output(c, x, w, residual, 0)};
    LoraArgs *args = lora_args_new(c, lora, n_lora, samples, positions);
    Tensor *u[LORA_MAX_SLICES];
    for (int i = 0; i < n_lora; i++)
        u[i] = tensor_new_matrix(c, tensor_rows(x), tensor_rows(lora[i].a));
    forward(c, out[Z], out[REST], x, w, bias, residual, args, u, true);
    lora_record(c, &linear_dora_op, 2, out, x, w, bias, residual, args, u);
    *z = out[Z];
    *rest = out[REST];
}
