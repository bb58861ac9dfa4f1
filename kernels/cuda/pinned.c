/* Host memory that the GPU reads and writes by itself.  A large block is reserved as addresses and locked piece by piece,
 * each after its pages were touched by all threads: one request for all of it would zero the pages on one thread, and fails
 * where a virtual machine's memory grows as it is used. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE */
#include "kernels/cuda/runtime.h"

#include "base/parallel.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const size_t PIECE = (size_t)256 << 20, PAGE = (size_t)2 << 20;

typedef struct CudaPinned {
    char *data;
    size_t bytes;
    struct CudaPinned *next;
} CudaPinned;

static size_t piece_bytes(const CudaPinned *p, size_t at)
{
    return p->bytes - at < PIECE ? p->bytes - at : PIECE;
}

typedef struct Touch {
    char *data;
    size_t bytes;
} Touch;

static void touch_page(void *ud, int64_t i)
{
    const Touch *t = ud;
    size_t at = (size_t)i * PAGE, n = t->bytes - at < PAGE ? t->bytes - at : PAGE;
    memset(t->data + at, 0, n);
}

static void *alloc_pieces(Device *d, size_t bytes)
{
    CudaPinned *p = xcalloc(1, sizeof *p);
    p->bytes = bytes;
    p->data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p->data == MAP_FAILED) panic("no range of %zu MiB of host memory", bytes >> 20);
    madvise(p->data, bytes, MADV_HUGEPAGE); /* fewer page faults; a kernel without it is fine */
    Pool *pool = pool_new(0);
    for (size_t at = 0; at < bytes; at += PIECE) {
        Touch t = {p->data + at, piece_bytes(p, at)};
        pool_run(pool, (int64_t)((t.bytes + PAGE - 1) / PAGE), touch_page, &t);
        CUDA_CHECK(cudaHostRegister(t.data, t.bytes, cudaHostRegisterDefault));
    }
    pool_free(pool);
    p->next = cuda_impl(d)->pinned;
    cuda_impl(d)->pinned = p;
    return p->data;
}

void *cuda_host_alloc(Device *d, size_t bytes)
{
    if (bytes > PIECE) return alloc_pieces(d, bytes);
    void *p;
    CUDA_CHECK(cudaHostAlloc(&p, bytes, cudaHostAllocDefault));
    return p;
}

void cuda_host_free(Device *d, void *data)
{
    CudaPinned **at = &cuda_impl(d)->pinned, *p;
    while (*at && (*at)->data != data)
        at = &(*at)->next;
    p = *at;
    if (!p) {
        CUDA_CHECK(cudaFreeHost(data));
        return;
    }
    for (size_t i = 0; i < p->bytes; i += PIECE)
        CUDA_CHECK(cudaHostUnregister(p->data + i));
    munmap(p->data, p->bytes);
    *at = p->next;
    free(p);
}

size_t cuda_pinned_run(const Device *d, const void *data, size_t bytes)
{
    for (const CudaPinned *p = cuda_impl(d)->pinned; p; p = p->next) {
        uintptr_t from = (uintptr_t)p->data, at = (uintptr_t)data;
        if (at < from || at >= from + p->bytes) continue;
        size_t left = PIECE - (at - from) % PIECE;
        return bytes < left ? bytes : left;
    }
    return bytes;
}
