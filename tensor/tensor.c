/* Shapes and views; nothing here touches device memory or counts of owners. */
#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DT_N] = {
    [DT_F32] = {"f32", 4}, [DT_BF16] = {"bf16", 2}, [DT_F16] = {"f16", 2}, [DT_I32] = {"i32", 4},
    [DT_I64] = {"i64", 8}, [DT_U8] = {"u8", 1},     [DT_I8] = {"i8", 1},   [DT_I16] = {"i16", 2},
};

size_t dtype_bytes(DType t)
{
    return dtypes[t].bytes;
}

const char *dtype_name(DType t)
{
    return dtypes[t].name;
}

const char *mem_category_name(MemCategory c)
{
    static const char *const names[MEM_N] = {
        [MEM_WEIGHT] = "weights",         [MEM_ADAPTER] = "adapters",
        [MEM_GRAD] = "gradients",         [MEM_OPTIMIZER] = "optimizer",
        [MEM_ACTIVATION] = "activations", [MEM_WORKSPACE] = "workspace",
        [MEM_COMM] = "communication",
    };
    return names[c];
}

int64_t tensor_numel(const Tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

int64_t tensor_cols(const Tensor *t)
{
    return t->shape[t->n_dims - 1];
}

int64_t tensor_rows(const Tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

bool tensor_is_dense(const Tensor *t)
{
    return t->ld == tensor_cols(t);
}

bool tensor_same_shape(const Tensor *a, const Tensor *b)
{
    return a->n_dims == b->n_dims &&
           memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof a->shape[0]) == 0;
}

size_t tensor_bytes(const Tensor *t)
{
    return (size_t)tensor_rows(t) * (size_t)t->ld * dtype_bytes(t->dtype);
}

void *tensor_data(const Tensor *t)
{
    ASSERT(t->storage, "tensor %s has no storage: dropped by its scope, or a released parameter",
           t->name ? t->name : "?");
    return (char *)t->storage->data + t->offset;
}

Tensor tensor_shape(DType dtype, int n_dims, const int64_t *shape)
{
    ASSERT(n_dims >= 1 && n_dims <= MAX_DIMS, "%d dimensions", n_dims);
    Tensor t = {.dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++) {
        ASSERT(shape[i] >= 0, "dimension %d is %lld", i, (long long)shape[i]);
        t.shape[i] = shape[i];
    }
    t.ld = shape[n_dims - 1];
    return t;
}

/* A view knows its owner's storage but none of its autograd state. */
static Tensor view_of(const Tensor *t, int64_t rows, int64_t cols, int64_t first)
{
    Tensor v = {
        .storage = t->storage, .dtype = t->dtype, .n_dims = 2, .name = t->name, .ld = t->ld};
    v.shape[0] = rows;
    v.shape[1] = cols;
    v.offset = t->offset + (size_t)first * dtype_bytes(t->dtype);
    return v;
}

Tensor tensor_slice_rows(const Tensor *t, int64_t row0, int64_t n_rows)
{
    ASSERT(t->n_dims == 2 && row0 >= 0 && n_rows >= 0 && row0 + n_rows <= t->shape[0],
           "rows %lld+%lld of %s", (long long)row0, (long long)n_rows, t->name ? t->name : "?");
    return view_of(t, n_rows, t->shape[1], row0 * t->ld);
}

Tensor tensor_slice_cols(const Tensor *t, int64_t col0, int64_t n_cols)
{
    ASSERT(t->n_dims == 2 && col0 >= 0 && n_cols >= 0 && col0 + n_cols <= t->shape[1],
           "columns %lld+%lld of %s", (long long)col0, (long long)n_cols, t->name ? t->name : "?");
    return view_of(t, t->shape[0], n_cols, col0);
}

const char *tensor_describe(const Tensor *t, char *buf, size_t n)
{
    int len = snprintf(buf, n, "%s (", t->name ? t->name : "tensor");
    for (int i = 0; i < t->n_dims && len > 0 && (size_t)len < n; i++)
        len += snprintf(buf + len, n - (size_t)len, i ? ",%lld" : "%lld", (long long)t->shape[i]);
    if (len > 0 && (size_t)len < n)
        snprintf(buf + len, n - (size_t)len, ") %s", dtype_name(t->dtype));
    return buf;
}
