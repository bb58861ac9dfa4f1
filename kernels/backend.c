/* Finds a Backend by name: the tree's only #ifdef HAVE_CUDA. */
#include "kernels/kernels.h"

#include <string.h>

/* In cpu/, plan/ and cuda/. */
extern const Backend cpu_backend, plan_backend;
#ifdef HAVE_CUDA
extern const Backend cuda_backend;
#endif

static const Backend *const backends[] = {
    &cpu_backend,
    &plan_backend,
#ifdef HAVE_CUDA
    &cuda_backend,
#endif
};

enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

const Backend *backend_find(const char *name)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        if (strcmp(backends[i]->name, name) != 0) continue;
        kernels_check(name, backends[i]->kernels);
        return backends[i];
    }
    return NULL;
}

/* In the order of struct Kernels. */
static const char *const kernel_names[] = {
    "matmul",
    "copy",
    "axpy",
    "sum_rows",
    "bias_fwd",
    "bias_bwd",
    "embedding_fwd",
    "embedding_bwd",
    "rmsnorm_fwd",
    "rmsnorm_bwd",
    "split_rope_fwd",
    "split_rope_bwd",
    "attention_fwd",
    "attention_bwd",
    "attention_cached",
    "swiglu_fwd",
    "swiglu_bwd",
    "gather_rows",
    "scatter_rows",
    "softmax_xent",
    "argmax",
    "next_tokens",
    "dropout_fwd",
    "dropout_bwd",
    "fill_normal",
    "write_adapters",
    "row_norms",
    "adapted_norms",
    "dora_fwd",
    "dora_bwd",
    "quantize",
    "dequantize",
    "quant_matvec",
    "quant_mixed",
    "sum",
    "sum_squares",
    "count_nonfinite",
    "checksum",
    "step_scalars",
    "adamw",
};

const char *kernel_name(int i)
{
    return kernel_names[i];
}

const char *backend_names(void)
{
#ifdef HAVE_CUDA
    return "cpu cuda";
#else
    return "cpu";
#endif
}

typedef void AnyKernel(void);

_Static_assert(sizeof(Kernels) ==
                   sizeof kernel_names / sizeof kernel_names[0] * sizeof(AnyKernel *),
               "a name for each kernel");

void kernels_check(const char *backend, const Kernels *k)
{
    for (size_t i = 0; i < sizeof kernel_names / sizeof kernel_names[0]; i++) {
        AnyKernel *entry;
        memcpy(&entry, (const char *)k + i * sizeof entry, sizeof entry);
        ASSERT(entry, "backend %s has no kernel %s", backend, kernel_names[i]);
    }
}
