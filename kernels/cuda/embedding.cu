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

enum { LIST = 1024 }; /* occurrences gathered at a time */

template <typename G, typename T>
__global__ void embedding_bwd_kernel(G *dw, bool add, const T *dy, const int32_t *ids, int n,
                                     int cols)
{
    __shared__ int seen, count, next, list[LIST];
    int at = blockIdx.x, id = ids[at];
    if (threadIdx.x == 0) seen = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < at; i += THREADS)
        if (ids[i] == id) seen = 1;
    __syncthreads();
    if (seen) return; /* an earlier block does this id */
    bool first = true;
    for (int from = at; from < n; from = next) {
        __syncthreads();
        if (threadIdx.x == 0) { /* the next occurrences, in order; a chunk of positions at a time */
            count = 0;
            next = n;
        }
        __syncthreads();
        for (int base = from; base < n; base += THREADS) {
            int i = base + (int)threadIdx.x;
            bool hit = i < n && ids[i] == id;
            /* an ordered append: warps one after the other */
            for (int w = 0; w < THREADS / WARP; w++) {
                if ((int)threadIdx.x / WARP == w) {
                    unsigned ballot = __ballot_sync(0xffffffffu, hit);
                    int rank = __popc(ballot & ((1u << (threadIdx.x % WARP)) - 1u));
                    int start = count;
                    __syncwarp();
                    if (hit) list[start + rank] = i;
                    if (threadIdx.x % WARP == 0) count = start + __popc(ballot);
                }
                __syncthreads();
            }
            if (count > LIST - THREADS) {
                if (threadIdx.x == 0) next = base + THREADS < n ? base + THREADS : n;
                break;
            }
        }
        __syncthreads();
        for (int c = threadIdx.x; c < cols; c += THREADS) {
            G *to = dw + (int64_t)id * cols + c;
            float sum = first && !add ? 0.0f : to_f32(*to);
            for (int k = 0; k < count; k++)
                sum += to_f32(dy[(int64_t)list[k] * cols + c]);
            *to = from_f32<G>(sum);
        }
        first = false;
        __syncthreads();
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
                (G *)tensor_data(dw), true, (const T *)tensor_data(dy),
                (const int32_t *)tensor_data(ids), (int)n, (int)cols);
        });
    });
    LAUNCHED();
}
