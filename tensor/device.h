/* Device: an opened backend with one reserved region of memory, a workspace and counts by category.
 * Backend: what a kind of device can do.  No kernel and no op asks the system for memory. */
#pragma once

#include "base/parallel.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct Kernels; /* kernels/kernels.h */
typedef struct Region Region;

typedef enum CopyKind { COPY_TO_DEVICE, COPY_FROM_DEVICE, COPY_ON_DEVICE } CopyKind;

typedef struct DeviceOpts {
    int ordinal;         /* which device of its kind */
    size_t region_bytes; /* memory to reserve; 0: the backend's default */
    size_t keep_bytes;   /* of the default, to be left free: for NCCL */
    int threads;         /* cpu: threads for kernels; 0: all that the process may use */
    bool own_attention;  /* cuda: attention by our own kernels alone */
    bool
        deterministic; /* cuda: the same bits every time: own attention (the library's sums dq by atomics), and
                          * products by the library's first answer instead of the fastest of a timing */
    bool
        no_early; /* cuda: no kernel of a recorded pass begins before the one ahead of it is done */
    Device *
        pinned_by; /* cpu: the region is memory that this device copies from and to by itself, where it
                               * can; lives longer */
    bool tracked; /* cuda: tells a memory checker what has an owner; slow, for tests under one */
    const void *target; /* plan: the PlanTarget (kernels/plan/plan.h) that stands for the device */
} DeviceOpts;

/* What an opened device is, for plans and reports. */
typedef struct DeviceInfo {
    char name[64];
    int n_sms;                /* 0: no GPU */
    size_t total_bytes;       /* of its memory */
    size_t context_bytes;     /* taken by driver and libraries before the region was reserved */
    size_t driver_bytes;      /* in use now, as the driver counts */
    bool flash_attention;     /* bf16 attention goes to a library's engine */
    int64_t n_flash, n_plain; /* attention calls that went there, and to kernels of our own */
    int64_t n_dense;          /* those of n_flash whose documents were all of one length */
} DeviceInfo;

/* Work in program order each: what computes; beside it what moves data between ranks, what gets ready what the next product will
 * read, and what moves data from and to host memory. */
typedef enum StreamId {
    STREAM_COMPUTE,
    STREAM_COMM,
    STREAM_AHEAD,
    STREAM_UP,   /* to the device */
    STREAM_DOWN, /* to the host */
    STREAM_N
} StreamId;
enum { DEVICE_EVENTS = 256 };

/* All calls are asynchronous with respect to the host where the device is, in program order on the
 * stream in use (the compute stream, unless use_stream said otherwise).  Failures of the machine panic. */
typedef struct Backend {
    const char *name;   /* "cpu", "cuda", "plan" */
    int (*count)(void); /* devices that this process may open; NULL: any number of ordinal 0 */
    /* Sets impl, pool, region_data and region_bytes. */
    Status (*open)(Device *d, const DeviceOpts *opts, Err *err);
    void (*close)(Device *d);
    void (*copy)(Device *d, void *dst, const void *src, size_t bytes, CopyKind kind);
    void (*zero)(Device *d, void *dst, size_t bytes);
    void (*sync)(Device *d); /* until everything in the stream in use is done */
    /* Streams and events; all five NULL where work is done when a call returns.  use_stream: what is issued from now
     * on goes there.  record: event `slot` happens when what the stream in use holds now is done.  await: the stream in
     * use goes on after an event of `of`, this device or another one of its kind in this process.  happened: whether
     * it did; wait: the host goes on when it did; both may be called from any thread. */
    void (*use_stream)(Device *d, StreamId s);
    void (*record)(Device *d, int slot);
    void (*await)(Device *d, const Device *of, int slot);
    bool (*happened)(const Device *d, int slot);
    void (*wait)(const Device *d, int slot);
    /* Work that is recorded instead of done: what the stream in use is given between begin and end, on the addresses that it
     * had then, as often as it is replayed.  Nothing of it may wait for the device or ask for memory of the system.  All
     * four NULL where it gains nothing. */
    void (*capture_begin)(Device *d);
    void *(*capture_end)(Device *d);
    void (*replay)(Device *d, void *graph);
    void (*graph_free)(Device *d, void *graph);
    /* Host memory that copies reach without a detour; both NULL where the device's memory is the host's. */
    void *(*host_alloc)(Device *d, size_t bytes);
    void (*host_free)(Device *d, void *p);
    void (*info)(const Device *d, DeviceInfo *out);
    /* Begins a range of that name for the vendor's profiler, NULL ends the last; NULL where there is none. */
    void (*range)(Device *d, const char *name);
    /* Memory of the region gets an owner or loses it; NULL where nobody is told. */
    void (*track)(Device *d, void *p, size_t bytes, bool owned);
    const struct Kernels *kernels;
} Backend;

