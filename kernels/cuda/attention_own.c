/* Attention where cuDNN was not found at build time: our own kernels alone. */
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"

void cuda_attention_open(Device *d)
{
    (void)d;
}

void cuda_attention_close(Device *d)
{
    (void)d;
}

void cuda_attention_counts(const Device *d, DeviceInfo *out)
{
    (void)d, (void)out;
}

void cuda_attention_fwd(Device *d, Tensor *o, Tensor *lse, const Tensor *q, const Tensor *k,
                        const Tensor *v, int n_heads, int n_kv_heads, const Docs *docs, float scale)
{
    cuda_attention_fwd_plain(d, o, lse, q, k, v, n_heads, n_kv_heads, docs, scale);
}

void cuda_attention_bwd(Device *d, Tensor *dq, Tensor *dk, Tensor *dv, const Tensor *d_o,
                        const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o,
                        const Tensor *lse, int n_heads, int n_kv_heads, const Docs *docs,
                        float scale)
{
    cuda_attention_bwd_plain(d, dq, dk, dv, d_o, q, k, v, o, lse, n_heads, n_kv_heads, docs, scale);
}
