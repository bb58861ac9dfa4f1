/* Gradients of an op against finite differences of its forward pass. */
#pragma once

#include "tests/support/bed.h"

enum { GRAD_MAX_IN = 10, GRAD_MAX_OUT = 3 };

/* A differentiable input: normal draws of sigma (0: 1) around mean; cols 0 makes a vector. */
typedef struct GradInput {
    const char *name; /* NULL ends the list */
    int64_t rows, cols;
    int64_t pad;
    double sigma, mean;
    bool frozen; /* must receive no gradient */
    bool param;  /* has a gradient buffer of its own, as a parameter */
} GradInput;

/* Runs the op on `in`, sets its outputs. */
typedef void GradFn(Bed *b, Tensor *const *in, Tensor **out, const void *ud);

typedef struct GradCase {
    const char *name;
    const void *ud;
    GradInput in[GRAD_MAX_IN];
    int n_out;     /* 0: 1 */
    bool twice;    /* two consumers of each input: the second adds to the first's gradient */
    double weight; /* of the outputs in the loss; 0: a random one for each element */
} GradCase;

/* The loss is a weighted sum of the outputs.  Checks every gradient at up to 150 elements of each input, that
 * frozen inputs receive none, that pads stay untouched, and that no device memory is left.  False, with
 * what is wrong on stderr. */
bool gradcheck(const GradCase *g, GradFn *fn);
