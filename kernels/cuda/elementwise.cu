/* Copies between dtypes and pitches, sums of two tensors, biases. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

/* A block is columns by rows, so that no thread divides; `each`: elements a thread. */
struct Launch {
    dim3 grid, block;
};

static Launch launch_for(int64_t rows, int64_t cols, int each)
{
    dim3 block = rows < THREADS / WARP ? dim3(THREADS) : dim3(WARP, THREADS / WARP);
    int64_t down = ceil_div(rows, block.y), most = 65535;
    return {dim3((unsigned)ceil_div(cols, (int64_t)block.x * each),
                 (unsigned)(down < most ? down : most)),
            block};
}

__device__ static inline int64_t first_col(int each)
{
    return (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * each;
}
__device__ static inline int64_t first_row(void)
{
    return blockIdx.y * (int64_t)blockDim.y + threadIdx.y;
}
__device__ static inline int64_t row_step(void)
{
    return (int64_t)gridDim.y * blockDim.y;
}

template <typename To, typename From>
__global__ void copy_kernel(To *y, const From *x, int64_t rows, int64_t cols, int64_t ld_y,
                            int64_t ld_x)
{
    int64_t col = first_col(1);
    for (int64_t row = first_row(); col < cols && row < rows; row += row_step())
        y[row * ld_y + col] = from_f32<To>(to_f32(x[row * ld_x + col]));
}

/* N elements of T a thread. */
template <typename T, int N>
__global__ void copy_same_kernel(T *y, const T *x, int64_t rows, int64_t cols, int64_t ld_y,
                                 int64_t ld_x)
{
    int64_t col = first_col(N);
    for (int64_t row = first_row(); col < cols && row < rows; row += row_step()) {
        const T *from = x + row * ld_x + col;
        T *to = y + row * ld_y + col;
        if (N == 1)
            *to = *from;
        else
            bits_store(to, bits_load(from));
    }
}

template <typename T>
__global__ void axpy_kernel(T *y, float alpha, const T *x, int64_t rows, int64_t cols, int64_t ld_y,
                            int64_t ld_x)
{
    enum { N = Vec<T>::N };
    int64_t col = first_col(N);
    for (int64_t row = first_row(); col < cols && row < rows; row += row_step()) {
        T *to = y + row * ld_y + col;
        float a[N], b[N];
        bits_to_f32(a, bits_load(to));
        bits_to_f32(b, bits_load(x + row * ld_x + col));
        for (int j = 0; j < N; j++)
            a[j] += alpha * b[j];
        bits_store(to, bits_from_f32(a));
    }
}

template <typename T>
__global__ void axpy_plain_kernel(T *y, float alpha, const T *x, int64_t rows, int64_t cols,
                                  int64_t ld_y, int64_t ld_x)
{
    int64_t col = first_col(1);
    for (int64_t row = first_row(); col < cols && row < rows; row += row_step()) {
        T *to = y + row * ld_y + col;
        *to = from_f32<T>(to_f32(*to) + alpha * to_f32(x[row * ld_x + col]));
    }
}

template <typename T> static void copy_same(Device *d, Tensor *y, const Tensor *x)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    bool fits = vectors_fit<T>(x) && vectors_fit<T>(y);
    Launch l = launch_for(rows, cols, fits ? Vec<T>::N : 1);
    auto kernel = fits ? copy_same_kernel<T, Vec<T>::N> : copy_same_kernel<T, 1>;
    kernel<<<l.grid, l.block, 0, cuda_stream(d)>>>((T *)tensor_data(y), (const T *)tensor_data(x),
                                                   rows, cols, y->ld, x->ld);
}

