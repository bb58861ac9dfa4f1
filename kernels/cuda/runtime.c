/* The backend "cuda": one device, a stream for what computes and others for what goes on beside it, one reserved
 * region. */
#include "kernels/cuda/runtime.h"

#include "base/str.h"
#include "kernels/cuda/table.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const Kernels cuda_kernels;

/* Left to the driver, to modules that load late and to NCCL when everything that is free is taken. */
static const size_t KEEP_FREE = (size_t)1 << 30;

/* The streams beside go first: their few blocks get their turn as a product's waves end, instead of after it. */
static void make_streams(CudaImpl *impl)
{
    int least, most;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &most));
    CUDA_CHECK(
        cudaStreamCreateWithPriority(&impl->streams[STREAM_COMPUTE], cudaStreamNonBlocking, least));
    CUDA_CHECK(
        cudaStreamCreateWithPriority(&impl->streams[STREAM_COMM], cudaStreamNonBlocking, most));
    CUDA_CHECK(
        cudaStreamCreateWithPriority(&impl->streams[STREAM_AHEAD], cudaStreamNonBlocking, most));
    for (int i = STREAM_UP; i <= STREAM_DOWN; i++)
        CUDA_CHECK(cudaStreamCreateWithPriority(&impl->streams[i], cudaStreamNonBlocking, most));
    /* a host thread that waits for one sleeps */
    unsigned flags = cudaEventDisableTiming | cudaEventBlockingSync;
    for (int i = 0; i < DEVICE_EVENTS; i++)
        CUDA_CHECK(cudaEventCreateWithFlags(&impl->events[i], flags));
    impl->stream = impl->streams[STREAM_COMPUTE];
}

static void destroy_streams(CudaImpl *impl)
{
    for (int i = 0; i < DEVICE_EVENTS; i++)
        CUDA_CHECK(cudaEventDestroy(impl->events[i]));
    for (int i = 0; i < STREAM_N; i++)
        CUDA_CHECK(cudaStreamDestroy(impl->streams[i]));
}

static int cuda_count(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static Status cuda_open(Device *d, const DeviceOpts *opts, Err *err)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        return err_set(err, E_INPUT, "cuda: no usable GPU here (%s); use cpu",
                       e == cudaSuccess ? "none found" : cudaGetErrorString(e));
    if (opts->ordinal < 0 || opts->ordinal >= n)
        return err_set(err, E_INPUT, "cuda:%d: this machine has GPUs 0 to %d", opts->ordinal,
                       n - 1);
    CUDA_CHECK(cudaSetDevice(opts->ordinal));
    CudaImpl *impl = xcalloc(1, sizeof *impl);
    impl->ordinal = opts->ordinal;
    impl->deterministic = opts->deterministic;
    impl->no_early = opts->no_early;
    impl->own_attention = opts->own_attention || opts->deterministic;
    struct cudaDeviceProp prop;
    CUDA_CHECK(cudaGetDeviceProperties(&prop, opts->ordinal));
    impl->n_sms = prop.multiProcessorCount;
    impl->cc = prop.major * 10 + prop.minor;
    impl->most_shared = prop.sharedMemPerBlockOptin;
    memcpy(impl->name, prop.name, sizeof impl->name);
    make_streams(impl);
    CUDA_CHECK(cudaMalloc((void **)&impl->tickets, CUDA_TICKETS * sizeof *impl->tickets));
    CUDA_CHECK(cudaMemset(impl->tickets, 0, CUDA_TICKETS * sizeof *impl->tickets));
    d->impl = impl;
    cuda_matmul_open(d);
    cuda_attention_open(d);

    size_t free_bytes, total;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    impl->context_bytes = total - free_bytes;
    size_t want = opts->region_bytes;
    size_t keep = KEEP_FREE + opts->keep_bytes;
    if (want == 0) want = free_bytes > 2 * keep ? free_bytes - keep : free_bytes / 2;
    e = cudaMalloc(&d->region_data, want);
    if (e != cudaSuccess) {
        cuda_attention_close(d);
        cuda_matmul_close(d);
        CUDA_CHECK(cudaFree(impl->tickets));
        destroy_streams(impl);
        free(impl);
        return err_set(err, E_FAILED, "GPU %d (%s): %zu MiB of %zu free cannot be reserved: %s",
                       opts->ordinal, prop.name, want >> 20, free_bytes >> 20,
                       cudaGetErrorString(e));
    }
    d->region_bytes = want;
    if (opts->tracked) cuda_track_open(d);
    return OK;
}

static void cuda_close(Device *d)
{
    CudaImpl *impl = cuda_impl(d);
    for (int i = 0; i < STREAM_N; i++)
        CUDA_CHECK(cudaStreamSynchronize(impl->streams[i]));
    cuda_attention_close(d);
    cuda_matmul_close(d);
    cuda_track_close(d);
    CUDA_CHECK(cudaFree(d->region_data));
    CUDA_CHECK(cudaFree(impl->tickets));
    destroy_streams(impl);
    free(impl);
}

