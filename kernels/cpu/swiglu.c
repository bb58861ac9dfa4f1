/* SwiGLU (Shazeer 2020): h = silu(gate) * up, silu(g) = g sigmoid(g). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

typedef struct Swiglu {
    float *h, *dgu;
    const float *gu, *dh;
    int64_t width, ldh, ldgu, lddgu;
    float beta;
} Swiglu;

VECTORISED static void fwd_rows(void *args, int64_t row0, int64_t row1)
{
    const Swiglu *a = args;
    for (int64_t r = row0; r < row1; r++) {
        const float *gate = a->gu + r * a->ldgu, *up = gate + a->width;
        float *h = a->h + r * a->ldh;
        for (int64_t i = 0; i < a->width; i++)
            h[i] = gate[i] * sigmoid_f32(gate[i]) * up[i];
    }
}

void cpu_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu)
{
    int64_t n = tensor_rows(h), width = tensor_cols(h);
    check_matrix(gu, n, 2 * width, "swiglu: gu");
    Swiglu a = {.h = data_f32(h), .gu = data_f32(gu), .width = width, .ldh = h->ld, .ldgu = gu->ld};
    rows_run(d, n, 6 * width, fwd_rows, &a);
}

/* silu'(g) = s + g s (1 - s),  s = sigmoid(g).  An element is read before anything is written in its place. */
VECTORISED static void bwd_rows(void *args, int64_t row0, int64_t row1)
{
    const Swiglu *a = args;
    for (int64_t r = row0; r < row1; r++) {
        const float *gate = a->gu + r * a->ldgu, *up = gate + a->width, *dh = a->dh + r * a->ldh;
        float *dgate = a->dgu + r * a->lddgu, *dup = dgate + a->width;
        float *h = a->h ? a->h + r * a->ldh : NULL;
        INDEPENDENT
        for (int64_t i = 0; i < a->width; i++) {
            float s = sigmoid_f32(gate[i]), silu = gate[i] * s, u = up[i], d = dh[i];
            float dg = d * u * (s + silu * (1.0f - s)), du = d * silu;
            dgate[i] = a->beta == 0 ? dg : a->beta * dgate[i] + dg;
            dup[i] = a->beta == 0 ? du : a->beta * dup[i] + du;
            if (h) h[i] = silu * u;
        }
    }
}

void cpu_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                    const Tensor *gu)
{
    int64_t n = tensor_rows(dh), width = tensor_cols(dh);
    check_matrix(gu, n, 2 * width, "swiglu: gu");
    check_matrix(dgu, n, 2 * width, "swiglu: dgu");
    ASSERT(!h || h->ld == dh->ld, "swiglu: h has a pitch of %lld, dh of %lld", (long long)h->ld,
           (long long)dh->ld);
    Swiglu a = {.h = h ? data_f32(h) : NULL,
                .dgu = data_f32(dgu),
                .gu = data_f32(gu),
                .dh = data_f32(dh),
                .width = width,
                .ldh = dh->ld,
                .ldgu = gu->ld,
                .lddgu = dgu->ld,
                .beta = beta};
    rows_run(d, n, 8 * width, bwd_rows, &a);
}
