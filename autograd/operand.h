/* The frozen matrix of a product, wherever its values are.  A plain one is its own operand.  A quantised one
 * (Tensor.quant) has no values in memory: they are decoded into a scratch of the matrix's pitch and room.
 *
 * Without Operands the scratch lives from open to close.  With them up to `scratches` decoded matrices are there at a time:
 * those that will be asked for next, as far as the order of a pass is known.  A matrix that is asked for twice in a row, as in
 * the backward pass of what was not kept, is decoded once; and with `ahead` the next one is decoded on a stream of its
 * own behind the current product.  The order is a guess: a wrong one costs time, and the values are the same.
 *
 * What guards a scratch.  Products read it on the compute stream, and so it is free there when it is closed.  A decoding
 * ahead waits for all that the compute stream had before it was asked for, which is all that used the memory before;
 * and the compute stream waits for the decoding before the first product that reads it, or before the memory is free. */
#pragma once

#include "autograd/tape.h"

typedef struct Operands Operands;

/* scratches >= 1.  Borrows d. */
Operands *operands_new(Device *d, int scratches, bool ahead);
void operands_free(Operands *o); /* NULL is fine */
/* The next matrix of a pass in the order that is expected; NULL: what follows is not to be decoded yet (the head stands
 * between, and wants the memory). */
void operands_expect(Operands *o, const Tensor *w);
/* Around a pass.  end: nothing stays decoded. */
void operands_begin(Operands *o);
void operands_end(Operands *o);
/* The compute stream waits for what is decoded ahead: before the codes may go (a segment's parameters are released). */
void operands_settle(Operands *o);

/* w itself, or its values in scratch, which are not to be changed: a handle that is good until operand_close. */
Tensor *operand_open(Ctx *c, Tensor *w);
void operand_close(Ctx *c, const Tensor *w, Tensor *values);
/* What the room around the opened values holds, as its user counts (Param.room_version); NULL: always something else. */
uint64_t *operand_room(Ctx *c, Tensor *values);
/* The values in scratch of the current scope, which may be written over. */
Tensor *operand_copy(Ctx *c, Tensor *w);

/* Whether a product of so many rows, of which nothing is recorded, goes straight from the codes: of a few, or of any number
 * where outliers of x are treated apart (Quant.outliers). */
bool operand_is_direct(const Ctx *c, const Tensor *w, int64_t n_rows);
/* y (N,O) = add + x (N,I) w^T for such a product, of x normed where norm is given; add (N,O), norm or NULL. */
void operand_matvec(Ctx *c, Tensor *y, const Tensor *add, const Tensor *x, const NormBefore *norm,
                    const Tensor *w);
