/* NCCL on the device's communication stream.  The library is loaded at run time: only its header is needed to build. */
#include "dist/comm_nccl.h"

#include "base/str.h"
#include "kernels/cuda/runtime.h"

#include <dlfcn.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

typedef struct Nccl {
    void *lib;
    ncclComm_t comm;
    Comm *hosts;
    Device *dev;
    int ctas;  /* at most so many blocks a collective; 0: as many as NCCL likes */
    Comm part; /* of hosts, where this is a part: it is closed with it */
    ncclResult_t (*GetUniqueId)(ncclUniqueId *);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *);
    ncclResult_t (*CommFinalize)(ncclComm_t);
    ncclResult_t (*CommDestroy)(ncclComm_t);
    ncclResult_t (*AllReduce)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                              cudaStream_t);
    ncclResult_t (*AllGather)(const void *, void *, size_t, ncclDataType_t, ncclComm_t,
                              cudaStream_t);
    ncclResult_t (*ReduceScatter)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t,
                                  ncclComm_t, cudaStream_t);
    ncclResult_t (*Broadcast)(const void *, void *, size_t, ncclDataType_t, int, ncclComm_t,
                              cudaStream_t);
    ncclResult_t (*Send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*Recv)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*GroupStart)(void);
    ncclResult_t (*GroupEnd)(void);
    const char *(*GetErrorString)(ncclResult_t);
    const char *(*GetLastError)(ncclComm_t);
} Nccl;

#define NCCL_CHECK(n, call)                                                                        \
    do {                                                                                           \
        ncclResult_t nccl_result_ = (call);                                                        \
        if (nccl_result_ != ncclSuccess)                                                           \
            panic("NCCL: %s: %s (%s)", #call, (n)->GetErrorString(nccl_result_),                   \
                  (n)->GetLastError((n)->comm));                                                   \
    } while (0)

static ncclDataType_t type_of(const Tensor *t)
{
    ASSERT(t->dtype == DT_F32 || t->dtype == DT_BF16 || t->dtype == DT_I16 || t->dtype == DT_U8,
           "a collective of %s", dtype_name(t->dtype));
    if (t->dtype == DT_F32) return ncclFloat32;
    if (t->dtype == DT_U8) return ncclUint8;
    return t->dtype == DT_BF16 ? ncclBfloat16 : ncclFloat16; /* i16 is moved, never summed */
}

static size_t count_of(const Tensor *t)
{
    return (size_t)tensor_numel(t);
}

static void nccl_all_reduce(Comm *c, Device *d, Tensor *t)
{
    Nccl *n = c->impl;
    NCCL_CHECK(n, n->AllReduce(tensor_data(t), tensor_data(t), count_of(t), type_of(t), ncclSum,
                               n->comm, cuda_stream(d)));
}

static void nccl_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    Nccl *n = c->impl;
    NCCL_CHECK(n, n->AllGather(tensor_data(part), tensor_data(whole), count_of(part), type_of(part),
                               n->comm, cuda_stream(d)));
}

static void nccl_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    Nccl *n = c->impl;
    NCCL_CHECK(n, n->ReduceScatter(tensor_data(whole), tensor_data(part), count_of(part),
                                   type_of(part), ncclSum, n->comm, cuda_stream(d)));
}

static void nccl_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    Nccl *n = c->impl;
    NCCL_CHECK(n, n->Broadcast(tensor_data(t), tensor_data(t), count_of(t), type_of(t), root,
                               n->comm, cuda_stream(d)));
}

/* One launch for all pairs; this rank's own piece is a copy. */
static void nccl_all_to_all(Comm *c, Device *d, Tensor *pieces, const Tensor *whole)
{
    Nccl *n = c->impl;
    size_t count = count_of(whole) / (size_t)c->size, bytes = tensor_bytes(whole) / (size_t)c->size;
    char *to = tensor_data(pieces), *from = tensor_data(whole);
    NCCL_CHECK(n, n->GroupStart());
    for (int k = 1; k < c->size; k++) {
        int next = (c->rank + k) % c->size, last = (c->rank + c->size - k) % c->size;
        NCCL_CHECK(n, n->Send(from + (size_t)next * bytes, count, type_of(whole), next, n->comm,
                              cuda_stream(d)));
        NCCL_CHECK(n, n->Recv(to + (size_t)last * bytes, count, type_of(whole), last, n->comm,
                              cuda_stream(d)));
    }
    NCCL_CHECK(n, n->GroupEnd());
    d->backend->copy(d, to + (size_t)c->rank * bytes, from + (size_t)c->rank * bytes, bytes,
                     COPY_ON_DEVICE);
}

static void nccl_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    Nccl *n = c->impl;
    comm_exchange(n->hosts, all, mine, bytes);
}

static Status nccl_split(Comm *c, Comm *out, int color, Err *err);

static void nccl_close(Comm *c)
{
    Nccl *n = c->impl;
    NCCL_CHECK(n, n->CommFinalize(n->comm));
    NCCL_CHECK(n, n->CommDestroy(n->comm));
    if (n->hosts == &n->part) comm_close(&n->part);
    free(n); /* the library stays: its threads may outlive the communicator by a moment */
}