static void cuda_copy_bytes(Device *d, void *dst, const void *src, size_t bytes, CopyKind kind)
{
    static const enum cudaMemcpyKind kinds[] = {[COPY_TO_DEVICE] = cudaMemcpyHostToDevice,
                                                [COPY_FROM_DEVICE] = cudaMemcpyDeviceToHost,
                                                [COPY_ON_DEVICE] = cudaMemcpyDeviceToDevice};
    /* a copy must not leave the piece of host memory that it begins in */
    const void *host = kind == COPY_TO_DEVICE ? src : kind == COPY_FROM_DEVICE ? dst : NULL;
    for (size_t done = 0, n; done < bytes; done += n) {
        n = bytes - done;
        if (host) n = cuda_pinned_run(d, (const char *)host + done, n);
        CUDA_CHECK(cudaMemcpyAsync((char *)dst + done, (const char *)src + done, n, kinds[kind],
                                   cuda_stream(d)));
    }
}

static void cuda_zero(Device *d, void *dst, size_t bytes)
{
    CUDA_CHECK(cudaMemsetAsync(dst, 0, bytes, cuda_stream(d)));
}

static void cuda_sync(Device *d)
{
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream(d)));
}

static void cuda_use_stream(Device *d, StreamId s)
{
    cuda_impl(d)->stream = cuda_impl(d)->streams[s];
}

static void cuda_record(Device *d, int slot)
{
    CUDA_CHECK(cudaEventRecord(cuda_impl(d)->events[slot], cuda_stream(d)));
}

static void cuda_await(Device *d, const Device *of, int slot)
{
    CUDA_CHECK(cudaStreamWaitEvent(cuda_stream(d), cuda_impl(of)->events[slot], 0));
}

/* A failed query is a failed device; whoever waits for it next says so.  A thread that asks for the first time would
 * otherwise make a context on device 0. */
static bool cuda_happened(const Device *d, int slot)
{
    cudaSetDevice(cuda_impl(d)->ordinal);
    return cudaEventQuery(cuda_impl(d)->events[slot]) == cudaSuccess;
}

static void cuda_wait(const Device *d, int slot)
{
    CUDA_CHECK(cudaSetDevice(cuda_impl(d)->ordinal));
    CUDA_CHECK(cudaEventSynchronize(cuda_impl(d)->events[slot]));
}

/* ---- graphs --------------------------------------------------------------------------------------- */

static void cuda_capture_begin(Device *d)
{
    cuda_impl(d)->early = !cuda_impl(d)->no_early;
    CUDA_CHECK(cudaStreamBeginCapture(cuda_stream(d), cudaStreamCaptureModeThreadLocal));
}

static void *cuda_capture_end(Device *d)
{
    cudaGraph_t graph;
    cudaGraphExec_t runs;
    CUDA_CHECK(cudaStreamEndCapture(cuda_stream(d), &graph));
    cuda_impl(d)->early = false;
    CUDA_CHECK(cudaGraphInstantiate(&runs, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    return runs;
}

static void cuda_replay(Device *d, void *graph)
{
    CUDA_CHECK(cudaGraphLaunch((cudaGraphExec_t)graph, cuda_stream(d)));
}

static void cuda_graph_free(Device *d, void *graph)
{
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream(d)));
    CUDA_CHECK(cudaGraphExecDestroy((cudaGraphExec_t)graph));
}

static void cuda_info(const Device *d, DeviceInfo *out)
{
    const CudaImpl *impl = cuda_impl(d);
    size_t free_bytes, total;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    *out = (DeviceInfo){.n_sms = impl->n_sms,
                        .total_bytes = total,
                        .context_bytes = impl->context_bytes,
                        .driver_bytes = total - free_bytes,
                        .flash_attention = impl->attention && !impl->own_attention};
    snprintf(out->name, sizeof out->name, "%.63s", impl->name);
    if (impl->attention) cuda_attention_counts(d, out);
}

static void cuda_range(Device *d, const char *name)
{
    (void)d;
    if (name)
        nvtxRangePushA(name);
    else
        nvtxRangePop();
}

const Backend cuda_backend = {
    .name = "cuda",
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .copy = cuda_copy_bytes,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .use_stream = cuda_use_stream,
    .record = cuda_record,
    .await = cuda_await,
    .happened = cuda_happened,
    .capture_begin = cuda_capture_begin,
    .capture_end = cuda_capture_end,
    .replay = cuda_replay,
    .graph_free = cuda_graph_free,
    .wait = cuda_wait,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .info = cuda_info,
    .range = cuda_range,
    .track = cuda_track,
    .kernels = &cuda_kernels,
};
