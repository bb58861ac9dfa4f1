/* RMSNorm: a block a row, which is read once and stays in registers: every load of a row is issued before the first
 * is waited for, and one barrier joins the warps' sums.  Backward keeps each thread's share of dw in registers over all
 * rows of its block and sums the blocks' shares in a second kernel; where dw is not wanted a block has one row. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

/* VECS vectors a thread: the widest row in registers is 16384 of bf16, 8192 of f32. */
enum { VECS = 4, MAX_THREADS = 512, PLAIN_THREADS = 256, FEW_ROWS = 8 };

/* The sum over the block, in every thread, in a fixed order.  `turn` alternates between calls, so that no barrier is
 * needed before the next one writes. */
__device__ static inline float row_sum(float x, int turn)
{
    __shared__ float part[2][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    if (lane == 0) part[turn][warp] = x;
    __syncthreads();
    return warp_sum(lane < (int)(blockDim.x / WARP) ? part[turn][lane] : 0.0f);
}

template <typename T>
__global__ void __launch_bounds__(MAX_THREADS)
    rmsnorm_fwd_kernel(T *y, float *rstd, const T *x, const T *w, int cols, int64_t ld_y,
                       int64_t ld_x, float eps)
{
    early_go();
    const T *xr = x + blockIdx.x * ld_x;
    T *yr = y + blockIdx.x * ld_y;
    int n_vecs = cols / Vec<T>::N;
    Bits xs[VECS], ws[VECS];
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        int i = threadIdx.x + k * blockDim.x;
        ws[k] = i < n_vecs ? bits_load(w + i * Vec<T>::N) : bits_zero();
    }
    early_wait();
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        int i = threadIdx.x + k * blockDim.x;
        xs[k] = i < n_vecs ? bits_load(xr + i * Vec<T>::N) : bits_zero();
    }
    float sum = 0;
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        float v[Vec<T>::N];
        bits_to_f32(v, xs[k]);
        for (int j = 0; j < Vec<T>::N; j++)
            sum += v[j] * v[j];
    }
    float r = rsqrtf(row_sum(sum, 0) / (float)cols + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        int i = threadIdx.x + k * blockDim.x;
        float v[Vec<T>::N], wv[Vec<T>::N];
        bits_to_f32(v, xs[k]);
        bits_to_f32(wv, ws[k]);
        for (int j = 0; j < Vec<T>::N; j++)
            v[j] *= r;
        bits_to_f32(v, bits_from_f32(v)); /* rounded as transformers does */
        for (int j = 0; j < Vec<T>::N; j++)
            v[j] *= wv[j];
        if (i < n_vecs) bits_store(yr + i * Vec<T>::N, bits_from_f32(v));
    }
}

/* The same for widths and addresses that vectors do not fit. */
template <typename T>
__global__ void rmsnorm_fwd_plain_kernel(T *y, float *rstd, const T *x, const T *w, int cols,
                                         int64_t ld_y, int64_t ld_x, float eps)
{
    const T *xr = x + blockIdx.x * ld_x;
    T *yr = y + blockIdx.x * ld_y;
    float sum = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        sum += to_f32(xr[i]) * to_f32(xr[i]);
    float r = rsqrtf(block_sum(sum) / (float)cols + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        yr[i] = from_f32<T>(to_f32(from_f32<T>(to_f32(xr[i]) * r)) * to_f32(w[i]));
}

/* Threads for a row of n_vecs vectors; 0: it does not fit into registers. */
static unsigned threads_for(int64_t n_vecs)
{
    int64_t threads = ceil_div(ceil_div(n_vecs, VECS), WARP) * WARP;
    return threads <= MAX_THREADS ? (unsigned)threads : 0;
}

/* The same forward: few rows leave most of the device idle, so each gets a thread a vector as far as they go. */
static unsigned threads_forward(int64_t n_vecs, int64_t rows)
{
    unsigned threads = threads_for(n_vecs);
    if (threads == 0 || rows > FEW_ROWS) return threads;
    int64_t most = ceil_div(n_vecs, WARP) * WARP;
    return most < MAX_THREADS ? (unsigned)most : (unsigned)MAX_THREADS;
}

void cuda_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                      float eps)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    if (rows == 0) return;
    DISPATCH(x, T, {
        T *to = (T *)tensor_data(y);
        float *r = (float *)tensor_data(rstd);
        const T *from = (const T *)tensor_data(x), *weight = (const T *)tensor_data(w);
        unsigned threads = threads_forward(cols / Vec<T>::N, rows);
        if (threads && vectors_fit<T>(x) && vectors_fit<T>(y) && vectors_fit<T>(w))
            launch_early(d, rmsnorm_fwd_kernel<T>, (unsigned)rows, threads, 0, to, r, from, weight,
                         (int)cols, y->ld, x->ld, eps);
        else
            rmsnorm_fwd_plain_kernel<T><<<(unsigned)rows, PLAIN_THREADS, 0, cuda_stream(d)>>>(
                to, r, from, weight, (int)cols, y->ld, x->ld, eps);
    });
    LAUNCHED();
}

