/* Copies between dtypes and pitches, sums of two tensors, biases. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

/* One vector a thread where rows allow it, else one element. */
template <typename To, typename From>
__global__ void copy_kernel(To *y, const From *x, int64_t rows, int cols, int64_t ld_y,
                            int64_t ld_x)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / cols, col = i % cols;
        y[row * ld_y + col] = from_f32<To>(to_f32(x[row * ld_x + col]));
    }
}

template <typename T>
__global__ void axpy_kernel(T *y, float alpha, const T *x, int64_t rows, int cols, int64_t ld_y,
                            int64_t ld_x)
{
    int vecs = cols / Vec<T>::N;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * vecs;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / vecs, col = i % vecs * Vec<T>::N;
        Vec<T> a = vec_load(y + row * ld_y + col), b = vec_load(x + row * ld_x + col);
        for (int j = 0; j < Vec<T>::N; j++)
            a.v[j] = from_f32<T>(to_f32(a.v[j]) + alpha * to_f32(b.v[j]));
        vec_store(y + row * ld_y + col, a);
    }
}

template <typename T>
__global__ void axpy_plain_kernel(T *y, float alpha, const T *x, int64_t rows, int cols,
                                  int64_t ld_y, int64_t ld_x)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / cols, col = i % cols;
        T *to = y + row * ld_y + col;
        *to = from_f32<T>(to_f32(*to) + alpha * to_f32(x[row * ld_x + col]));
    }
}

static unsigned grid_for(const Device *d, int64_t n)
{
    int64_t most = 16 * (int64_t)cuda_impl(d)->n_sms, need = ceil_div(n, THREADS);
    return (unsigned)(need < most ? need : most);
}

/* A dense pair of one dtype is a copy of bytes. */
void cuda_copy(Device *d, Tensor *y, const Tensor *x)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    ASSERT(rows == tensor_rows(y) && cols == tensor_cols(y), "copy: shapes differ");
    if (rows * cols == 0) return;
    if (x->dtype == y->dtype) {
        size_t e = dtype_bytes(x->dtype);
        CUDA_CHECK(cudaMemcpy2DAsync(tensor_data(y), (size_t)y->ld * e, tensor_data(x),
                                     (size_t)x->ld * e, (size_t)cols * e, (size_t)rows,
                                     cudaMemcpyDeviceToDevice, cuda_stream(d)));
        return;
    }
    unsigned grid = grid_for(d, rows * cols);
    DISPATCH(y, To, {
        DISPATCH(x, From, {
            copy_kernel<To, From><<<grid, THREADS, 0, cuda_stream(d)>>>(
                (To *)tensor_data(y), (const From *)tensor_data(x), rows, (int)cols, y->ld, x->ld);
        });
    });
    LAUNCHED();
}

void cuda_axpy(Device *d, Tensor *y, float alpha, const Tensor *x)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    ASSERT(rows == tensor_rows(y) && cols == tensor_cols(y), "axpy: shapes differ");
    if (rows * cols == 0) return;
    DISPATCH(y, T, {
        T *to = (T *)tensor_data(y);
        const T *from = (const T *)tensor_data(x);
        if (vectors_fit<T>(y) && vectors_fit<T>(x))
            axpy_kernel<T><<<grid_for(d, rows * cols / Vec<T>::N), THREADS, 0, cuda_stream(d)>>>(
                to, alpha, from, rows, (int)cols, y->ld, x->ld);
        else
            axpy_plain_kernel<T><<<grid_for(d, rows * cols), THREADS, 0, cuda_stream(d)>>>(
                to, alpha, from, rows, (int)cols, y->ld, x->ld);
    });
    LAUNCHED();
}

template <typename T>
__global__ void bias_fwd_kernel(T *y, const T *bias, int64_t rows, int cols, int64_t ld)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / cols, col = i % cols;
        T *to = y + row * ld + col;
        *to = from_f32<T>(to_f32(*to) + to_f32(bias[col]));
    }
}

void cuda_bias_fwd(Device *d, Tensor *y, const Tensor *bias)
{
    int64_t rows = tensor_rows(y), cols = tensor_cols(y);
    if (rows * cols == 0) return;
    DISPATCH(y, T, {
        bias_fwd_kernel<T><<<grid_for(d, rows * cols), THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(y), (const T *)tensor_data(bias), rows, (int)cols, y->ld);
    });
    LAUNCHED();
}

/* Neighbouring threads take neighbouring columns; a block takes every gridDim.y-th row. */
template <typename T>
__global__ void column_sums_kernel(float *part, const T *x, int64_t rows, int cols, int64_t ld)
{
    int col = blockIdx.x * THREADS + threadIdx.x;
    if (col >= cols) return;
    float sum = 0;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
        sum += to_f32(x[row * ld + col]);
    part[(int64_t)blockIdx.y * cols + col] = sum;
}

enum { SUM_WARPS = 16 };

/* A lane a column; the warps of a block share the rows and lane by lane their sums are joined in order. */
template <typename T>
__global__ void sum_partials_kernel(T *out, float beta, const float *part, int64_t n_parts,
                                    int64_t cols)
{
    __shared__ float sums[SUM_WARPS][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t col = blockIdx.x * (int64_t)WARP + lane;
    float sum = 0;
    if (col < cols) {
#pragma unroll 8
        for (int64_t i = warp; i < n_parts; i += SUM_WARPS)
            sum += part[i * cols + col];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || col >= cols) return;
    for (int i = 1; i < SUM_WARPS; i++)
        sum += sums[i][lane];
    out[col] = from_f32<T>(beta != 0 ? to_f32(out[col]) + sum : sum);
}

void cuda_sum_partials(Device *d, Tensor *out, float beta, const float *part, int64_t n_parts,
                       int64_t cols)
{
    DISPATCH(out, T, {
        sum_partials_kernel<T>
            <<<(unsigned)ceil_div(cols, WARP), SUM_WARPS * WARP, 0, cuda_stream(d)>>>(
                (T *)tensor_data(out), beta, part, n_parts, cols);
    });
    LAUNCHED();
}

void cuda_bias_bwd(Device *d, Tensor *db, float beta, const Tensor *dy)
{
    int64_t rows = tensor_rows(dy), cols = tensor_cols(dy);
    if (rows == 0) {
        if (beta == 0) tensor_zero(d, db);
        return;
    }
    int64_t parts = cuda_bias_parts(rows);
    float *part = (float *)workspace_take(d, cuda_bias_scratch(rows, cols));
    dim3 grid((unsigned)ceil_div(cols, THREADS), (unsigned)parts);
    DISPATCH(dy, T, {
        column_sums_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>(
            part, (const T *)tensor_data(dy), rows, (int)cols, dy->ld);
    });
    LAUNCHED();
    cuda_sum_partials(d, db, beta, part, parts, cols);
    workspace_give(d);
}
