/* Adapters into the room around their matrix, all of it in one launch. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256, MAX_PARTS = 3 };

template <typename T> struct Parts {
    const T *a[MAX_PARTS], *b[MAX_PARTS];
    int64_t row0[MAX_PARTS], rows[MAX_PARTS];
    int first[MAX_PARTS + 1]; /* of the ranks */
    float scale[MAX_PARTS];
};

/* First the rows of A behind the matrix, then the columns of sB beside it: zero where a row is another part's. */
template <typename T>
__global__ void write_adapters_kernel(T *m, int64_t ld, int64_t out, int64_t in, Parts<T> p, int n)
{
    int rank = p.first[n];
    int64_t n_a = rank * in, total = n_a + out * rank;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < total;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t at = i < n_a ? i / in : (i - n_a) % rank; /* which of the ranks */
        int k = 0;
        while (k + 1 < n && at >= p.first[k + 1])
            k++;
        int64_t r = p.first[k + 1] - p.first[k], inner = at - p.first[k];
        if (i < n_a) {
            int64_t col = i % in;
            m[(out + at) * ld + col] = p.a[k][inner * in + col];
        } else {
            int64_t row = (i - n_a) / rank, mine = row - p.row0[k];
            float x = 0;
            if (mine >= 0 && mine < p.rows[k]) x = p.scale[k] * to_f32(p.b[k][mine * r + inner]);
            m[row * ld + in + at] = from_f32<T>(x);
        }
    }
}

void cuda_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n)
{
    ASSERT(n >= 1 && n <= MAX_PARTS, "write_adapters: %d parts", n);
    int64_t out = tensor_rows(w), in = tensor_cols(w);
    DISPATCH(w, T, {
        Parts<T> p = {};
        for (int i = 0; i < n; i++) {
            ASSERT(tensor_is_dense(parts[i].a) && tensor_is_dense(parts[i].b),
                   "write_adapters: an adapter has a pitch");
            p.a[i] = (const T *)tensor_data(parts[i].a);
            p.b[i] = (const T *)tensor_data(parts[i].b);
            p.row0[i] = parts[i].row0;
            p.rows[i] = tensor_rows(parts[i].b);
            p.first[i + 1] = p.first[i] + (int)tensor_rows(parts[i].a);
            p.scale[i] = parts[i].scale;
        }
        int64_t rank = p.first[n];
        ASSERT(in + rank <= w->ld, "write_adapters: %lld + %lld columns in a pitch of %lld",
               (long long)in, (long long)rank, (long long)w->ld);
        int64_t need = ceil_div(rank * (in + out), THREADS),
                most = 16 * (int64_t)cuda_impl(d)->n_sms;
        write_adapters_kernel<T>
            <<<(unsigned)(need < most ? need : most), THREADS, 0, cuda_stream(d)>>>(
                (T *)tensor_data(w), w->ld, out, in, p, n);
    });
    LAUNCHED();
}
