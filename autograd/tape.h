/* Tape: what ran, in order, so that it can be undone in reverse.  Eager: the forward function is ordinary C.
 * Ctx: what an op needs, passed explicitly.
 *
 * Gradients flow through Node.in (the handles that the forward pass used); data that backward reads comes
 * from Node.saved, which holds a reference of its own to each storage (a parameter is saved by handle, because
 * its storage comes and goes when it is sharded). */
#pragma once

#include "base/arena.h"
#include "kernels/kernels.h"
#include "tensor/scope.h"

typedef struct Tape Tape;
typedef struct Trace Trace;

typedef struct Ctx {
    Device *dev;
    Tape *tape; /* NULL: inference, nothing is recorded */
    Scope *scope;
    Arena *arena; /* of the step: handles, nodes */
    uint64_t key; /* of this epoch's dropout: mix(seed, epoch) */
    Trace *trace; /* or NULL: autograd/trace.h */
} Ctx;

enum { NODE_MAX_IN = 10, NODE_MAX_OUT = 3, NODE_MAX_SAVED = 12 };

typedef struct Node Node;

typedef struct Op {
    const char *name;
    void (*backward)(Ctx *c, Node *n);
    bool always; /* runs although no gradient reached its output: a segment's marker */
} Op;

struct Node {
    const Op *op;
    Tensor *out[NODE_MAX_OUT];
    Tensor *in[NODE_MAX_IN];
    Tensor *saved[NODE_MAX_SAVED]; /* private handles; NULL where nothing was saved */
    int n_out, n_in;
    Tape *tape;
    void *args; /* in the arena: what else the rule needs; the op's own struct */
};

Tape *tape_new(Arena *arena);
void tape_free(Tape *t); /* drops nodes that never ran backward */
int tape_length(const Tape *t);

/* A new output of an op: activation memory of the current scope.  ld 0: dense. */
Tensor *tensor_new(Ctx *c, DType dtype, int n_dims, const int64_t *shape);
/* compute dtype; pad: columns beyond cols in the pitch */
Tensor *tensor_new_matrix(Ctx *c, int64_t rows, int64_t cols);
Tensor *tensor_new_padded(Ctx *c, int64_t rows, int64_t cols, int64_t pad);
Tensor *tensor_like(Ctx *c, const Tensor *t); /* same shape and dtype, dense */

/* Records a step and sets needs_grad of its outputs; NULL (nothing to save) when there is no tape or no input
 * needs a gradient.  NULL inputs are allowed and skipped. */
Node *tape_record(Ctx *c, const Op *op, int n_out, Tensor *const *out, int n_in, Tensor *const *in);
/* Records a step without inputs and outputs whatever there is to differentiate: a segment's markers. */
Node *tape_add(Ctx *c, const Op *op);
/* Forgets the steps after the first n: what was recorded for nothing. */
void tape_truncate(Tape *t, int n);
/* Saves t (NULL: nothing) for the rule under `slot`. */
void tape_save(Node *n, int slot, Tensor *t);

/* Unwinds: every rule whose output received a gradient, in reverse order, dropping each node's memory as it
 * goes.  The gradients of the last outputs were put there before (tensor_seed_grad).  All scopes must have
 * ended. */
void tape_backward(Ctx *c);
/* Makes t->grad (its value's shape) filled with `value`: where backward begins. */
void tensor_seed_grad(Ctx *c, Tensor *t, float value);

/* For rules.  The buffer that receives the gradient of `t`, and whether to overwrite (0) or add (1); NULL when
 * nobody wants it (t NULL or frozen).  For a parameter the buffer is the optimizer's.  The caller must write
 * all of it. */
Tensor *grad_into(Ctx *c, Tensor *t, float *beta);
/* As grad_into, but where t has no gradient yet and nobody else holds what the rule saved in `slot` (of t's shape), the
 * gradient takes over that memory: the kernel overwrites what it reads, and the value is gone. */
Tensor *grad_over(Ctx *c, Node *n, int slot, Tensor *t, float *beta);
/* Hands saved[slot], which holds the finished gradient of t, on to it: the memory itself where that is possible as above,
 * a copy or a sum otherwise.  NULL in the slot: nothing. */
void grad_give(Ctx *c, Node *n, int slot, Tensor *t);
/* Frees the gradient of a leaf that is no parameter (tests, a segment's input). */
void tensor_drop_grad(Tensor *t);
/* The gradient that reached an output; NULL when none did. */
Tensor *grad_of(Node *n, int out);
/* Hands the gradient of output `out` on to input t unchanged (a residual): moved when t has none yet, added
 * otherwise.  Call it last: the buffer may be written by later rules. */
void grad_pass(Ctx *c, Node *n, int out, Tensor *t);
/* Scratch of a rule: memory that is gone when the rule returns. */
Tensor *rule_scratch(Ctx *c, DType dtype, int64_t rows, int64_t cols);
