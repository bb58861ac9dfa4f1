/* DoRA's row norms and its scaling of columns.  A thread has sixteen bytes of a few rows, N elements each, or one element
 * where vectors do not fit: columns and rows come from the grid, without a division, m / norm is found once for all of a
 * thread's rows, and its loads are issued before the first is waited for. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, WIDE = 128, ROWS = 4, ROWS_EACH = 4 * ROWS };

template <typename T, int N> struct Held {
    typedef Bits As;
};
template <typename T> struct Held<T, 1> {
    typedef T As;
};
template <typename T, int N> using Raw = typename Held<T, N>::As;

template <typename T, int N> __device__ static inline Raw<T, N> raw_load(const T *p)
{
    return *reinterpret_cast<const Raw<T, N> *>(p);
}

template <typename T, int N> __device__ static inline void unpack(float (&v)[N], Raw<T, N> raw)
{
    if constexpr (N == 1)
        v[0] = to_f32(raw);
    else
        bits_to_f32(v, raw);
}

template <typename T, int N> __device__ static inline void store(T *p, const float (&v)[N])
{
    if constexpr (N == 1)
        *p = from_f32<T>(v[0]);
    else
        bits_store(p, bits_from_f32(v));
}

/* ---- norms -------------------------------------------------------------------------------------- */

template <typename T, int N>
__global__ void row_norms_kernel(float *norm, const T *w, int64_t ld, int64_t cols)
{
    const T *row = w + blockIdx.x * ld;
    float sum = 0, v[N];
#pragma unroll 4
    for (int64_t i = threadIdx.x * N; i < cols; i += THREADS * N) {
        unpack<T, N>(v, raw_load<T, N>(row + i));
        for (int j = 0; j < N; j++)
            sum += v[j] * v[j];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) norm[blockIdx.x] = sqrtf(sum);
}

void cuda_row_norms(Device *d, Tensor *norm, const Tensor *w)
{
    ASSERT(tensor_numel(norm) == tensor_rows(w), "row_norms: shapes differ");
    if (tensor_rows(w) == 0) return;
    DISPATCH(w, T, {
        auto kernel = vectors_fit<T>(w) ? row_norms_kernel<T, Vec<T>::N> : row_norms_kernel<T, 1>;
        kernel<<<(unsigned)tensor_rows(w), THREADS, 0, cuda_stream(d)>>>(
            (float *)tensor_data(norm), (const T *)tensor_data(w), w->ld, tensor_cols(w));
    });
    LAUNCHED();
}

/* A warp has ROWS rows, so that a load of aa serves as many; its lanes share the columns of b. */
template <typename T>
__global__ void adapted_norms_kernel(float *norm, const float *base, const float *wa,
                                     const float *aa, const T *b, int64_t ldb, int rank, float s,
                                     int64_t rows)
{
    int64_t row0 = (blockIdx.x * (int64_t)(THREADS / WARP) + threadIdx.x / WARP) * ROWS;
    int n = (int)(rows - row0 < ROWS ? rows - row0 : ROWS), lane = threadIdx.x % WARP;
    if (n <= 0) return;
    float sum[ROWS] = {0};
    for (int j = lane; j < rank; j += WARP) {
        float b_aa[ROWS] = {0};
        for (int k = 0; k < rank; k++) {
            float x = aa[k * rank + j];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (r < n) b_aa[r] += to_f32(b[(row0 + r) * ldb + k]) * x;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (r < n)
                sum[r] +=
                    to_f32(b[(row0 + r) * ldb + j]) * (2 * wa[(row0 + r) * rank + j] + s * b_aa[r]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float all = warp_sum(sum[r]);
        if (lane != 0 || r >= n) continue;
        float square = base[row0 + r] * base[row0 + r] + s * all;
        norm[row0 + r] = sqrtf(square < 0 ? 0 : square); /* NaN stays */
    }
}

void cuda_adapted_norms(Device *d, Tensor *norm, const Tensor *base, const Tensor *wa,
                        const Tensor *aa, const Tensor *b, float s)
{
    int64_t rows = tensor_rows(b), rank = tensor_cols(b);
    ASSERT(tensor_numel(norm) == rows && tensor_numel(wa) == rows * rank, "adapted_norms: shapes");
    if (rows == 0) return;
    int64_t blocks = ceil_div(rows, THREADS / WARP * ROWS);
    DISPATCH(b, T, {
        adapted_norms_kernel<T><<<(unsigned)blocks, THREADS, 0, cuda_stream(d)>>>(
            (float *)tensor_data(norm), (const float *)tensor_data(base),
            (const float *)tensor_data(wa), (const float *)tensor_data(aa),
            (const T *)tensor_data(b), b->ld, (int)rank, s, rows);
    });
    LAUNCHED();
}

/* ---- columns ------------------------------------------------------------------------------------ */

template <typename T, int N>
__device__ static inline void factors(float (&f)[N], const T *m, const float *norm, int64_t col)
{
    unpack<T, N>(f, raw_load<T, N>(m + col));
    for (int j = 0; j < N; j++)
        f[j] /= norm[col + j];
}

/* y = add + x m / norm.  add (NULL: nothing) may be y, and y may be x: a thread has read its elements before it writes. */
template <typename T, int N>
__global__ void scale_kernel(T *y, const T *add, const T *x, const T *m, const float *norm,
                             int64_t rows, int64_t cols, int64_t ld_y, int64_t ld_add, int64_t ld_x)
{
    int64_t col = (blockIdx.x * (int64_t)WIDE + threadIdx.x) * N;
    if (col >= cols) return;
    float f[N];
    factors<T, N>(f, m, norm, col);
    for (int64_t row0 = blockIdx.y * ROWS; row0 < rows; row0 += gridDim.y * ROWS) {
        Raw<T, N> xs[ROWS], adds[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row0 + r >= rows) continue;
            xs[r] = raw_load<T, N>(x + (row0 + r) * ld_x + col);
            if (add) adds[r] = raw_load<T, N>(add + (row0 + r) * ld_add + col);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row0 + r >= rows) continue;
            float v[N], a[N];
            unpack<T, N>(v, xs[r]);
            if (add) unpack<T, N>(a, adds[r]);
            for (int j = 0; j < N; j++)
                v[j] = add ? a[j] + v[j] * f[j] : v[j] * f[j];
            store<T, N>(y + (row0 + r) * ld_y + col, v);
        }
    }
}