static const CommOps nccl_ops = {
    .name = "nccl",
    .all_reduce = nccl_all_reduce,
    .all_gather = nccl_all_gather,
    .reduce_scatter = nccl_reduce_scatter,
    .broadcast = nccl_broadcast,
    .all_to_all = nccl_all_to_all,
    .exchange = nccl_exchange,
    .split = nccl_split,
    .close = nccl_close,
};

bool comm_nccl_built(void)
{
    return true;
}

static Status find(Nccl *n, void *slot, const char *name, Err *err)
{
    void *symbol = dlsym(n->lib, name);
    memcpy(slot, &symbol, sizeof symbol); /* ISO C has no cast from data to function */
    if (symbol) return OK;
    return err_set(err, E_FAILED, "libnccl.so.2 has no %s; lorac was built for NCCL %d.%d", name,
                   NCCL_MAJOR, NCCL_MINOR);
}

static Status load(Nccl *n, Err *err)
{
    n->lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!n->lib)
        return err_set(err, E_FAILED,
                       "several GPUs need NCCL: %s; install it, or set LD_LIBRARY_PATH", dlerror());
    TRY(find(n, &n->GetUniqueId, "ncclGetUniqueId", err));
    TRY(find(n, &n->CommInitRankConfig, "ncclCommInitRankConfig", err));
    TRY(find(n, &n->CommFinalize, "ncclCommFinalize", err));
    TRY(find(n, &n->CommDestroy, "ncclCommDestroy", err));
    TRY(find(n, &n->AllReduce, "ncclAllReduce", err));
    TRY(find(n, &n->AllGather, "ncclAllGather", err));
    TRY(find(n, &n->ReduceScatter, "ncclReduceScatter", err));
    TRY(find(n, &n->Broadcast, "ncclBroadcast", err));
    TRY(find(n, &n->Send, "ncclSend", err));
    TRY(find(n, &n->Recv, "ncclRecv", err));
    TRY(find(n, &n->GroupStart, "ncclGroupStart", err));
    TRY(find(n, &n->GroupEnd, "ncclGroupEnd", err));
    TRY(find(n, &n->GetErrorString, "ncclGetErrorString", err));
    return find(n, &n->GetLastError, "ncclGetLastError", err);
}

/* Rank 0's id, on every rank. */
static Status share_id(Nccl *n, ncclUniqueId *id, Err *err)
{
    Comm *h = n->hosts;
    ncclUniqueId mine, *all = xcalloc((size_t)h->size, sizeof *all);
    memset(&mine, 0, sizeof mine);
    ncclResult_t r = h->rank == 0 ? n->GetUniqueId(&mine) : ncclSuccess;
    comm_exchange(h, all, &mine, sizeof mine);
    *id = all[0];
    free(all);
    Status s = r == ncclSuccess
                   ? OK
                   : err_set(err, E_FAILED, "NCCL: no identifier: %s", n->GetErrorString(r));
    return comm_agree(h, s, err);
}

/* A communicator for the ranks of n->hosts. */
static Status join(Nccl *n, Err *err)
{
    ncclUniqueId id;
    TRY(comm_agree(n->hosts, load(n, err), err));
    TRY(share_id(n, &id, err));
    CUDA_CHECK(cudaSetDevice(cuda_impl(n->dev)->ordinal));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (n->ctas > 0) {
        config.minCTAs = 1;
        config.maxCTAs = n->ctas;
    }
    ncclResult_t r = n->CommInitRankConfig(&n->comm, n->hosts->size, id, n->hosts->rank, &config);
    /* the others may be inside, where no word of this one reaches them */
    if (r != ncclSuccess) panic("NCCL: %s (%s)", n->GetErrorString(r), n->GetLastError(NULL));
    return OK;
}

static Status nccl_split(Comm *c, Comm *out, int color, Err *err)
{
    const Nccl *whole = c->impl;
    Nccl *n = xcalloc(1, sizeof *n);
    n->dev = whole->dev;
    n->ctas = whole->ctas;
    n->part = (Comm){.rank = out->rank, .size = out->size, .whole = whole->hosts};
    n->hosts = &n->part;
    Status s = whole->hosts->ops->split(whole->hosts, &n->part, color, err);
    if (s == OK) s = join(n, err);
    if (s != OK) {
        comm_close(&n->part);
        free(n);
        return s;
    }
    out->ops = c->ops;
    out->impl = n;
    return OK;
}

Status comm_nccl(Comm *out, Comm *hosts, Device *d, int ctas, Err *err)
{
    Nccl *n = xcalloc(1, sizeof *n);
    n->ctas = ctas;
    n->hosts = hosts;
    n->dev = d;
    Status s = join(n, err);
    if (s != OK) {
        free(n);
        return s;
    }
    *out = *hosts;
    out->ops = &nccl_ops;
    out->impl = n;
    return OK;
}
