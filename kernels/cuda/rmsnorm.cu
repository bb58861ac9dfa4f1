/* RMSNorm: a block a row; the row is read once and stays in registers.  Backward keeps each thread's share
 * of dw in registers over all rows of its block and sums the blocks' shares in a second kernel. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum {
    THREADS = 256,
    MAX_VECS = 8
}; /* rows of up to THREADS * MAX_VECS vectors stay in registers */

template <typename T>
__global__ void rmsnorm_fwd_kernel(T *y, float *rstd, const T *x, const T *w, int cols,
                                   int64_t ld_y, int64_t ld_x, float eps)
{
    const T *xr = x + blockIdx.x * ld_x;
    T *yr = y + blockIdx.x * ld_y;
    int n_vecs = cols / Vec<T>::N;
    Vec<T> keep[MAX_VECS];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < MAX_VECS; k++) {
        int i = threadIdx.x + k * THREADS;
        if (i >= n_vecs) break;
        keep[k] = vec_load(xr + i * Vec<T>::N);
        for (int j = 0; j < Vec<T>::N; j++) {
            float v = to_f32(keep[k].v[j]);
            sum += v * v;
        }
    }
    float r = rsqrtf(block_sum(sum) / (float)cols + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
#pragma unroll
    for (int k = 0; k < MAX_VECS; k++) {
        int i = threadIdx.x + k * THREADS;
        if (i >= n_vecs) break;
        Vec<T> wv = vec_load(w + i * Vec<T>::N);
        for (int j = 0; j < Vec<T>::N; j++) {
            T normed = from_f32<T>(to_f32(keep[k].v[j]) * r);
            keep[k].v[j] = from_f32<T>(to_f32(normed) * to_f32(wv.v[j]));
        }
        vec_store(yr + i * Vec<T>::N, keep[k]);
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

void cuda_rmsnorm_fwd(Device *d, Tensor *y, Tensor *rstd, const Tensor *x, const Tensor *w,
                      float eps)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    if (rows == 0) return;
    DISPATCH(x, T, {
        bool fits = vectors_fit<T>(x) && vectors_fit<T>(y) && vectors_fit<T>(w) &&
                    cols / Vec<T>::N <= THREADS * MAX_VECS;
        if (fits)
            rmsnorm_fwd_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                (T *)tensor_data(y), (float *)tensor_data(rstd), (const T *)tensor_data(x),
                (const T *)tensor_data(w), (int)cols, y->ld, x->ld, eps);
        else
            rmsnorm_fwd_plain_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                (T *)tensor_data(y), (float *)tensor_data(rstd), (const T *)tensor_data(x),
                (const T *)tensor_data(w), (int)cols, y->ld, x->ld, eps);
    });
    LAUNCHED();
}

/* dx of the row and, where dw_part is given, this block's share of dw over its rows. */
template <typename T>
__global__ void rmsnorm_bwd_kernel(T *dx, float beta, float *dw_part, const T *dy, const T *x,
                                   const float *rstd, const T *w, int64_t rows, int cols,
                                   int64_t ld_dx, int64_t ld_dy, int64_t ld_x)
{
    int n_vecs = cols / Vec<T>::N;
    float dw[MAX_VECS][Vec<T>::N] = {};
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        Vec<T> xs[MAX_VECS], gs[MAX_VECS];
        float dot = 0, r = rstd[row];
#pragma unroll
        for (int k = 0; k < MAX_VECS; k++) {
            int i = threadIdx.x + k * THREADS;
            if (i >= n_vecs) break;
            xs[k] = vec_load(x + row * ld_x + i * Vec<T>::N);
            gs[k] = vec_load(dy + row * ld_dy + i * Vec<T>::N);
            Vec<T> wv = vec_load(w + i * Vec<T>::N);
            for (int j = 0; j < Vec<T>::N; j++) {
                float xv = to_f32(xs[k].v[j]), gv = to_f32(gs[k].v[j]);
                dw[k][j] += gv * xv * r;
                dot += gv * to_f32(wv.v[j]) * xv;
            }
        }
        if (!dx) continue;
        float mean = block_sum(dot) / (float)cols * r * r;
#pragma unroll
        for (int k = 0; k < MAX_VECS; k++) {
            int i = threadIdx.x + k * THREADS;
            if (i >= n_vecs) break;
            Vec<T> wv = vec_load(w + i * Vec<T>::N), out;
            T *to = dx + row * ld_dx + i * Vec<T>::N;
            if (beta != 0) out = vec_load(to);
            for (int j = 0; j < Vec<T>::N; j++) {
                float g = r * (to_f32(gs[k].v[j]) * to_f32(wv.v[j]) - to_f32(xs[k].v[j]) * mean);
                out.v[j] = from_f32<T>(beta != 0 ? to_f32(out.v[j]) + g : g);
            }
            vec_store(to, out);
        }
    }
    if (!dw_part) return;
#pragma unroll
    for (int k = 0; k < MAX_VECS; k++) {
        int i = threadIdx.x + k * THREADS;
        if (i >= n_vecs) break;
        for (int j = 0; j < Vec<T>::N; j++)
            dw_part[(int64_t)blockIdx.x * cols + i * Vec<T>::N + j] = dw[k][j];
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
    float *part = dw ? (float *)workspace_take(d, cuda_rmsnorm_scratch(rows, cols, n_sms)) : NULL;
    DISPATCH(x, T, {
        bool fits = vectors_fit<T>(x) && vectors_fit<T>(dy) && vectors_fit<T>(w) &&
                    (!dx || vectors_fit<T>(dx)) && cols / Vec<T>::N <= THREADS * MAX_VECS;
        T *to = dx ? (T *)tensor_data(dx) : NULL;
        int64_t ld_dx = dx ? dx->ld : 0;
        const T *from_dy = (const T *)tensor_data(dy), *from_x = (const T *)tensor_data(x),
                *from_w = (const T *)tensor_data(w);
        const float *r = (const float *)tensor_data(rstd);
        if (fits) {
            rmsnorm_bwd_kernel<T><<<(unsigned)blocks, THREADS, 0, cuda_stream(d)>>>(
                to, beta, part, from_dy, from_x, r, from_w, rows, (int)cols, ld_dx, dy->ld, x->ld);
        } else {
            if (dx)
                rmsnorm_bwd_dx_plain_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream(d)>>>(
                    to, beta, from_dy, from_x, r, from_w, (int)cols, ld_dx, dy->ld, x->ld);
            if (part)
                rmsnorm_bwd_dw_plain_kernel<T><<<(unsigned)blocks, THREADS, 0, cuda_stream(d)>>>(
                    part, from_dy, from_x, r, rows, (int)cols, dy->ld, x->ld);
        }
    });
    LAUNCHED();
    if (!dw) return;
    cuda_sum_partials(d, dw, dw_beta, part, blocks, cols);
    workspace_give(d);
}
