/* silu(gate) * up.  A thread has sixteen bytes of a few rows: columns and rows come from the grid, without a division,
 * and all of a thread's loads are issued before the first is waited for. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 128, FWD_ROWS = 4, BWD_ROWS = 2 };

/* Within 2 units in the last place; 0 below -88, where it is less than 1e-38. */
__device__ static inline float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + __expf(-x));
}

template <typename T>
__global__ void swiglu_fwd_kernel(T *h, const T *gu, int64_t rows, int f, int64_t ld_h,
                                  int64_t ld_gu)
{
    enum { N = Vec<T>::N };
    early_go();
    early_wait();
    int col = (blockIdx.x * THREADS + threadIdx.x) * N;
    if (col >= f) return;
    for (int64_t row0 = blockIdx.y * FWD_ROWS; row0 < rows; row0 += gridDim.y * FWD_ROWS) {
        Bits gates[FWD_ROWS], ups[FWD_ROWS];
#pragma unroll
        for (int r = 0; r < FWD_ROWS; r++) {
            const T *from = gu + (row0 + r) * ld_gu + col;
            if (row0 + r < rows) gates[r] = bits_load_last(from);
            if (row0 + r < rows) ups[r] = bits_load_last(from + f);
        }
#pragma unroll
        for (int r = 0; r < FWD_ROWS; r++) {
            float g[N], u[N];
            bits_to_f32(g, gates[r]);
            bits_to_f32(u, ups[r]);
            for (int j = 0; j < N; j++)
                g[j] *= sigmoid(g[j]);
            /* transformers rounds silu(gate) to the compute dtype before the product */
            bits_to_f32(g, bits_from_f32(g));
            for (int j = 0; j < N; j++)
                g[j] *= u[j];
            if (row0 + r < rows) bits_store(h + (row0 + r) * ld_h + col, bits_from_f32(g));
        }
    }
}

/* Of one element: dgate and dup. */
__device__ static inline float2 swiglu_grad(float g, float s, float u, float d)
{
    return make_float2(d * u * s * (1.0f + g * (1.0f - s)), d * g * s);
}

/* h (NULL: not wanted) may be dh and dgu may be gu: a thread has read its elements before it writes one. */
template <typename T>
__global__ void swiglu_bwd_kernel(T *dgu, bool add, T *h, const T *dh, const T *gu, int64_t rows,
                                  int f, int64_t ld_dgu, int64_t ld_h, int64_t ld_dh, int64_t ld_gu)
{
    enum { N = Vec<T>::N };
    int col = (blockIdx.x * THREADS + threadIdx.x) * N;
    if (col >= f) return;
    for (int64_t row0 = blockIdx.y * BWD_ROWS; row0 < rows; row0 += gridDim.y * BWD_ROWS) {
        Bits gates[BWD_ROWS], ups[BWD_ROWS], grads[BWD_ROWS], old[BWD_ROWS][2];
#pragma unroll
        for (int r = 0; r < BWD_ROWS; r++) {
            const T *from = gu + (row0 + r) * ld_gu + col, *to = dgu + (row0 + r) * ld_dgu + col;
            bool in = row0 + r < rows;
            if (in) gates[r] = bits_load_last(from);
            if (in) ups[r] = bits_load_last(from + f);
            if (in) grads[r] = bits_load_last(dh + (row0 + r) * ld_dh + col);
            old[r][0] = in && add ? bits_load(to) : bits_zero();
            old[r][1] = in && add ? bits_load(to + f) : bits_zero();
        }
#pragma unroll
        for (int r = 0; r < BWD_ROWS; r++) {
            float g[N], u[N], d[N], og[N], ou[N];
            bits_to_f32(g, gates[r]);
            bits_to_f32(u, ups[r]);
            bits_to_f32(d, grads[r]);
            bits_to_f32(og, old[r][0]);
            bits_to_f32(ou, old[r][1]);
            for (int j = 0; j < N; j++) {
                float s = sigmoid(g[j]);
                float2 grad = swiglu_grad(g[j], s, u[j], d[j]);
                og[j] += grad.x;
                ou[j] += grad.y;
                g[j] *= s;
            }
            T *to = dgu + (row0 + r) * ld_dgu + col;
            if (row0 + r >= rows) continue;
            bits_store(to, bits_from_f32(og));
            bits_store(to + f, bits_from_f32(ou));
            if (!h) continue;
            bits_to_f32(g, bits_from_f32(g)); /* as forward */
            for (int j = 0; j < N; j++)
                g[j] *= u[j];
            bits_store(h + (row0 + r) * ld_h + col, bits_from_f32(g));
        }
    }
}

/* The same for widths and addresses that vectors do not fit, an element a thread. */
template <typename T>
__global__ void swiglu_fwd_plain_kernel(T *h, const T *gu, int64_t rows, int f, int64_t ld_h,
                                        int64_t ld_gu)
{
    int col = blockIdx.x * THREADS + threadIdx.x;
    if (col >= f) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float g = to_f32(gu[row * ld_gu + col]), u = to_f32(gu[row * ld_gu + f + col]);
        h[row * ld_h + col] = from_f32<T>(to_f32(from_f32<T>(g * sigmoid(g))) * u);
    }
}

template <typename T>
__global__ void swiglu_bwd_plain_kernel(T *dgu, bool add, T *h, const T *dh, const T *gu,
                                        int64_t rows, int f, int64_t ld_dgu, int64_t ld_h,
                                        int64_t ld_dh, int64_t ld_gu)
{
    int col = blockIdx.x * THREADS + threadIdx.x;
    if (col >= f) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const T *from = gu + row * ld_gu + col;
        T *to = dgu + row * ld_dgu + col;
        float g = to_f32(from[0]), s = sigmoid(g), u = to_f32(from[f]);
        float2 grad = swiglu_grad(g, s, u, to_f32(dh[row * ld_dh + col]));
        to[0] = from_f32<T>((add ? to_f32(to[0]) : 0.0f) + grad.x);
        to[f] = from_f32<T>((add ? to_f32(to[f]) : 0.0f) + grad.y);
        if (h) h[row * ld_h + col] = from_f32<T>(to_f32(from_f32<T>(g * s)) * u);
    }
}

/* Columns of threads, `each` elements a thread, by groups of rows. */
static dim3 grid_for(int64_t rows, int64_t f, int each, int rows_each)
{
    int64_t y = ceil_div(rows, rows_each), most = 65535;
    return dim3((unsigned)ceil_div(f, (int64_t)THREADS * each), (unsigned)(y < most ? y : most));
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
            launch_early(d, swiglu_fwd_kernel<T>, grid_for(rows, f, Vec<T>::N, FWD_ROWS), THREADS,
                         0, to, from, rows, (int)f, h->ld, gu->ld);
        else
            swiglu_fwd_plain_kernel<T><<<grid_for(rows, f, 1, 1), THREADS, 0, cuda_stream(d)>>>(
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
            swiglu_bwd_kernel<T>
                <<<grid_for(rows, f, Vec<T>::N, BWD_ROWS), THREADS, 0, cuda_stream(d)>>>(
                    to, beta != 0, to_h, grad, from, rows, (int)f, dgu->ld, ld_h, dh->ld, gu->ld);
        else
            swiglu_bwd_plain_kernel<T><<<grid_for(rows, f, 1, 1), THREADS, 0, cuda_stream(d)>>>(
                to, beta != 0, to_h, grad, from, rows, (int)f, dgu->ld, ld_h, dh->ld, gu->ld);
    });
    LAUNCHED();
}
