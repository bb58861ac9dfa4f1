/* The CUDA device behind Device.impl: stream, library handles, properties; and how its failures are told. */
#pragma once

#include "tensor/device.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_TICKETS = 1 << 14 };

typedef struct CudaImpl {
    int ordinal;
    cudaStream_t streams[STREAM_N];
    cudaStream_t stream; /* the one in use */
    cudaEvent_t events[DEVICE_EVENTS];
    int n_sms;
    int cc;             /* compute capability, 90 for 9.0 */
    size_t most_shared; /* bytes of shared memory that a block can have */
    char name[256];
    size_t
        context_bytes;  /* what the driver and the libraries took before the region was reserved */
    bool own_attention; /* as asked for: attention through our own kernels alone */
    bool deterministic; /* products take no choice that was timed */
    bool no_early;      /* as asked for */
    bool
        early; /* kernels that can begin early do: while a graph is captured (cuda.cuh: launch_early) */
    unsigned *
        tickets; /* (CUDA_TICKETS) on the device, 0 between kernels: for those whose last block ends the work */
    void *matmul;              /* matmul.c */
    void *attention;           /* attention_cudnn.c */
    struct CudaPinned *pinned; /* pinned.c: blocks in several pieces */
    /* track.c; NULL: nobody is told */
    struct nvtxDomainRegistration_st *domain;
    struct nvtxMemHeap_v1 *heap;
} CudaImpl;

static inline CudaImpl *cuda_impl(const Device *d)
{
    return (CudaImpl *)d->impl;
}

static inline cudaStream_t cuda_stream(const Device *d)
{
    return cuda_impl(d)->stream;
}

/* The calling thread's device, for messages; -1: not even that is known. */
static inline int cuda_ordinal(void)
{
    int ordinal = -1;
    (void)cudaGetDevice(&ordinal);
    return ordinal;
}

/* Failures are told with the call, the place (panic adds file and line) and the device. */
#define CUDA_CHECK(call)                                                                           \
    do {                                                                                           \
        cudaError_t cuda_error_ = (call);                                                          \
        if (cuda_error_ != cudaSuccess)                                                            \
            panic("CUDA: %s on GPU %d: %s (%s)", #call, cuda_ordinal(),                            \
                  cudaGetErrorString(cuda_error_), cudaGetErrorName(cuda_error_));                 \
    } while (0)

/* Each opens and closes its part of CudaImpl. */
void cuda_matmul_open(Device *d);
void cuda_matmul_close(Device *d);
void cuda_attention_open(Device *d);
void cuda_attention_close(Device *d);
void cuda_track_open(Device *d); /* only for DeviceOpts.tracked */
void cuda_track_close(Device *d);
/* Backend.track */
void cuda_track(Device *d, void *p, size_t bytes, bool owned);
/* Backend.host_alloc, host_free (pinned.c) */
void *cuda_host_alloc(Device *d, size_t bytes);
void cuda_host_free(Device *d, void *p);
/* How many of the bytes at p, in host memory, one copy may take. */
size_t cuda_pinned_run(const Device *d, const void *p, size_t bytes);

#ifdef __cplusplus
}
#endif
