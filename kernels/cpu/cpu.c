/* What the kernels of the CPU column share: checked access to tensors, and loops over rows. */
#include "kernels/cpu/cpu.h"

static void *data_of(const Tensor *t, DType dtype)
{
    ASSERT(t->dtype == dtype, "%s is %s, the cpu backend wants %s here",
           t->name ? t->name : "tensor", dtype_name(t->dtype), dtype_name(dtype));
    return tensor_data(t);
}

float *data_f32(const Tensor *t)
{
    return data_of(t, DT_F32);
}

float *dense_f32(const Tensor *t)
{
    ASSERT(tensor_is_dense(t), "%s has pitch %lld, must be dense", t->name ? t->name : "tensor",
           (long long)t->ld);
    return data_f32(t);
}

const int32_t *data_i32(const Tensor *t)
{
    return data_of(t, DT_I32);
}

const int64_t *data_i64(const Tensor *t)
{
    return data_of(t, DT_I64);
}

void check_matrix(const Tensor *t, int64_t rows, int64_t cols, const char *argument)
{
    char text[128];
    ASSERT(t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols,
           "%s must be (%lld,%lld), is %s", argument, (long long)rows, (long long)cols,
           tensor_describe(t, text, sizeof text));
}

typedef struct RowsLoop {
    RowsFn *fn;
    void *args;
    int64_t n_rows, per_part;
} RowsLoop;

static void rows_part(void *ud, int64_t i)
{
    const RowsLoop *l = ud;
    int64_t row0 = i * l->per_part, row1 = row0 + l->per_part;
    l->fn(l->args, row0, row1 < l->n_rows ? row1 : l->n_rows);
}

void rows_run(Device *d, int64_t n_rows, int64_t work, RowsFn *fn, void *args)
{
    RowsLoop l = {fn, args, n_rows, cpu_part_rows(n_rows, work)};
    pool_run(d->pool, (n_rows + l.per_part - 1) / l.per_part, rows_part, &l);
}
