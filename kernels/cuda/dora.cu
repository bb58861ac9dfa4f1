/* DoRA's row norms and its scaling of columns. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

template <typename T>
__global__ void row_norms_kernel(float *norm, const T *w, int64_t ld, int64_t cols)
{
    const T *row = w + blockIdx.x * ld;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        sum += to_f32(row[i]) * to_f32(row[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) norm[blockIdx.x] = sqrtf(sum);
}

void cuda_row_norms(Device *d, Tensor *norm, const Tensor *w)
{
    ASSERT(tensor_numel(norm) == tensor_rows(w), "row_norms: shapes differ");
    if (tensor_rows(w) == 0) return;
    DISPATCH(w, T, {
        row_norms_kernel<T><<<(unsigned)tensor_rows(w), THREADS, 0, cuda_stream(d)>>>(
            (float *)tensor_data(norm), (const T *)tensor_data(w), w->ld, tensor_cols(w));
    });
    LAUNCHED();
}

template <typename T>
__global__ void scale_kernel(T *y, int64_t ldy, float beta, const T *x, int64_t ldx, const T *m,
                             const float *norm, int64_t rows, int64_t cols)
{
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * cols;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / cols, col = i % cols;
        T *to = y + row * ldy + col;
        float v = to_f32(x[row * ldx + col]) * (to_f32(m[col]) / norm[col]);
        *to = from_f32<T>(beta != 0 ? beta * to_f32(*to) + v : v);
    }
}

static void scale(Device *d, Tensor *y, float beta, const Tensor *x, const Tensor *m,
                  const Tensor *norm)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    if (rows * cols == 0) return;
    int64_t need = ceil_div(rows * cols, THREADS), most = 16 * (int64_t)cuda_impl(d)->n_sms;
    DISPATCH(y, T, {
        scale_kernel<T><<<(unsigned)(need < most ? need : most), THREADS, 0, cuda_stream(d)>>>(
            (T *)tensor_data(y), y->ld, beta, (const T *)tensor_data(x), x->ld,
            (const T *)tensor_data(m), (const float *)tensor_data(norm), rows, cols);
    });
    LAUNCHED();
}

void cuda_dora_fwd(Device *d, Tensor *y, const Tensor *z, const Tensor *m, const Tensor *norm)
{
    scale(d, y, 0, z, m, norm);
}

/* A thread a column of a part of the rows. */
template <typename T>
__global__ void magnitude_kernel(float *part, const T *dy, int64_t ld_dy, const T *z, int64_t ldz,
                                 const float *norm, int64_t rows, int64_t cols)
{
    int64_t col = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (col >= cols) return;
    float sum = 0;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
        sum += to_f32(dy[row * ld_dy + col]) * to_f32(z[row * ldz + col]);
    part[blockIdx.y * cols + col] = sum / norm[col];
}

void cuda_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                   const Tensor *z, const Tensor *m, const Tensor *norm)
{
    int64_t rows = tensor_rows(z), cols = tensor_cols(z);
    if (dm && rows > 0) {
        int64_t parts = cuda_bias_parts(rows);
        float *part = (float *)workspace_take(d, cuda_bias_scratch(rows, cols));
        dim3 grid((unsigned)ceil_div(cols, THREADS), (unsigned)parts);
        DISPATCH(z, T, {
            magnitude_kernel<T><<<grid, THREADS, 0, cuda_stream(d)>>>(
                part, (const T *)tensor_data(dy), dy->ld, (const T *)tensor_data(z), z->ld,
                (const float *)tensor_data(norm), rows, cols);
        });
        LAUNCHED();
        cuda_sum_partials(d, dm, dm_beta, part, parts, cols);
        workspace_give(d);
    } else if (dm && dm_beta == 0) {
        tensor_zero(d, dm);
    }
    if (dz) scale(d, dz, beta, dy, m, norm);
}
