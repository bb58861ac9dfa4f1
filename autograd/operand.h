/* The frozen matrix of a product, wherever its values are.  A plain one is its own operand.  A quantised one
 * (Tensor.quant) has no values in memory: they are decoded into a scratch of the matrix's pitch and room, which lives from
 * open to close, so that one scratch serves all matrices and `plan` counts it like any other memory. */
#pragma once

#include "autograd/tape.h"

/* w itself, or its values in scratch: a handle that is good until operand_close. */
Tensor *operand_open(Ctx *c, Tensor *w);
void operand_close(Ctx *c, const Tensor *w, Tensor *values);
/* Whether a product of so many rows, of which nothing is recorded, goes straight from the codes: of a few, or of any number
 * where outliers of x are treated apart (Quant.outliers). */
bool operand_is_direct(const Ctx *c, const Tensor *w, int64_t n_rows);
/* y (N,O) = add + x (N,I) w^T for such a product; add (N,O) or NULL. */
void operand_matvec(Ctx *c, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *w);
