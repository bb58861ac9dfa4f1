/* The table of GPUs.  Peaks, bandwidths and SM counts are those of NVIDIA's data sheets (without sparsity), memory is what
 * the driver reports.  The H200's shares are measured: products of Llama-3-8B's shapes 668 TFLOP/s, attention
 * 4 x 4096 tokens at 600 (forward) and 478 (backward), copies at 4.3 TB/s.  Between host memory and a GPU: what 16
 * lanes of PCIe 5 (64 GB/s) and 4 (32) leave after their packets. */
#include "kernels/gpus.h"

#include <ctype.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

/* clang-format off */
static const GpuSpec gpus[] = {
    {"h200",       "H200",         989e12,  0.675, 0.51, 4.80e12, 0.90, 50e9,  143771 * MIB, 132, true},
    {"h100",       "H100 80GB HBM3", 989e12,  0.675, 0.51, 3.35e12, 0.90, 50e9,   81559 * MIB, 132, false},
    {"h100-pcie",  "H100 PCIe",    756e12,  0.675, 0.51, 2.00e12, 0.90, 50e9,   81559 * MIB, 114, false},
    {"h100-nvl",   "H100 NVL",     835e12,  0.675, 0.51, 3.90e12, 0.90, 50e9,   95830 * MIB, 132, false},
    {"b200",       "B200",        2250e12,  0.675, 0.51, 7.70e12, 0.90, 50e9,  183359 * MIB, 148, false},
    {"a100-80",    "A100-SXM4-80GB", 312e12, 0.675, 0.51, 2.04e12, 0.90, 24e9,   81920 * MIB, 108, false},
    {"a100-40",    "A100-SXM4-40GB", 312e12, 0.675, 0.51, 1.56e12, 0.90, 24e9,   40960 * MIB, 108, false},
    {"l40s",       "L40S",         362e12,  0.675, 0.51, 0.86e12, 0.90, 24e9,   46068 * MIB, 142, false},
    {"a10",        "A10",          125e12,  0.675, 0.51, 0.60e12, 0.90, 24e9,   23028 * MIB,  72, false},
    {"rtx-6000-ada", "RTX 6000 Ada", 364e12, 0.675, 0.51, 0.96e12, 0.90, 24e9,   49140 * MIB, 142, false},
    {"rtx-5090",   "RTX 5090",     209e12,  0.675, 0.51, 1.79e12, 0.90, 50e9,   32607 * MIB, 170, false},
    {"rtx-4090",   "RTX 4090",     165e12,  0.675, 0.51, 1.01e12, 0.90, 24e9,   24564 * MIB, 128, false},
    {"rtx-3090",   "RTX 3090",      71e12,  0.675, 0.51, 0.94e12, 0.90, 24e9,   24576 * MIB,  82, false},
};
/* clang-format on */

enum { N_GPUS = sizeof gpus / sizeof *gpus };

const GpuSpec *gpu_spec(int i)
{
    return i >= 0 && i < N_GPUS ? &gpus[i] : NULL;
}

/* Letters and digits alone count. */
static bool same_name(const char *a, const char *b)
{
    for (;;) {
        while (*a && !isalnum((unsigned char)*a))
            a++;
        while (*b && !isalnum((unsigned char)*b))
            b++;
        if (!*a || !*b) return *a == *b;
        if (tolower((unsigned char)*a++) != tolower((unsigned char)*b++)) return false;
    }
}

const GpuSpec *gpu_find(const char *name)
{
    for (int i = 0; i < N_GPUS; i++)
        if (same_name(gpus[i].name, name)) return &gpus[i];
    return NULL;
}

const GpuSpec *gpu_match(const char *driver_name)
{
    for (int i = 0; i < N_GPUS; i++) {
        const char *at = strstr(driver_name, gpus[i].match);
        /* "A10" is no part of "A100" */
        if (at && !isalnum((unsigned char)at[strlen(gpus[i].match)])) return &gpus[i];
    }
    return NULL;
}
