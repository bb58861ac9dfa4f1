/* Sums over all elements: in double, by parts of fixed length whose sums are added in order; checksums in any order. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include <stdatomic.h>

enum { PART = CPU_REDUCE_PART };

typedef double PartFn(const float *x, int64_t n);

typedef struct Reduce {
    PartFn *fn;
    const float *x;
    int64_t n;
    double *sums;
} Reduce;

static void reduce_part(void *ud, int64_t i)
{
    const Reduce *a = ud;
    int64_t left = a->n - i * PART;
    a->sums[i] = a->fn(a->x + i * PART, left < PART ? left : PART);
}

static void reduce(Device *d, Tensor *out, float beta, const Tensor *x, PartFn *fn)
{
    ASSERT(tensor_numel(out) == 1, "reduce: the result has %lld elements",
           (long long)tensor_numel(out));
    Reduce a = {.fn = fn, .x = dense_f32(x), .n = tensor_numel(x)};
    int64_t n_parts = (a.n + PART - 1) / PART;
    a.sums = workspace_take(d, cpu_reduce_scratch(a.n));
    pool_run(d->pool, n_parts, reduce_part, &a);
    double sum = 0;
    for (int64_t i = 0; i < n_parts; i++)
        sum += a.sums[i];
    workspace_give(d);
    float *y = dense_f32(out);
    *y = (float)((beta != 0 ? (double)beta * (double)*y : 0.0) + sum);
}

void cpu_sum(Device *d, Tensor *out, float beta, const Tensor *x)
{
    reduce(d, out, beta, x, vec_sum);
}

static double sum_squares(const float *x, int64_t n)
{
    return vec_dot(x, x, n);
}

void cpu_sum_squares(Device *d, Tensor *out, float beta, const Tensor *x)
{
    reduce(d, out, beta, x, sum_squares);
}

static double count_nonfinite(const float *x, int64_t n)
{
    int32_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        count += (bits & 0x7F800000u) == 0x7F800000u;
    }
    return (double)count;
}

void cpu_count_nonfinite(Device *d, Tensor *count, float beta, const Tensor *x)
{
    reduce(d, count, beta, x, count_nonfinite);
}

uint64_t checksum_rows(const void *x, size_t row_bytes, size_t pitch_bytes, int64_t row0,
                       int64_t row1)
{
    uint64_t per_row = (row_bytes + 7) / 8, sum = 0;
    for (int64_t r = row0; r < row1; r++)
        for (uint64_t w = 0; w < per_row; w++) {
            uint64_t word = 0;
            size_t at = 8 * w, n = row_bytes - at;
            memcpy(&word, (const char *)x + (size_t)r * pitch_bytes + at, n < 8 ? n : 8);
            sum += checksum_term(word, (uint64_t)r * per_row + w);
        }
    return sum;
}

typedef struct Checksum {
    const char *x;
    size_t row_bytes, pitch_bytes;
    atomic_uint_fast64_t *sum;
} Checksum;

static void add_checksum(void *args, int64_t row0, int64_t row1)
{
    const Checksum *a = args;
    atomic_fetch_add(a->sum, checksum_rows(a->x, a->row_bytes, a->pitch_bytes, row0, row1));
}

void cpu_checksum(Device *d, Tensor *sum, const Tensor *x)
{
    ASSERT(sum->dtype == DT_I64 && tensor_numel(sum) == 1, "checksum: the result is no i64");
    atomic_uint_fast64_t all = 0;
    size_t each = dtype_bytes(x->dtype);
    Checksum a = {tensor_data(x), (size_t)tensor_cols(x) * each, (size_t)x->ld * each, &all};
    if (tensor_numel(x) > 0) rows_run(d, tensor_rows(x), tensor_cols(x), add_checksum, &a);
    uint64_t got = atomic_load(&all);
    memcpy(tensor_data(sum), &got, sizeof got);
}
