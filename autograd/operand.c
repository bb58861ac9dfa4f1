/* Decoding around products. */
#include "autograd/operand.h"

Tensor *operand_open(Ctx *c, Tensor *w)
{
    const Quant *q = w->quant;
    if (!q) return w;
    int64_t shape[2] = {tensor_rows(w) + q->room, tensor_cols(w)};
    Tensor *values = scope_tensor(c->scope, w->dtype, 2, shape, w->ld, MEM_WORKSPACE);
    values->shape[0] = tensor_rows(w);
    values->name = w->name;
    c->dev->k->dequantize(c->dev, values, &q->packed, q->parts, q->n_parts);
    return values;
}

void operand_close(Ctx *c, const Tensor *w, Tensor *values)
{
    if (values != w) scope_drop(c->scope, values);
}

bool operand_is_direct(const Ctx *c, const Tensor *w, int64_t n_rows)
{
    if (!w->quant) return false;
    ASSERT(!c->tape || w->quant->outliers == 0, "%s: outliers are apart in evaluation only",
           w->name);
    return !c->tape && (n_rows <= QUANT_MATVEC_ROWS || w->quant->outliers > 0);
}

void operand_matvec(Ctx *c, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *w)
{
    const Quant *q = w->quant;
    if (q->outliers == 0) {
        c->dev->k->quant_matvec(c->dev, y, add, x, &q->packed, q->parts, q->n_parts);
        return;
    }
    int64_t row0 = 0;
    for (int i = 0; i < q->n_parts; i++) {
        int64_t rows = q->parts[i].rows;
        Tensor part = tensor_slice_cols(y, row0, rows);
        Tensor plus = add ? tensor_slice_cols(add, row0, rows) : (Tensor){0};
        c->dev->k->quant_mixed(c->dev, &part, add ? &plus : NULL, x, &q->packed, &q->parts[i],
                               q->outliers);
        row0 += rows;
    }
}
