/* Masks drawn from the counter of (sample, position, column): nothing is stored. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

/* Four neighbouring columns share one Philox call. */
template <typename T, bool ADD>
__global__ void dropout_kernel(T *y, const T *x, int64_t rows, int cols, int64_t ld_y, int64_t ld_x,
                               float p, uint64_t key, const int64_t *samples,
                               const int32_t *positions)
{
    int quads = (cols + 3) / 4;
    float scale = 1.0f / (1.0f - p);
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * quads;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / quads;
        int quad = (int)(i % quads);
        Rng4 r = philox(key, (uint64_t)samples[row],
                        ((uint64_t)(uint32_t)positions[row] << 32) | (uint64_t)quad);
        for (int j = 0; j < 4 && 4 * quad + j < cols; j++) {
            int col = 4 * quad + j;
            float v = rng_unit(r.v[j]) >= p ? to_f32(x[row * ld_x + col]) * scale : 0.0f;
            T *to = y + row * ld_y + col;
            *to = from_f32<T>(ADD ? to_f32(*to) + v : v);
        }
    }
}

static void run(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *a, bool add)
{
    int64_t rows = tensor_rows(x), cols = tensor_cols(x);
    if (rows * cols == 0) return;
    int64_t most = 16 * (int64_t)cuda_impl(d)->n_sms,
            need = ceil_div(rows * ((cols + 3) / 4), THREADS);
    unsigned grid = (unsigned)(need < most ? need : most);
    const int64_t *samples = (const int64_t *)tensor_data(a->samples);
    const int32_t *positions = (const int32_t *)tensor_data(a->positions);
    DISPATCH(y, T, {
        T *to = (T *)tensor_data(y);
        const T *from = (const T *)tensor_data(x);
        if (add)
            dropout_kernel<T, true><<<grid, THREADS, 0, cuda_stream(d)>>>(
                to, from, rows, (int)cols, y->ld, x->ld, a->p, a->key, samples, positions);
        else
            dropout_kernel<T, false><<<grid, THREADS, 0, cuda_stream(d)>>>(
                to, from, rows, (int)cols, y->ld, x->ld, a->p, a->key, samples, positions);
    });
    LAUNCHED();
}

void cuda_dropout_fwd(Device *d, Tensor *y, const Tensor *x, const DropoutArgs *args)
{
    run(d, y, x, args, false);
}

void cuda_dropout_bwd(Device *d, Tensor *dx, float beta, const Tensor *dy, const DropoutArgs *args)
{
    run(d, dx, dy, args, beta != 0);
}
