/* silu(gate) * up, sixteen bytes a thread. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

__device__ static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + __expf(-x));
}

/* transformers rounds silu(gate) to the compute dtype before the product */
template <typename T> __device__ static inline T swiglu(T gate, T up)
{
    float g = to_f32(gate);
    return from_f32<T>(to_f32(from_f32<T>(g * sigmoid(g))) * to_f32(up));
}

template <typename T, int N>
__global__ void swiglu_fwd_kernel(T *h, const T *gu, int64_t rows, int f, int64_t ld_h,
                                  int64_t ld_gu)
{
    int vecs = f / N;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * vecs;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / vecs;
        int col = (int)(i % vecs) * N;
        const T *gate = gu + row * ld_gu + col, *up = gate + f;
        T *to = h + row * ld_h + col;
        if (N == 1) {
            *to = swiglu(*gate, *up);
        } else {
            Vec<T> g = vec_load(gate), u = vec_load(up);
            for (int j = 0; j < N; j++)
                g.v[j] = swiglu(g.v[j], u.v[j]);
            vec_store(to, g);
        }
    }
}

template <typename T>
__device__ static inline void swiglu_grad(T gate, T up, T dh, float *dg, float *du)
{
    float g = to_f32(gate), s = sigmoid(g), d = to_f32(dh);
    *du = d * g * s;
    *dg = d * to_f32(up) * s * (1.0f + g * (1.0f - s));
}

template <typename T, int N>
__global__ void swiglu_bwd_kernel(T *dgu, float beta, T *h, const T *dh, const T *gu, int64_t rows,
                                  int f, int64_t ld_dgu, int64_t ld_h, int64_t ld_dh, int64_t ld_gu)
{
    int vecs = f / N;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * vecs;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / vecs;
        int col = (int)(i % vecs) * N;
        const T *gate = gu + row * ld_gu + col, *up = gate + f, *from = dh + row * ld_dh + col;
        T *to_g = dgu + row * ld_dgu + col, *to_u = to_g + f;
        T *to_h =
            h ? h + row * ld_h + col : NULL; /* may be dh, as dgu may be gu: read before written */
        for (int j = 0; N == 1 && j < 1; j++) {
            float dg, du;
            T again = swiglu(*gate, *up);
            swiglu_grad(*gate, *up, *from, &dg, &du);
            if (to_h) *to_h = again;
            *to_g = from_f32<T>(beta != 0 ? to_f32(*to_g) + dg : dg);
            *to_u = from_f32<T>(beta != 0 ? to_f32(*to_u) + du : du);
        }
        if (N > 1) {
            Vec<T> g = vec_load(gate), u = vec_load(up), dv = vec_load(from), og, ou;
            if (beta != 0) og = vec_load(to_g), ou = vec_load(to_u);
            for (int j = 0; j < N; j++) {
                float dg, du;
                swiglu_grad(g.v[j], u.v[j], dv.v[j], &dg, &du);
                og.v[j] = from_f32<T>(beta != 0 ? to_f32(og.v[j]) + dg : dg);
                ou.v[j] = from_f32<T>(beta != 0 ? to_f32(ou.v[j]) + du : du);
            }
            vec_store(to_g, og);
            vec_store(to_u, ou);
            for (int j = 0; j < N; j++)
                g.v[j] = swiglu(g.v[j], u.v[j]);
            if (to_h) vec_store(to_h, g);
        }
    }
}

static unsigned grid_for(const Device *d, int64_t n)
{
    int64_t most = 32 * (int64_t)cuda_impl(d)->n_sms, need = ceil_div(n, THREADS);
    return (unsigned)(need < most ? need : most);
}

/* The up half starts at column F: its address must be whole vectors, too. */
template <typename T> static bool halves_fit(const Tensor *gu)
{
    return vectors_fit<T>(gu) && tensor_cols(gu) / 2 % Vec<T>::N == 0;
}

void cuda_swiglu_fwd(Device *d, Tensor *h, const Tensor *gu)
{
    int64_t rows = tensor_rows(gu), f = tensor_cols(gu) / 2;
    if (rows == 0) return;
    DISPATCH(h, T, {
        T *to = (T *)tensor_data(h);
        const T *from = (const T *)tensor_data(gu);
        if (halves_fit<T>(gu) && vectors_fit<T>(h))
            swiglu_fwd_kernel<T, Vec<T>::N>
                <<<grid_for(d, rows * f / Vec<T>::N), THREADS, 0, cuda_stream(d)>>>(
                    to, from, rows, (int)f, h->ld, gu->ld);
        else
            swiglu_fwd_kernel<T, 1><<<grid_for(d, rows * f), THREADS, 0, cuda_stream(d)>>>(
                to, from, rows, (int)f, h->ld, gu->ld);
    });
    LAUNCHED();
}

void cuda_swiglu_bwd(Device *d, Tensor *dgu, float beta, Tensor *h, const Tensor *dh,
                     const Tensor *gu)
{
    int64_t rows = tensor_rows(gu), f = tensor_cols(gu) / 2, ld_h = h ? h->ld : 0;
    if (rows == 0) return;
    DISPATCH(dgu, T, {
        T *to = (T *)tensor_data(dgu), *to_h = h ? (T *)tensor_data(h) : NULL;
        const T *from = (const T *)tensor_data(gu), *grad = (const T *)tensor_data(dh);
        if (halves_fit<T>(gu) && halves_fit<T>(dgu) && vectors_fit<T>(dh) &&
            (!h || vectors_fit<T>(h)))
            swiglu_bwd_kernel<T, Vec<T>::N>
                <<<grid_for(d, rows * f / Vec<T>::N), THREADS, 0, cuda_stream(d)>>>(
                    to, beta, to_h, grad, from, rows, (int)f, dgu->ld, ld_h, dh->ld, gu->ld);
        else
            swiglu_bwd_kernel<T, 1><<<grid_for(d, rows * f), THREADS, 0, cuda_stream(d)>>>(
                to, beta, to_h, grad, from, rows, (int)f, dgu->ld, ld_h, dh->ld, gu->ld);
    });
    LAUNCHED();
}
