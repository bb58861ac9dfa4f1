/* The plan device: addresses without memory behind them. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */
#include "kernels/plan/table.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* More than any device has, so that a plan can say by how much a run does not fit. */
#define MOST_BYTES  ((size_t)1 << 44)
#define LEAST_BYTES ((size_t)1 << 36)

static Status plan_open(Device *d, const DeviceOpts *opts, Err *err)
{
    if (!opts->target)
        return err_set(err, E_INPUT, "plan computes nothing; `lorac plan` uses it by itself");
    size_t bytes = opts->region_bytes ? opts->region_bytes : MOST_BYTES;
    void *p;
    for (;; bytes /= 2) {
        p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED || opts->region_bytes || bytes <= LEAST_BYTES) break;
    }
    if (p == MAP_FAILED)
        return err_set(err, E_FAILED, "plan: no range of %zu GiB of addresses; see ulimit -v",
                       bytes >> 30);
    d->region_data = p;
    d->region_bytes = bytes;
    d->impl = (void *)(uintptr_t)opts->target;
    return OK;
}

static void plan_close(Device *d)
{
    munmap(d->region_data, d->region_bytes);
}

static void plan_copy(Device *d, void *dst, const void *src, size_t bytes, CopyKind kind)
{
    (void)d, (void)src;
    if (kind == COPY_FROM_DEVICE) memset(dst, 0, bytes);
}

static void plan_zero(Device *d, void *dst, size_t bytes)
{
    (void)d, (void)dst, (void)bytes;
}

static void plan_sync(Device *d)
{
    (void)d;
}

static void plan_info(const Device *d, DeviceInfo *out)
{
    const PlanTarget *t = plan_target(d);
    *out = (DeviceInfo){.n_sms = t->n_sms, .flash_attention = t->flash_attention};
    snprintf(out->name, sizeof out->name, "plan");
}

const Backend plan_backend = {
    .name = "plan",
    .open = plan_open,
    .close = plan_close,
    .copy = plan_copy,
    .zero = plan_zero,
    .sync = plan_sync,
    .info = plan_info,
    .kernels = &plan_kernels,
};