static void scale(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *m,
                  const Tensor *norm)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x), down = ceil_div(rows, ROWS_EACH);
    if (rows * cols == 0) return;
    DISPATCH(y, T, {
        bool fits = vectors_fit<T>(y) && vectors_fit<T>(x) && vectors_fit<T>(m) &&
                    (!add || vectors_fit<T>(add));
        auto kernel = fits ? scale_kernel<T, Vec<T>::N> : scale_kernel<T, 1>;
        dim3 grid((unsigned)ceil_div(cols, (int64_t)WIDE * (fits ? Vec<T>::N : 1)),
                  (unsigned)(down < 65535 ? down : 65535));
        kernel<<<grid, WIDE, 0, cuda_stream(d)>>>(
            (T *)tensor_data(y), add ? (const T *)tensor_data(add) : NULL,
            (const T *)tensor_data(x), (const T *)tensor_data(m), (const float *)tensor_data(norm),
            rows, cols, y->ld, add ? add->ld : 0, x->ld);
    });
    LAUNCHED();
}

void cuda_dora_fwd(Device *d, Tensor *y, const Tensor *add, const Tensor *z, const Tensor *m,
                   const Tensor *norm)
{
    scale(d, y, add, z, m, norm);
}

/* Both gradients in one pass over dy.  dz NULL: not wanted; part: sums of the rows of a blockIdx.y. */
template <typename T, int N>
__global__ void bwd_kernel(T *dz, bool add, float *part, const T *dy, const T *z, const T *m,
                           const float *norm, int64_t rows, int64_t cols, int64_t ld_dz,
                           int64_t ld_dy, int64_t ld_z)
{
    int64_t col = (blockIdx.x * (int64_t)WIDE + threadIdx.x) * N;
    if (col >= cols) return;
    float f[N], sum[N] = {0};
    factors<T, N>(f, m, norm, col);
    for (int64_t row0 = blockIdx.y * ROWS; row0 < rows; row0 += gridDim.y * ROWS) {
        Raw<T, N> grads[ROWS], values[ROWS], old[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row0 + r >= rows) continue;
            grads[r] = raw_load<T, N>(dy + (row0 + r) * ld_dy + col);
            values[r] = raw_load<T, N>(z + (row0 + r) * ld_z + col);
            if (dz && add) old[r] = raw_load<T, N>(dz + (row0 + r) * ld_dz + col);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (row0 + r >= rows) continue;
            float g[N], v[N], o[N];
            unpack<T, N>(g, grads[r]);
            unpack<T, N>(v, values[r]);
            for (int j = 0; j < N; j++)
                sum[j] += g[j] * v[j];
            if (!dz) continue;
            if (add) unpack<T, N>(o, old[r]);
            for (int j = 0; j < N; j++)
                g[j] = add ? o[j] + g[j] * f[j] : g[j] * f[j];
            store<T, N>(dz + (row0 + r) * ld_dz + col, g);
        }
    }
    for (int j = 0; j < N; j++)
        part[blockIdx.y * cols + col + j] = sum[j] / norm[col + j];
}

void cuda_dora_bwd(Device *d, Tensor *dz, float beta, Tensor *dm, float dm_beta, const Tensor *dy,
                   const Tensor *z, const Tensor *m, const Tensor *norm)
{
    int64_t rows = tensor_rows(z), cols = tensor_cols(z);
    if (dm && rows == 0 && dm_beta == 0) tensor_zero(d, dm);
    if (rows * cols == 0) return;
    if (!dm) {
        scale(d, dz, beta != 0 ? dz : NULL, dy, m, norm);
        return;
    }
    int64_t parts = cuda_bias_parts(rows);
    float *part = (float *)workspace_take(d, cuda_bias_scratch(rows, cols));
    DISPATCH(z, T, {
        bool fits = vectors_fit<T>(dy) && vectors_fit<T>(z) && vectors_fit<T>(m) &&
                    (!dz || vectors_fit<T>(dz));
        auto kernel = fits ? bwd_kernel<T, Vec<T>::N> : bwd_kernel<T, 1>;
        dim3 grid((unsigned)ceil_div(cols, (int64_t)WIDE * (fits ? Vec<T>::N : 1)),
                  (unsigned)parts);
        kernel<<<grid, WIDE, 0, cuda_stream(d)>>>(
            dz ? (T *)tensor_data(dz) : NULL, beta != 0, part, (const T *)tensor_data(dy),
            (const T *)tensor_data(z), (const T *)tensor_data(m), (const float *)tensor_data(norm),
            rows, cols, dz ? dz->ld : 0, dy->ld, z->ld);
    });
    LAUNCHED();
    cuda_sum_partials(d, dm, dm_beta, part, parts, cols);
    workspace_give(d);
}
