/* What known GPUs can do: for plans without one, and for the share of the peak that a step reaches. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct GpuSpec {
    const char *name;  /* "h200", as users write it */
    const char *match; /* a part of the driver's name for it */
    double bf16_flops; /* dense, with f32 sums: the maker's number */
    double sustained;  /* share of it that products of a model's shapes reach on a warm card */
    double
        attention; /* share that flash attention reaches, forward and backward together, both masked */
    double bandwidth; /* bytes a second: the maker's number */
    double copy;      /* share of it that a copy on the device reaches */
    double
        pcie; /* bytes a second between host memory and the GPU, each way, that pinned copies reach */
    size_t memory; /* bytes, as the driver counts */
    int n_sms;
    bool measured; /* the shares are measurements; else they are taken over from the H200 */
} GpuSpec;

/* By its name in any case ("RTX-4090", "rtx 4090"); NULL: unknown. */
const GpuSpec *gpu_find(const char *name);
/* By the driver's name ("NVIDIA H200"); NULL: unknown. */
const GpuSpec *gpu_match(const char *driver_name);
const GpuSpec *gpu_spec(int i); /* NULL behind the last */

/* Memory that is not for tensors: what driver and libraries take when opened (measured on an H200: 571 MiB;
 * `train` prints what it really is), and what is left free for modules that load late. */
#define GPU_CONTEXT_BYTES ((size_t)600 << 20)
#define GPU_KEEP_FREE     ((size_t)1 << 30)