/* Bytes where both are dense and of one dtype, whatever it is. */
void cuda_copy(Device *d, Tensor *y, const Tensor *x)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    ASSERT(rows == tensor_rows(y) && cols == tensor_cols(y), "copy: shapes differ");
    if (rows * cols == 0) return;
    if (x->dtype == y->dtype && tensor_is_dense(x) && tensor_is_dense(y)) {
        CUDA_CHECK(cudaMemcpyAsync(tensor_data(y), tensor_data(x), tensor_bytes(x),
                                   cudaMemcpyDeviceToDevice, cuda_stream(d)));
        return;
    }
    if (x->dtype == y->dtype) {
        DISPATCH(x, T, { copy_same<T>(d, y, x); });
        LAUNCHED();
        return;
    }
    Launch l = launch_for(rows, cols, 1);
    DISPATCH(y, To, {
        DISPATCH(x, From, {
            copy_kernel<To, From><<<l.grid, l.block, 0, cuda_stream(d)>>>(
                (To *)tensor_data(y), (const From *)tensor_data(x), rows, cols, y->ld, x->ld);
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
        bool fits = vectors_fit<T>(y) && vectors_fit<T>(x);
        Launch l = launch_for(rows, cols, fits ? Vec<T>::N : 1);
        auto kernel = fits ? axpy_kernel<T> : axpy_plain_kernel<T>;
        kernel<<<l.grid, l.block, 0, cuda_stream(d)>>>(to, alpha, from, rows, cols, y->ld, x->ld);
    });
    LAUNCHED();
}

template <typename To, typename From>
__global__ void sum_rows_kernel(To *y, float beta, const From *x, int64_t rows, int64_t cols)
{
    int64_t col = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    if (col >= cols) return;
    Eight sum = {{0}};
#pragma unroll 4
    for (int64_t r = 0; r < rows; r++) {
        Eight v = eight_load(x + r * cols + col);
        for (int j = 0; j < EACH; j++)
            sum.v[j] += v.v[j];
    }
    if (beta != 0) {
        Eight v = eight_load(y + col);
        for (int j = 0; j < EACH; j++)
            sum.v[j] = beta * v.v[j] + sum.v[j];
    }
    eight_store(y + col, sum);
}

/* Widths and addresses that allow no vectors. */
template <typename To, typename From>
__global__ void sum_rows_plain_kernel(To *y, float beta, const From *x, int64_t rows, int64_t cols)
{
    int64_t col = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (col >= cols) return;
    float sum = 0;
    for (int64_t r = 0; r < rows; r++)
        sum += to_f32(x[r * cols + col]);
    y[col] = from_f32<To>(beta != 0 ? beta * to_f32(y[col]) + sum : sum);
}

void cuda_sum_rows(Device *d, Tensor *y, float beta, const Tensor *x)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    ASSERT(tensor_numel(y) == cols && tensor_is_dense(y) && tensor_is_dense(x),
           "sum_rows: %lld for %lld dense columns", (long long)tensor_numel(y), (long long)cols);
    if (cols == 0) return;
    uintptr_t at = (uintptr_t)tensor_data(y) | (uintptr_t)tensor_data(x);
    bool fits = cols % EACH == 0 && at % 16 == 0;
    unsigned blocks = (unsigned)ceil_div(cols, (int64_t)THREADS * (fits ? EACH : 1));
    DISPATCH(y, To, {
        DISPATCH(x, From, {
            auto kernel = fits ? sum_rows_kernel<To, From> : sum_rows_plain_kernel<To, From>;
            kernel<<<blocks, THREADS, 0, cuda_stream(d)>>>(
                (To *)tensor_data(y), beta, (const From *)tensor_data(x), rows, cols);
        });
    });
    LAUNCHED();
}

template <typename T>
__global__ void bias_fwd_kernel(T *y, const T *bias, int64_t rows, int64_t cols, int64_t ld)
{
    enum { N = Vec<T>::N };
    int64_t col = first_col(N);
    if (col >= cols) return;
    float b[N], v[N];
    bits_to_f32(b, bits_load(bias + col));
    for (int64_t row = first_row(); row < rows; row += row_step()) {
        T *to = y + row * ld + col;
        bits_to_f32(v, bits_load(to));
        for (int j = 0; j < N; j++)
            v[j] += b[j];
        bits_store(to, bits_from_f32(v));
    }
}

template <typename T>
__global__ void bias_fwd_plain_kernel(T *y, const T *bias, int64_t rows, int64_t cols, int64_t ld)
{
    int64_t col = first_col(1);
    for (int64_t row = first_row(); col < cols && row < rows; row += row_step()) {
        T *to = y + row * ld + col;
        *to = from_f32<T>(to_f32(*to) + to_f32(bias[col]));
    }
}

void cuda_bias_fwd(Device *d, Tensor *y, const Tensor *bias)
{
    int64_t rows = tensor_rows(y), cols = tensor_cols(y);
    if (rows * cols == 0) return;
    DISPATCH(y, T, {
        bool fits = vectors_fit<T>(y) && vectors_fit<T>(bias);
        Launch l = launch_for(rows, cols, fits ? Vec<T>::N : 1);
        auto kernel = fits ? bias_fwd_kernel<T> : bias_fwd_plain_kernel<T>;
        kernel<<<l.grid, l.block, 0, cuda_stream(d)>>>(
            (T *)tensor_data(y), (const T *)tensor_data(bias), rows, cols, y->ld);
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
