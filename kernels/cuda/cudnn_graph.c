/* Descriptors are created, filled, finalized and kept until the graph is cleared; a plan and a variant pack
 * are all that execution needs. */
#include "kernels/cuda/cudnn_graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool ok(CudnnGraph *g, cudnnStatus_t s, const char *what)
{
    if (s == CUDNN_STATUS_SUCCESS) return true;
    if (!g->failed) {
        char text[600] = "";
        cudnnGetLastErrorString(text, sizeof text);
        snprintf(g->why, sizeof g->why, "cuDNN: %s: %s: %s", what, cudnnGetErrorString(s), text);
    }
    g->failed = true;
    return false;
}

static CudnnDesc make(CudnnGraph *g, cudnnBackendDescriptorType_t type)
{
    CudnnDesc d = NULL;
    if (g->failed) return NULL;
    ASSERT(g->n_owned < CUDNN_MAX_DESCS, "too many cuDNN descriptors");
    if (ok(g, cudnnBackendCreateDescriptor(type, &d), "create descriptor"))
        g->owned[g->n_owned++] = d;
    return d;
}

static void set(CudnnGraph *g, CudnnDesc d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *value, const char *what)
{
    if (!g->failed) ok(g, cudnnBackendSetAttribute(d, name, type, n, value), what);
}

#define SET(d, name, type, n, value) set(g, d, name, type, n, value, #name)

static void set_desc(CudnnGraph *g, CudnnDesc d, cudnnBackendAttributeName_t name, CudnnDesc value)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value, "set descriptor");
}

static void finalize(CudnnGraph *g, CudnnDesc d, const char *what)
{
    if (!g->failed) ok(g, cudnnBackendFinalize(d), what);
}

