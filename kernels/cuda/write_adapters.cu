/* Adapters into the room around their matrix, all of it in one launch. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, MAX_PARTS = 3 };

template <typename T> struct Part {
    const T *a, *b;
    int64_t row0, rows;
    int first, rank; /* of the ranks */
    float scale;
};
template <typename T> struct Parts {
    Part<T> part[MAX_PARTS];
};

/* What a thread moves at once. */
template <typename T, int N> struct alignas(N * sizeof(T)) Some {
    T v[N];
};

/* The row `at` of all ranks, if it is this part's, behind the matrix. */
template <typename T, int N>
__device__ static inline void write_a(T *m, int64_t ld, int64_t out, int64_t in, const Part<T> &p,
                                      int at, int64_t i, int64_t step)
{
    if (at < p.first || at >= p.first + p.rank) return;
    const T *from = p.a + (at - p.first) * in;
    T *to = m + (out + at) * ld;
    for (int64_t col = i * N; col < in; col += step * N)
        *(Some<T, N> *)(to + col) = *(const Some<T, N> *)(from + col);
}

/* This part's columns beside the matrix: zero where a row is another part's. */
template <typename T, int N>
__device__ static inline void write_b(T *m, int64_t ld, int64_t out, int64_t in, const Part<T> &p,
                                      int64_t i, int64_t step)
{
    for (int64_t row = i; row < out; row += step) {
        bool inside = row >= p.row0 && row < p.row0 + p.rows;
        const T *from = p.b + (row - p.row0) * p.rank;
        T *to = m + row * ld + in + p.first;
        for (int j = 0; j < p.rank; j += N) {
            Some<T, N> x = {};
            if (inside) x = *(const Some<T, N> *)(from + j);
#pragma unroll
            for (int l = 0; l < N; l++)
                x.v[l] = from_f32<T>(p.scale * to_f32(x.v[l]));
            *(Some<T, N> *)(to + j) = x;
        }
    }
}

/* Blocks with y below the rank: a row of A, a thread N columns at a time.  Those with y at it: sB, a thread a row. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    write_adapters_kernel(T *m, int64_t ld, int64_t out, int64_t in, Parts<T> p)
{
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x, step = gridDim.x * (int64_t)THREADS;
    bool is_a = blockIdx.y + 1 < gridDim.y;
#pragma unroll
    for (int k = 0; k < MAX_PARTS; k++) { /* those that are not there have a rank of 0 */
        if (is_a)
            write_a<T, N>(m, ld, out, in, p.part[k], (int)blockIdx.y, i, step);
        else
            write_b<T, N>(m, ld, out, in, p.part[k], i, step);
    }
}

/* Whether all rows and ranks are whole vectors. */
template <typename T> static bool vectors_everywhere(const Tensor *w, const Parts<T> &p)
{
    bool fit = vectors_fit<T>(w);
    for (int k = 0; k < MAX_PARTS; k++)
        fit = fit && p.part[k].rank % Vec<T>::N == 0 && (uintptr_t)p.part[k].a % 16 == 0 &&
              (uintptr_t)p.part[k].b % 16 == 0;
    return fit;
}

void cuda_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n)
{
    ASSERT(n >= 1 && n <= MAX_PARTS, "write_adapters: %d parts", n);
    int64_t out = tensor_rows(w), in = tensor_cols(w);
    DISPATCH(w, T, {
        Parts<T> p = {};
        int rank = 0;
        for (int i = 0; i < n; i++) {
            ASSERT(tensor_is_dense(parts[i].a) && tensor_is_dense(parts[i].b),
                   "write_adapters: an adapter has a pitch");
            p.part[i] = {(const T *)tensor_data(parts[i].a),
                         (const T *)tensor_data(parts[i].b),
                         parts[i].row0,
                         tensor_rows(parts[i].b),
                         rank,
                         (int)tensor_rows(parts[i].a),
                         parts[i].scale};
            rank += p.part[i].rank;
        }
        ASSERT(in + rank <= w->ld, "write_adapters: %lld + %d columns in a pitch of %lld",
               (long long)in, rank, (long long)w->ld);
        bool vectors = vectors_everywhere<T>(w, p);
        int64_t a_blocks = ceil_div(in, THREADS * (vectors ? Vec<T>::N : 1)),
                b_blocks = ceil_div(out, THREADS);
        dim3 grid((unsigned)(a_blocks > b_blocks ? a_blocks : b_blocks), (unsigned)rank + 1);
        auto kernel = vectors ? write_adapters_kernel<T, Vec<T>::N> : write_adapters_kernel<T, 1>;
        kernel<<<grid, THREADS, 0, cuda_stream(d)>>>((T *)tensor_data(w), w->ld, out, in, p);
    });
    LAUNCHED();
}