enum { MOVED_UP, MOVED_DOWN, MOVED_N };

typedef struct MemStats {
    size_t live[MEM_N], peak[MEM_N]; /* bytes, as rounded by the allocator */
    size_t live_total, peak_total;
    size_t at_peak[MEM_N]; /* live by category at the moment of peak_total */
    int64_t n_allocs;
} MemStats;

struct Device {
    const Backend *backend;
    const struct Kernels *k; /* == backend->kernels */
    void *impl;              /* the backend's own state */
    DType compute;           /* of activations and working copies: DT_F32 or DT_BF16 */
    Pool *pool;              /* cpu: threads of the kernels; else NULL */
    void *region_data;
    size_t region_bytes;
    Region *region;
    Storage *workspace; /* scratch of the running kernel */
    size_t workspace_used;
    MemStats mem;
    Storage *free_storages;
    struct Meter *meter;   /* kernels/meter.h, or NULL */
    int spare_sms;         /* cuda: processors that products leave to what moves data beside them */
    int64_t n_events;      /* recorded so far */
    size_t moved[MOVED_N]; /* bytes that came from and went to host memory (tensor/transfer.h) */
    char when_full[160];   /* device_when_full */
};

/* Opens with the region reserved; kernels/backend.c finds a Backend by name.  When that fails, d is empty, and closing it nothing. */
Status device_open(Device *d, const Backend *b, const DeviceOpts *opts, DType compute,
                   Err *err) MUST_CHECK;
void device_close(Device *d); /* dies when storages are still live: a leak is a bug */

/* Begins a range of that name for the vendor's profiler, NULL ends the last; free where no profiler looks on. */
static inline void device_range(Device *d, const char *name)
{
    if (d->backend->range) d->backend->range(d, name);
}

/* A block of the region with one owner; ends the process with the memory table when the region is full (give_up).  bytes 0 is
 * fine.  Contents are undefined. */
Storage *storage_new(Device *d, size_t bytes, MemCategory category);
void storage_ref(Storage *s);
void storage_unref(Storage *s); /* NULL is fine; the last owner frees */

/* Kernel scratch of `bytes` from the region, aligned to 256: one piece per running kernel, valid until that
 * kernel calls workspace_give.  Asking again before that dies. */
void *workspace_take(Device *d, size_t bytes);
void workspace_give(Device *d);

/* Tensor contents between host memory (dense, the tensor's dtype) and the device; rows are copied by pitch.
 * tensor_read waits for the device. */
void tensor_write(Device *d, Tensor *t, const void *host);
void tensor_read(Device *d, const Tensor *t, void *host);
/* The same with float on the host's side, converted for bf16 and f16. */
void tensor_write_f32(Device *d, Tensor *t, const float *host);
void tensor_read_f32(Device *d, const Tensor *t, float *host);
void tensor_zero(Device *d, Tensor *t); /* the pad between rows included */

/* A tensor with a storage of its own that no scope owns: parameters, states, caches.  Free with
 * tensor_clear. */
Tensor tensor_alloc(Device *d, DType dtype, int n_dims, const int64_t *shape, MemCategory category);
void tensor_clear(Tensor *t);

/* The backend's streams and events, or nothing where it has none.  device_record returns the event's number, from 1: the
 * last DEVICE_EVENTS are kept, and awaiting an older one awaits a younger in its place, which is later and so does.
 * device_await of number 0 is nothing. */
void device_use_stream(Device *d, StreamId s);
int64_t device_record(Device *d);
void device_await(Device *d, const Device *of, int64_t event);
bool device_happened(const Device *d, int64_t event);
/* The calling thread goes on when the event has happened. */
void device_wait(const Device *d, int64_t event);

/* What a user may set who runs out of memory: "a smaller batch, or ...", in the words of the command that opened the
 * device; it comes behind the memory table.  Copied. */
void device_when_full(Device *d, const char *settings);

/* Forgets the peaks: from now on they are of what comes. */
void device_reset_peak(Device *d);

/* Live and peak bytes by category, as lines of text into buf; returns buf. */
const char *device_memory_table(const Device *d, char *buf, size_t n);

#ifdef __cplusplus
}
#endif