CudnnTensor *cudnn_tensor(CudnnGraph *g, cudnnDataType_t dtype, const int64_t dim[4],
                          const int64_t stride[4], int flags, const CudnnTensor *ragged)
{
    ASSERT(g->n_tensors < CUDNN_MAX_TENSORS, "too many cuDNN tensors");
    CudnnTensor *t = &g->tensors[g->n_tensors++];
    memcpy(t->dim, dim, sizeof t->dim);
    memcpy(t->stride, stride, sizeof t->stride);
    t->dtype = dtype;
    t->uid = g->n_tensors;
    t->desc = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t align = 16;
    bool yes = true;
    SET(t->desc, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &dtype);
    SET(t->desc, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    SET(t->desc, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    SET(t->desc, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &t->uid);
    SET(t->desc, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    if (flags & CUDNN_VIRTUAL)
        SET(t->desc, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (flags & CUDNN_BY_VALUE)
        SET(t->desc, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (ragged) set_desc(g, t->desc, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, ragged->desc);
    finalize(g, t->desc, "tensor");
    return t;
}

CudnnTensor *cudnn_like(CudnnGraph *g, const CudnnTensor *x, cudnnDataType_t dtype)
{
    return cudnn_tensor(g, dtype, x->dim, x->stride, CUDNN_VIRTUAL, NULL);
}

CudnnTensor *cudnn_scalar(CudnnGraph *g, float v)
{
    static const int64_t ones[4] = {1, 1, 1, 1};
    ASSERT(g->n_scalars < CUDNN_MAX_SCALARS, "too many cuDNN scalars");
    CudnnTensor *t = cudnn_tensor(g, CUDNN_DATA_FLOAT, ones, ones, CUDNN_BY_VALUE, NULL);
    g->scalars[g->n_scalars] = v;
    cudnn_bind(g, t, &g->scalars[g->n_scalars++]);
    return t;
}

static void push(CudnnGraph *g, CudnnDesc op, const char *what)
{
    finalize(g, op, what);
    ASSERT(g->n_ops < CUDNN_MAX_OPS, "too many cuDNN operations");
    if (!g->failed) g->ops[g->n_ops++] = op;
}

void cudnn_pointwise(CudnnGraph *g, cudnnPointwiseMode_t mode, cudnnDataType_t compute,
                     int64_t axis, const CudnnTensor *x, const CudnnTensor *b, const CudnnTensor *t,
                     const CudnnTensor *y)
{
    CudnnDesc p = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    SET(p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    SET(p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    if (axis >= 0) SET(p, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(g, p, "pointwise descriptor");
    CudnnDesc op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y->desc);
    if (b) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->desc);
    if (t) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t->desc);
    float one = 1;
    SET(op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, &one);
    SET(op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, &one);
    push(g, op, "pointwise operation");
}

void cudnn_matmul(CudnnGraph *g, const CudnnTensor *a, const CudnnTensor *b, const CudnnTensor *c,
                  const CudnnTensor *m, const CudnnTensor *n, const CudnnTensor *k)
{
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    CudnnDesc p = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    SET(p, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    finalize(g, p, "matmul descriptor");
    CudnnDesc op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, p);
    if (m) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m->desc);
    if (n) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n->desc);
    if (k) set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k->desc);
    push(g, op, "matmul operation");
}

void cudnn_reduce(CudnnGraph *g, cudnnReduceTensorOp_t mode, const CudnnTensor *x,
                  const CudnnTensor *y)
{
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    bool deterministic = false;
    CudnnDesc p = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    SET(p, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    SET(p, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    SET(p, CUDNN_ATTR_REDUCTION_IS_DETERMINISTIC, CUDNN_TYPE_BOOLEAN, 1, &deterministic);
    finalize(g, p, "reduction descriptor");
    CudnnDesc op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, p);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y->desc);
    push(g, op, "reduction operation");
}

void cudnn_reshape(CudnnGraph *g, const CudnnTensor *x, const CudnnTensor *y)
{
    CudnnDesc op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x->desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y->desc);
    push(g, op, "reshape operation");
}

void cudnn_bind(CudnnGraph *g, const CudnnTensor *t, const void *pointer)
{
    int i = 0;
    while (i < g->n_bound && g->uids[i] != t->uid)
        i++;
    ASSERT(i < CUDNN_MAX_BOUND, "cuDNN variant pack is full");
    if (i == g->n_bound) g->n_bound++;
    g->uids[i] = t->uid;
    g->pointers[i] = (void *)(uintptr_t)pointer;
}

/* Candidates of one heuristic mode into configs[]; returns how many. */
enum { MAX_CONFIGS = 64 };
static int candidates(CudnnGraph *g, CudnnDesc graph, cudnnBackendHeurMode_t mode,
                      CudnnDesc *configs)
{
    CudnnDesc h = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_desc(g, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    SET(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (g->failed || cudnnBackendFinalize(h) != CUDNN_STATUS_SUCCESS) return 0;
    int64_t n = 0, got = 0;
    cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &n,
                             NULL);
    if (n > MAX_CONFIGS) n = MAX_CONFIGS;
    for (int64_t i = 0; i < n; i++)
        configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (n == 0 || g->failed) return 0;
    ok(g,
       cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n,
                                &got, configs),
       "heuristic results");
    return g->failed ? 0 : (int)got;
}

static bool plan_from(CudnnGraph *g, CudnnDesc config)
{
    CudnnDesc p = NULL;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p) !=
        CUDNN_STATUS_SUCCESS)
        return false;
    int64_t n;
    if (cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                 &g->handle) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                 &config) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendFinalize(p) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                 &n, &g->workspace_bytes) == CUDNN_STATUS_SUCCESS) {
        g->plan = g->owned[g->n_owned++] = p;
        return true;
    }
    cudnnBackendDestroyDescriptor(p);
    return false;
}

bool cudnn_finish(CudnnGraph *g)
{
    CudnnDesc graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    SET(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->ops);
    SET(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle);
    finalize(g, graph, "operation graph");
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    CudnnDesc configs[MAX_CONFIGS];
    for (int m = 0; m < 2 && !g->failed; m++) {
        int n = candidates(g, graph, modes[m], configs);
        for (int i = 0; i < n; i++)
            if (plan_from(g, configs[i])) return true;
    }
    if (!g->failed) snprintf(g->why, sizeof g->why, "cuDNN: no engine takes this graph");
    g->failed = true;
    return false;
}

bool cudnn_execute(CudnnGraph *g, void *workspace)
{
    CudnnDesc pack = NULL;
    if (!ok(g, cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack),
            "variant pack"))
        return false;
    SET(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    SET(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, g->n_bound, g->pointers);
    SET(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, g->n_bound, g->uids);
    finalize(g, pack, "variant pack");
    if (!g->failed) ok(g, cudnnBackendExecute(g->handle, g->plan, pack), "execute");
    cudnnBackendDestroyDescriptor(pack);
    return !g->failed;
}

void cudnn_clear(CudnnGraph *g)
{
    while (g->n_owned > 0)
        cudnnBackendDestroyDescriptor(g->owned[--g->n_owned]);
}
