/* Tape: what ran, in order, so that it can be undone in reverse.  Eager: the forward function is ordinary C.
 * Ctx: what an op needs, passed explicitly.
 *
 * Gradients flow through Node.in (the handles that the forward pass used); data that backward reads comes
 * from tape_saved, which holds a reference of its own to each storage (a parameter is saved by handle, because
 * its storage comes and goes when it is sharded).
 *
 * Recompute: an op may say how its outputs are made again from what it saved (Op.remake), and from which level on
 * (Ctx.recompute) nobody keeps them.  Such an output lives until its scope ends.  The first rule that asks for it
 * makes it again, once, for all rules that are still to come; what that takes and is not kept either is made again in
 * the same way.  So each level is a set of ops, and what no rule reads is never made again. */
#pragma once

#include "base/arena.h"
#include "kernels/kernels.h"
#include "tensor/scope.h"

typedef struct Tape Tape;
typedef struct Trace Trace;

/* What backward keeps, from everything to almost nothing; each level drops more than the one before. */
typedef enum Recompute {
    RECOMPUTE_NONE, /* everything is kept */
    RECOMPUTE_SELECTIVE, /* what one pass over memory makes again is not: norms, SwiGLU, DoRA's scaling */
    RECOMPUTE_ATTENTION, /* products are not either: of a block its input and attention's output are */
    RECOMPUTE_FULL,      /* of a block its input is */
    RECOMPUTE_LEVELS
} Recompute;

typedef struct Ctx {
    Device *dev;
    Tape *tape; /* NULL: inference, nothing is recorded */
    Scope *scope;
    Arena *arena;              /* of the step: handles, nodes */
    uint64_t key;              /* of this epoch's dropout: mix(seed, epoch) */
    Trace *trace;              /* or NULL: autograd/trace.h */
    Recompute recompute;       /* of the segment that runs */
    bool last;                 /* the next op's result leaves the segment: segment_last */
    bool dropped;              /* nobody keeps what the running op makes */
    struct Operands *operands; /* decoded matrices (autograd/operand.h), or NULL */
    const char *module;        /* the part of the model that runs, for profiles; or NULL */
} Ctx;

enum { NODE_MAX_IN = 10, NODE_MAX_OUT = 3, NODE_MAX_SAVED = 14 };

typedef struct Node Node;

typedef struct Op {
    const char *name;
    void (*backward)(Ctx *c, Node *n);
    bool always; /* runs although no gradient reached its output: a segment's marker */
    /* Or NULL.  Writes all outputs again (tape_output) from what was saved: the same bits.  Inputs have their shapes in
     * n->in, and their values where they were saved. */
    void (*remake)(Ctx *c, Node *n);
    Recompute remade_from; /* the least level at which nobody keeps the outputs */
    /* Or NULL.  The rest of backward, which may read slot 0.  It waits where that would have to be made again and its
     * maker's rule, which comes next, leaves it. */
    void (*finish)(Ctx *c, Node *n);
    bool leaves_output; /* backward can leave output 0 in the memory of its gradient: output_left */
} Op;

struct Node {
    const Op *op;
    Tensor *out[NODE_MAX_OUT];
    Tensor *in[NODE_MAX_IN];
    Tensor
        *saved[NODE_MAX_SAVED]; /* private handles, for tape_saved; NULL where nothing was saved */
    unsigned sources;           /* slots that only remake reads, as bits */
    struct Reader *readers;     /* of the outputs, where these are made again */
    Node *waiting;              /* whose finish waits for output 0 */
    int n_out, n_in;
    Tape *tape;
    const char *module; /* Ctx.module when it was recorded */
    void *args;         /* in the arena: what else the rule needs; the op's own struct */
};

Tape *tape_new(Arena *arena);
void tape_free(Tape *t); /* drops nodes that never ran backward */
int tape_length(const Tape *t);

/* A new output of an op, between op_begin and tape_record: activation memory of the current scope, apart from what is kept
 * for backward where it is not.  ld 0: dense. */
Tensor *tensor_new(Ctx *c, DType dtype, int n_dims, const int64_t *shape);
/* compute dtype; pad: columns beyond cols in the pitch */
Tensor *tensor_new_matrix(Ctx *c, int64_t rows, int64_t cols);
Tensor *tensor_new_padded(Ctx *c, int64_t rows, int64_t cols, int64_t pad);
Tensor *tensor_like(Ctx *c, const Tensor *t); /* same shape and dtype, dense */

/* Where an op begins: the kernels from here to its tape_record are its, for profilers. */
void op_begin(Ctx *c, const Op *op);
/* Where an op ends.  Records a step and sets needs_grad of its outputs; NULL (nothing to save) when there is no tape or no input
 * needs a gradient.  NULL inputs are allowed and skipped. */
Node *tape_record(Ctx *c, const Op *op, int n_out, Tensor *const *out, int n_in, Tensor *const *in);
/* Records a step without inputs and outputs whatever there is to differentiate: a segment's markers. */
Node *tape_add(Ctx *c, const Op *op);
/* Forgets the steps after the first n: what was recorded for nothing. */
void tape_truncate(Tape *t, int n);
/* Saves t (NULL: nothing) for the rule under `slot`: holds its memory, or knows how it is made again. */
void tape_save(Node *n, int slot, Tensor *t);
/* Saves what remake reads and backward does not; nothing where n's outputs are kept. */
void tape_save_source(Node *n, int slot, Tensor *t);
/* What was saved under `slot`, made again where it was not kept; NULL where nothing was. */
Tensor *tape_saved(Ctx *c, Node *n, int slot);
/* For remake: output i, with memory again. */
Tensor *tape_output(Ctx *c, Node *n, int i);

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
/* For a rule that leaves_output: where it must leave output 0, which is where its gradient is; NULL: nobody waits. */
Tensor *output_left(Node *n);
/* The gradient that reached an output; NULL when none did. */
Tensor *grad_of(Node *n, int out);
/* Hands the gradient of output `out` on to input t unchanged (a residual): moved when t has none yet, added
 * otherwise.  Call it last: the buffer may be written by later rules. */
void grad_pass(Ctx *c, Node *n, int out, Tensor *t);
/* Scratch of a rule: memory that is gone when the rule returns. */
Tensor *rule_scratch(Ctx *c, DType dtype, int64_t rows, int64_t cols);