/* dx of the row (NULL: not wanted) and, where WANT_DW, this block's share of dw over its rows. */
template <typename T, bool WANT_DW>
__global__ void __launch_bounds__(MAX_THREADS)
    rmsnorm_bwd_kernel(T *dx, bool add, float *dw_part, const T *dy, const T *x, const float *rstd,
                       const T *w, int64_t rows, int cols, int64_t ld_dx, int64_t ld_dy,
                       int64_t ld_x)
{
    int n_vecs = cols / Vec<T>::N, turn = 0;
    float dw[VECS][Vec<T>::N] = {}; /* gone where it is not wanted */
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        Bits xs[VECS], gs[VECS], ws[VECS], old[VECS];
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int i = threadIdx.x + k * blockDim.x;
            bool in = i < n_vecs;
            xs[k] = in ? bits_load_last(x + row * ld_x + i * Vec<T>::N) : bits_zero();
            gs[k] = in ? bits_load_last(dy + row * ld_dy + i * Vec<T>::N) : bits_zero();
            ws[k] = in ? bits_load(w + i * Vec<T>::N) : bits_zero();
            old[k] = in && add ? bits_load(dx + row * ld_dx + i * Vec<T>::N) : bits_zero();
        }
        float dot = 0, r = rstd[row];
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            float xv[Vec<T>::N], gv[Vec<T>::N], wv[Vec<T>::N];
            bits_to_f32(xv, xs[k]);
            bits_to_f32(gv, gs[k]);
            bits_to_f32(wv, ws[k]);
            for (int j = 0; j < Vec<T>::N; j++) {
                if (WANT_DW) dw[k][j] += gv[j] * xv[j] * r;
                dot += gv[j] * wv[j] * xv[j];
            }
        }
        if (!dx) continue;
        float mean = row_sum(dot, turn) / (float)cols * r * r;
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int i = threadIdx.x + k * blockDim.x;
            float xv[Vec<T>::N], gv[Vec<T>::N], wv[Vec<T>::N], out[Vec<T>::N];
            bits_to_f32(xv, xs[k]);
            bits_to_f32(gv, gs[k]);
            bits_to_f32(wv, ws[k]);
            bits_to_f32(out, old[k]);
            for (int j = 0; j < Vec<T>::N; j++)
                out[j] += r * (gv[j] * wv[j] - xv[j] * mean);
            if (i < n_vecs) bits_store(dx + row * ld_dx + i * Vec<T>::N, bits_from_f32(out));
        }
    }
    if (WANT_DW) {
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int i = threadIdx.x + k * blockDim.x;
            for (int j = 0; j < Vec<T>::N && i < n_vecs; j += 4)
                bits_store(dw_part + (int64_t)blockIdx.x * cols + i * Vec<T>::N + j,
                           bits_from_f32({dw[k][j], dw[k][j + 1], dw[k][j + 2], dw[k][j + 3]}));
        }
    }
}

