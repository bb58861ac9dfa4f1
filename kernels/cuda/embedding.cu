/* Rows by token id.  The gradient is summed without atomics: the block of a token's first occurrence finds
 * the other ones and adds their rows in order, so the result is the same every time. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.h"

enum { THREADS = 256 };

template <typename T>
__global__ void embedding_fwd_kernel(T *y, const T *w, const int32_t *ids, int cols)
{
    early_go();
    early_wait();
    const T *from = w + (int64_t)ids[blockIdx.x] * cols;
    T *to = y + (int64_t)blockIdx.x * cols;
    if (cols % Vec<T>::N == 0) {
        for (int i = threadIdx.x; i < cols / Vec<T>::N; i += THREADS)
            vec_store(to + i * Vec<T>::N, vec_load(from + i * Vec<T>::N));
    } else {
        for (int i = threadIdx.x; i < cols; i += THREADS)
            to[i] = from[i];
    }
}

void cuda_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids)
{
    int64_t n = tensor_numel(ids), cols = tensor_cols(w);
    if (n == 0) return;
    DISPATCH(y, T, {
        launch_early(d, embedding_fwd_kernel<T>, (unsigned)n, THREADS, 0, (T *)tensor_data(y),
                     (const T *)tensor_data(w), (const int32_t *)tensor_data(ids), (int)cols);
    });
}

enum { LIST = 1024, TILE = 8 }; /* occurrences gathered at a time; columns of a thread */

/* Occurrences of an id, in order. */
struct Found {
    int count, next; /* the list is complete below this position */
    int at[LIST];
};

/* Those from position `from` on, as many as the list takes. */
__device__ static void gather(Found *f, const int32_t *ids, int n, int id, int from)
{
    __syncthreads(); /* the list before is read */
    if (threadIdx.x == 0) f->count = 0, f->next = n;
    __syncthreads();
    for (int base = from; base < n; base += THREADS) {
        int i = base + (int)threadIdx.x;
        bool hit = i < n && ids[i] == id;
        /* an ordered append: warps one after the other */
        for (int w = 0; w < THREADS / WARP; w++) {
            if ((int)threadIdx.x / WARP == w) {
                unsigned ballot = __ballot_sync(0xffffffffu, hit);
                int rank = __popc(ballot & ((1u << (threadIdx.x % WARP)) - 1u));
                int start = f->count;
                __syncwarp();
                if (hit) f->at[start + rank] = i;
                if (threadIdx.x % WARP == 0) f->count = start + __popc(ballot);
            }
            __syncthreads();
        }
        if (f->count > LIST - THREADS) {
            if (threadIdx.x == 0) f->next = base + THREADS < n ? base + THREADS : n;
            break;
        }
    }
    __syncthreads();
}

/* dw += ..., each sum in f32 over all occurrences and rounded once. */
template <typename G, typename T>
__global__ void embedding_bwd_kernel(G *dw, const T *dy, const int32_t *ids, int n, int cols)
{
    __shared__ int seen;
    __shared__ Found f;
    int first = blockIdx.x, id = ids[first];
    if (threadIdx.x == 0) seen = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < first; i += THREADS)
        if (ids[i] == id) seen = 1;
    __syncthreads();
    if (seen) return; /* an earlier block does this id */
    gather(&f, ids, n, id, first);
    bool whole = f.next == n; /* and so for all columns */
    for (int col = threadIdx.x; col - (int)threadIdx.x < cols; col += THREADS * TILE) {
        G *to = dw + (int64_t)id * cols + col;
        float sum[TILE];
#pragma unroll
        for (int j = 0; j < TILE; j++)
            sum[j] = col + j * THREADS < cols ? to_f32(to[j * THREADS]) : 0;
        for (int from = first;;) {
            if (!whole) gather(&f, ids, n, id, from);
            for (int k = 0; k < f.count; k++) {
                const T *row = dy + (int64_t)f.at[k] * cols + col;
#pragma unroll
                for (int j = 0; j < TILE; j++)
                    if (col + j * THREADS < cols) sum[j] += to_f32(row[j * THREADS]);
            }
            from = f.next;
            if (from == n) break;
        }
#pragma unroll
        for (int j = 0; j < TILE; j++)
            if (col + j * THREADS < cols) to[j * THREADS] = from_f32<G>(sum[j]);
    }
}

void cuda_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids)
{
    int64_t n = tensor_numel(ids), cols = tensor_cols(dw);
    if (beta == 0) tensor_zero(d, dw);
    if (n == 0) return;
    DISPATCH(dw, G, {
        DISPATCH(dy, T, {
            embedding_bwd_kernel<G, T><<<(unsigned)n, THREADS, 0, cuda_stream(d)>>>(
                (G *)tensor_data(dw), (const T *)tensor_data(dy), (const int32_t *)tensor_data(ids),
                (int)n, (int)cols);
        });
    });
    LAUNCHED();
}
