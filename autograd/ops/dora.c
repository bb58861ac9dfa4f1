/* DoRA (Liu et al. 2024; peft tuners/lora/dora.py): the rows of V = W + s B A keep their direction, and their length is a
 * parameter m.  With z = x V^T and the norms n of V's rows, which no gradient goes through:
 *
 *   y[:, slice] = z m / n,   dz = dy m / n,   dm = sum over rows of dy z / n */
#include "autograd/operand.h"
#include "autograd/ops.h"

enum { Z, BIAS, RESIDUAL, M0 };
enum { SAVE_Z, SAVE_BIAS, SAVE_RESIDUAL, SAVE_SLICE }; /* m and norm of each slice follow */

typedef struct DoraArgs {
    DoraSlice slices[LORA_MAX_SLICES];
    int n;
} DoraArgs;

/* Calls fn for what lies between the slices, which passes unchanged. */
static void pass_gaps(Ctx *c, const DoraArgs *args, Tensor *to, const Tensor *from, float beta)
{
    int64_t at = 0, cols = tensor_cols(from);
    for (int i = 0; i <= args->n; i++) {
        int64_t end = i < args->n ? args->slices[i].row0 : cols;
        if (end > at) {
            Tensor a = tensor_slice_cols(to, at, end - at),
                   b = tensor_slice_cols(from, at, end - at);
            if (beta != 0)
                c->dev->k->axpy(c->dev, &a, 1, &b);
            else
                c->dev->k->copy(c->dev, &a, &b);
        }
        if (i < args->n) at = end + tensor_numel(args->slices[i].m);
    }
}

static void dora_backward(Ctx *c, Node *n)
{
    const Kernels *k = c->dev->k;
    const DoraArgs *args = n->args;
    Tensor *dy = grad_of(n, 0), *z = tape_saved(c, n, SAVE_Z);
    float beta, dm_beta;
    Tensor *dz = grad_into(c, n->in[Z], &beta);
    for (int i = 0; i < args->n; i++) {
        const DoraSlice *s = &args->slices[i];
        int64_t rows = tensor_numel(s->m);
        Tensor dy_i = tensor_slice_cols(dy, s->row0, rows),
               z_i = tensor_slice_cols(z, s->row0, rows);
        Tensor dz_i = dz ? tensor_slice_cols(dz, s->row0, rows) : (Tensor){0};
        Tensor *dm = grad_into(c, n->in[M0 + i], &dm_beta);
        k->dora_bwd(c->dev, dz ? &dz_i : NULL, beta, dm, dm_beta, &dy_i, &z_i,
                    n->saved[SAVE_SLICE + 2 * i], n->saved[SAVE_SLICE + 2 * i + 1]);
    }
    if (dz) pass_gaps(c, args, dz, dy, beta);
    Tensor *db = grad_into(c, n->in[BIAS], &beta);
    if (db) k->bias_bwd(c->dev, db, beta, dy);
    grad_pass(c, n, 0, n->in[RESIDUAL]);
}

static void forward(Ctx *c, Tensor *y, const Tensor *z, const Tensor *bias, const Tensor *residual,
                    const DoraArgs *args, Tensor *const *m, Tensor *const *norm)
{
    const Kernels *k = c->dev->k;
    for (int i = 0; i < args->n; i++) {
        int64_t row0 = args->slices[i].row0, rows = tensor_numel(m[i]);
        Tensor y_i = tensor_slice_cols(y, row0, rows), z_i = tensor_slice_cols(z, row0, rows);
        Tensor add = residual ? tensor_slice_cols(residual, row0, rows) : (Tensor){0};
        k->dora_fwd(c->dev, &y_i, residual ? &add : NULL, &z_i, m[i], norm[i]);
    }
    pass_gaps(c, args, y, z, 0);
    if (residual) pass_gaps(c, args, y, residual, 1);
    if (bias) k->bias_fwd(c->dev, y, bias);
}

