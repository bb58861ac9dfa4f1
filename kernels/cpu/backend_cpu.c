/* Backend "cpu": the region is reserved address space that the system fills in as it is touched, the
 * threads are one pool, a copy is memcpy, and every call is done when it returns. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE */
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#    define HAVE_ASAN
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define HAVE_ASAN
#    endif
#endif

#define SMALLEST_REGION ((size_t)64 << 20)

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Physical memory: a run that needs more should end with the memory table, not in swap.  Under ASan the whole
 * region's shadow is written when it is opened, so a test's worth must do. */
static size_t default_bytes(void)
{
#ifdef HAVE_ASAN
    return (size_t)1 << 30;
#else
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)8 << 30;
#endif
}

static Status open_region(Device *d, const DeviceOpts *opts, Err *err)
{
    size_t bytes = opts->region_bytes ? opts->region_bytes : default_bytes();
    d->region_data = reserve(bytes);
    /* A limit on address space (ulimit -v, strict overcommit) allows less: take what there is. */
    while (!d->region_data && !opts->region_bytes && bytes / 2 >= SMALLEST_REGION)
        d->region_data = reserve(bytes /= 2);
    if (!d->region_data)
        return err_set(err, E_FAILED, "cpu: cannot reserve %zu MiB of memory; see ulimit -v",
                       bytes >> 20);
    d->region_bytes = bytes;
    madvise(d->region_data, bytes,
            MADV_HUGEPAGE); /* fewer page faults; a kernel without it is fine */
    return OK;
}

/* impl: the device that pinned the region, or NULL. */
static Status cpu_open(Device *d, const DeviceOpts *opts, Err *err)
{
    Device *by = opts->pinned_by;
    if (by && by->backend->host_alloc) {
        d->impl = by;
        d->region_bytes = opts->region_bytes;
        d->region_data = by->backend->host_alloc(by, opts->region_bytes);
    } else {
        TRY(open_region(d, opts, err));
    }
    d->pool = pool_new(opts->threads);
    gemm_setup();
    return OK;
}

static void cpu_close(Device *d)
{
    Device *by = d->impl;
    pool_free(d->pool);
    if (by)
        by->backend->host_free(by, d->region_data);
    else
        munmap(d->region_data, d->region_bytes);
    d->pool = NULL;
    d->region_data = NULL;
}

static void cpu_copy_bytes(Device *d, void *dst, const void *src, size_t bytes, CopyKind kind)
{
    if (bytes) memcpy(dst, src, bytes);
}

typedef struct Zero {
    char *data;
    size_t bytes;
} Zero;

static const size_t ZERO_PIECE = (size_t)2 << 20;

static void zero_piece(void *ud, int64_t i)
{
    const Zero *z = ud;
    size_t at = (size_t)i * ZERO_PIECE, left = z->bytes - at;
    memset(z->data + at, 0, left < ZERO_PIECE ? left : ZERO_PIECE);
}

/* On all threads: states in host memory are many GiB whose pages the system has yet to give, and those of a machine with
 * several memories should not all lie in one. */
static void cpu_zero(Device *d, void *dst, size_t bytes)
{
    Zero z = {dst, bytes};
    pool_run(d->pool, (int64_t)((bytes + ZERO_PIECE - 1) / ZERO_PIECE), zero_piece, &z);
}

static void cpu_sync(Device *d)
{
}

static void cpu_info(const Device *d, DeviceInfo *out)
{
    *out = (DeviceInfo){.total_bytes = default_bytes()};
    snprintf(out->name, sizeof out->name, "CPU, %d threads", pool_size(d->pool));
}

const Backend cpu_backend = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .copy = cpu_copy_bytes,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .info = cpu_info,
    .kernels = &cpu_kernels,
};
