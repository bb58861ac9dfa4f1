/* Tensor: a shaped view of device memory.  Storage: a block of that memory with a count of owners.
 *
 * Who touches the counts: scope.c (an op's outputs belong to the current scope) and autograd/tape.c
 * (what the backward pass needs).  Model code never frees. */
#pragma once

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Device Device;

typedef enum DType { DT_F32, DT_BF16, DT_F16, DT_I32, DT_I64, DT_U8, DT_I8, DT_I16, DT_N } DType;
size_t dtype_bytes(DType t);
const char *dtype_name(DType t); /* "f32", "bf16", ... */

/* What memory is for: the lines of the memory table, of `plan` and of an out-of-memory report. */
typedef enum MemCategory {
    MEM_WEIGHT,    /* parameters as the forward pass reads them */
    MEM_ADAPTER,   /* the same of adapters */
    MEM_GRAD,      /* gradients of parameters */
    MEM_OPTIMIZER, /* fp32 master copies and AdamW states */
    MEM_ACTIVATION, /* everything of a step: outputs, what backward needs, their gradients, batches */
    MEM_WORKSPACE, /* kernels' scratch */
    MEM_COMM,      /* gathered shards, staging */
    MEM_N
} MemCategory;
/* Added to a category: gone before what is taken after it, as a rule, and so kept apart from what stays.  Workspace and
 * gathered shards are always so. */
enum { MEM_BRIEF = 64 };
const char *mem_category_name(MemCategory c);

typedef struct Storage {
    void *data;
    size_t bytes;
    int refs;
    Device *dev;
    MemCategory category;
    void *block; /* the allocator's handle */
    struct Storage *next_free;
} Storage;

#define MAX_DIMS 4

typedef struct Tensor Tensor;
struct Node; /* autograd/tape.h */
struct Tensor {
    Storage
        *storage;  /* NULL: dropped by its scope, or a sharded parameter that is not gathered now */
    size_t offset; /* bytes from storage->data */
    DType dtype;
    int n_dims;
    int64_t shape[MAX_DIMS]; /* row-major */
    int64_t ld;          /* a matrix's row pitch in elements, >= cols; more dimensions are dense */
    struct Quant *quant; /* a matrix without values: tensor/quant.h; NULL for all others */
    Tensor *grad;        /* NULL until backward (or the optimizer, for a parameter) makes one */
    bool needs_grad;
    bool is_param;     /* lives as long as the model; no scope or tape ever owns it */
    bool grad_written; /* the gradient holds a sum already: later contributions add (beta 1) */
    struct Node
        *maker;       /* who makes the value again for backward, so that nobody keeps it; or NULL */
    const char *name; /* borrowed; for messages and traces; may be NULL */
};

int64_t tensor_numel(const Tensor *t);
/* A tensor as a matrix: cols is the last dimension, rows the product of the others. */
int64_t tensor_rows(const Tensor *t);
int64_t tensor_cols(const Tensor *t);
bool tensor_is_dense(const Tensor *t); /* ld == cols */
bool tensor_same_shape(const Tensor *a, const Tensor *b);
size_t tensor_bytes(const Tensor *t); /* rows * ld elements */
/* The address of element 0; dies by name when the tensor has no storage. */
void *tensor_data(const Tensor *t);
/* Fills in dtype, shape and ld = cols; everything else zero.  n_dims 1..MAX_DIMS. */
Tensor tensor_shape(DType dtype, int n_dims, const int64_t *shape);
/* A view of rows [row0, row0+n_rows) / columns [col0, col0+n_cols) of a matrix (2 dimensions), without a
 * reference of its own: valid while `t` is. */
Tensor tensor_slice_rows(const Tensor *t, int64_t row0, int64_t n_rows);
Tensor tensor_slice_cols(const Tensor *t, int64_t col0, int64_t n_cols);
/* "q (128,64) bf16" into buf, for messages; returns buf. */
const char *tensor_describe(const Tensor *t, char *buf, size_t n);

#ifdef __cplusplus
}
#endif