static void dora_remake(Ctx *c, Node *n)
{
    const DoraArgs *args = n->args;
    const Tensor *z = tape_saved(c, n, SAVE_Z), *residual = tape_saved(c, n, SAVE_RESIDUAL);
    Tensor *m[LORA_MAX_SLICES], *norm[LORA_MAX_SLICES];
    for (int i = 0; i < args->n; i++) {
        m[i] = n->saved[SAVE_SLICE + 2 * i];
        norm[i] = n->saved[SAVE_SLICE + 2 * i + 1];
    }
    forward(c, tape_output(c, n, 0), z, n->saved[SAVE_BIAS], residual, args, m, norm);
}

static const Op dora_op = {.name = "dora",
                           .backward = dora_backward,
                           .remake = dora_remake,
                           .remade_from = RECOMPUTE_SELECTIVE};

Tensor *op_dora(Ctx *c, Tensor *z, Tensor *bias, Tensor *residual, const DoraSlice *slices,
                int n_slices)
{
    op_begin(c, &dora_op);
    ASSERT(n_slices >= 1 && n_slices <= LORA_MAX_SLICES, "dora: %d slices", n_slices);
    DoraArgs *args = arena_alloc(c->arena, sizeof *args);
    *args = (DoraArgs){.n = n_slices};
    Tensor *y = tensor_new_padded(c, tensor_rows(z), tensor_cols(z),
                                  residual ? residual->ld - tensor_cols(z) : 0);
    Tensor *in[NODE_MAX_IN] = {z, bias, residual}, *m[LORA_MAX_SLICES], *norm[LORA_MAX_SLICES];
    for (int i = 0; i < n_slices; i++) {
        args->slices[i] = slices[i];
        in[M0 + i] = m[i] = slices[i].m;
        norm[i] = slices[i].norm;
    }
    forward(c, y, z, bias, residual, args, m, norm);
    Node *n = tape_record(c, &dora_op, 1, (Tensor *[]){y}, M0 + n_slices, in);
    if (n) {
        n->args = args;
        tape_save(n, SAVE_Z, z);
        tape_save_source(n, SAVE_BIAS, bias);
        tape_save_source(n, SAVE_RESIDUAL, residual);
        for (int i = 0; i < n_slices; i++) {
            tape_save(n, SAVE_SLICE + 2 * i, slices[i].m);
            tape_save(n, SAVE_SLICE + 2 * i + 1, slices[i].norm);
        }
    }
    return y;
}

/* What no gradient goes through has nothing to unwind: its name is for profiles. */
static const Op norms_op = {.name = "dora_norms"};

static void norms_of(Ctx *c, const Tensor *values, const LoraSlice *lora, const DoraNorms *norms)
{
    const Kernels *k = c->dev->k;
    int64_t rank = tensor_rows(lora->a), rows = tensor_rows(lora->b);
    Tensor w = tensor_slice_rows(values, lora->row0, rows);
    if (norms->measure_base) k->row_norms(c->dev, norms->base, &w);
    Tensor *wa = rule_scratch(c, DT_F32, rows, rank), *aa = rule_scratch(c, DT_F32, rank, rank);
    MatmulArgs product = {.trans_b = true, .alpha = 1};
    k->matmul(c->dev, wa, &w, lora->a, product);
    k->matmul(c->dev, aa, lora->a, lora->a, product);
    k->adapted_norms(c->dev, norms->norm, norms->base, wa, aa, lora->b, lora->scale);
    scope_drop(c->scope, aa);
    scope_drop(c->scope, wa);
}

void dora_norms(Ctx *c, Tensor *w, const LoraSlice *lora, const DoraNorms *norms, int n)
{
    op_begin(c, &norms_op);
    Tensor *values = operand_open(c, w), *out[LORA_MAX_SLICES];
    for (int i = 0; i < n; i++) {
        norms_of(c, values, &lora[i], &norms[i]);
        out[i] = norms[i].norm;
    }
    operand_close(c, w, values);
    tape_record(c, &norms_op, n, out, 0, NULL);
}
