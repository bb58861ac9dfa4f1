/* cuDNN's graph (backend) API in plain C: tensors, operations, a plan, its execution.  A graph is built by
 * calls in order; the first failure is kept with its text and later calls do nothing. */
#pragma once

#include "base/err.h"

#include <cudnn.h>

typedef cudnnBackendDescriptor_t CudnnDesc;

typedef struct CudnnTensor {
    CudnnDesc desc;
    int64_t uid, dim[4], stride[4];
    cudnnDataType_t dtype;
} CudnnTensor;

enum {
    CUDNN_MAX_DESCS = 400,
    CUDNN_MAX_OPS = 64,
    CUDNN_MAX_TENSORS = 128,
    CUDNN_MAX_BOUND = 48,
    CUDNN_MAX_SCALARS = 8
};

typedef struct CudnnGraph {
    cudnnHandle_t handle;
    CudnnDesc owned[CUDNN_MAX_DESCS];
    int n_owned;
    CudnnDesc ops[CUDNN_MAX_OPS];
    int n_ops;
    CudnnTensor tensors[CUDNN_MAX_TENSORS];
    int n_tensors;
    int64_t uids[CUDNN_MAX_BOUND]; /* the variant pack: what execution reads and writes */
    void *pointers[CUDNN_MAX_BOUND];
    int n_bound;
    float scalars[CUDNN_MAX_SCALARS]; /* host memory that is read at each execution */
    int n_scalars;
    CudnnDesc plan;
    int64_t workspace_bytes;
    bool failed;
    char why[1024];
} CudnnGraph;

enum { CUDNN_VIRTUAL = 1, CUDNN_BY_VALUE = 2 };

/* dim and stride in elements; ragged: the tensor of offsets, or NULL. */
CudnnTensor *cudnn_tensor(CudnnGraph *g, cudnnDataType_t dtype, const int64_t dim[4],
                          const int64_t stride[4], int flags, const CudnnTensor *ragged);
CudnnTensor *cudnn_like(CudnnGraph *g, const CudnnTensor *x, cudnnDataType_t dtype); /* virtual */
CudnnTensor *cudnn_scalar(CudnnGraph *g, float v);

/* y = mode(x [, b [, t]]); axis >= 0 for GEN_INDEX alone. */
void cudnn_pointwise(CudnnGraph *g, cudnnPointwiseMode_t mode, cudnnDataType_t compute,
                     int64_t axis, const CudnnTensor *x, const CudnnTensor *b, const CudnnTensor *t,
                     const CudnnTensor *y);
/* c = a b; m, n, k: lengths that replace the dimensions, or NULL. */
void cudnn_matmul(CudnnGraph *g, const CudnnTensor *a, const CudnnTensor *b, const CudnnTensor *c,
                  const CudnnTensor *m, const CudnnTensor *n, const CudnnTensor *k);
void cudnn_reduce(CudnnGraph *g, cudnnReduceTensorOp_t mode, const CudnnTensor *x,
                  const CudnnTensor *y);
void cudnn_reshape(CudnnGraph *g, const CudnnTensor *x, const CudnnTensor *y);

/* The first engine whose plan can be made; false with g->why otherwise. */
bool cudnn_finish(CudnnGraph *g);
/* Where execution finds a tensor that is not virtual. */
void cudnn_bind(CudnnGraph *g, const CudnnTensor *t, const void *pointer);
/* Runs on the handle's stream; false with g->why. */
bool cudnn_execute(CudnnGraph *g, void *workspace);
void cudnn_clear(CudnnGraph *g);
