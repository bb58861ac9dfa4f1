/* Bed: an opened device with all that an op or kernel needs, for tests.  The backend is that of
 * test_device.h, so that every kernel test is a parity test of another column, too.
 *
 * Fresh matrices and their pads hold NaN: what reads an output it should overwrite, or a pad, shows it. */
#pragma once

#include "autograd/tape.h"

typedef struct Bed {
    Device dev;
    Arena *arena;
    Scope *inputs; /* of bed_matrix and the like: a batch outlives the scopes of a forward pass */
    Scope *scope;  /* of what ops return */
    Ctx ctx;       /* without a tape */
} Bed;

void bed_open(Bed *b, int threads);
void bed_close(Bed *b); /* dies when device memory still has owners */

/* Tensors live until bed_close.  pad: columns beyond cols in the pitch. */
Tensor *bed_matrix(Bed *b, int64_t rows, int64_t cols, int64_t pad);
Tensor *bed_vector(Bed *b, int64_t n);
Tensor *bed_cube(Bed *b, int64_t n0, int64_t n1, int64_t n2);
Tensor *bed_i32(Bed *b, const int32_t *values, int64_t n);
Tensor *bed_i64(Bed *b, const int64_t *values, int64_t n);
/* mean + sigma * normal draws of `key`, on a grid of 2^-12; returns t. */
Tensor *bed_fill(Bed *b, Tensor *t, uint64_t key, double sigma, double mean);
/* The values, rows without pad, in fresh memory. */
float *bed_read(Bed *b, const Tensor *t);
/* False when a matrix's pad no longer holds the NaN of bed_matrix. */
bool bed_pad_intact(Bed *b, const Tensor *t);

/* A packed batch: documents of `lens` tokens back to back. */
enum { BED_MAX_DOCS = 16 };
typedef struct BedDocs {
    Docs docs;
    int32_t cu[BED_MAX_DOCS + 1];
    int64_t n;
    Tensor *positions; /* (N) i32 */
    Tensor *samples;   /* (N) i64: 100 + the document's number */
} BedDocs;
void bed_docs(Bed *b, BedDocs *out, int n_docs, const int32_t *lens);
/* (positions, dim): cosines and sines as the model's table holds them, theta 10000. */
Tensor *bed_rope(Bed *b, int64_t positions, int dim);