template <typename T>
__global__ void rmsnorm_bwd_dx_plain_kernel(T *dx, float beta, const T *dy, const T *x,
                                            const float *rstd, const T *w, int cols, int64_t ld_dx,
                                            int64_t ld_dy, int64_t ld_x)
{
    int64_t row = blockIdx.x;
    const T *xr = x + row * ld_x, *gr = dy + row * ld_dy;
    float dot = 0, r = rstd[row];
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        dot += to_f32(gr[i]) * to_f32(w[i]) * to_f32(xr[i]);
    float mean = block_sum(dot) / (float)cols * r * r;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        float g = r * (to_f32(gr[i]) * to_f32(w[i]) - to_f32(xr[i]) * mean);
        T *to = dx + row * ld_dx + i;
        *to = from_f32<T>(beta != 0 ? to_f32(*to) + g : g);
    }
}

/* Column by column over this block's rows. */
template <typename T>
__global__ void rmsnorm_bwd_dw_plain_kernel(float *dw_part, const T *dy, const T *x,
                                            const float *rstd, int64_t rows, int cols,
                                            int64_t ld_dy, int64_t ld_x)
{
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        float sum = 0;
        for (int64_t row = blockIdx.x; row < rows; row += gridDim.x)
            sum += to_f32(dy[row * ld_dy + i]) * to_f32(x[row * ld_x + i]) * rstd[row];
        dw_part[(int64_t)blockIdx.x * cols + i] = sum;
    }
}

void cuda_rmsnorm_bwd(Device *d, Tensor *dx, float beta, Tensor *dw, float dw_beta,
                      const Tensor *dy, const Tensor *x, const Tensor *rstd, const Tensor *w)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    int n_sms = cuda_impl(d)->n_sms;
    int64_t blocks = cuda_rmsnorm_blocks(rows, n_sms);
    if (rows == 0) {
        if (dw && dw_beta == 0) tensor_zero(d, dw);
        return;
    }
    if (!dx && !dw) return;
    float *part = dw ? (float *)workspace_take(d, cuda_rmsnorm_scratch(rows, cols, n_sms)) : NULL;
    DISPATCH(x, T, {
        unsigned threads = threads_for(cols / Vec<T>::N);
        bool fits = threads && vectors_fit<T>(x) && vectors_fit<T>(dy) && vectors_fit<T>(w) &&
                    (!dx || vectors_fit<T>(dx));
        T *to = dx ? (T *)tensor_data(dx) : NULL;
        int64_t ld_dx = dx ? dx->ld : 0;
        const T *from_dy = (const T *)tensor_data(dy), *from_x = (const T *)tensor_data(x),
                *from_w = (const T *)tensor_data(w);
        const float *r = (const float *)tensor_data(rstd);
        cudaStream_t stream = cuda_stream(d);
        if (fits && part) {
            rmsnorm_bwd_kernel<T, true><<<(unsigned)blocks, threads, 0, stream>>>(
                to, dx && beta != 0, part, from_dy, from_x, r, from_w, rows, (int)cols, ld_dx,
                dy->ld, x->ld);
        } else if (fits) {
            rmsnorm_bwd_kernel<T, false><<<(unsigned)rows, threads, 0, stream>>>(
                to, dx && beta != 0, NULL, from_dy, from_x, r, from_w, rows, (int)cols, ld_dx,
                dy->ld, x->ld);
        } else {
            if (dx)
                rmsnorm_bwd_dx_plain_kernel<T><<<(unsigned)rows, PLAIN_THREADS, 0, stream>>>(
                    to, beta, from_dy, from_x, r, from_w, (int)cols, ld_dx, dy->ld, x->ld);
            if (part)
                rmsnorm_bwd_dw_plain_kernel<T><<<(unsigned)blocks, PLAIN_THREADS, 0, stream>>>(
                    part, from_dy, from_x, r, rows, (int)cols, dy->ld, x->ld);
        }
    });
    LAUNCHED();
    if (!dw) return;
    cuda_sum_partials(d, dw, dw_beta, part, blocks, cols);
    workspace_give(d);
}
