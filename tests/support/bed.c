/* A device for tests, and tensors on it. */
#include "tests/support/bed.h"

#include "base/str.h"
#include "tests/support/test_device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void bed_close(Bed *b)
{
    scope_free(b->scope);
    scope_free(b->inputs);
    arena_free(b->arena);
    device_close(&b->dev);
}

static void fill_nan(Bed *b, Tensor *t)
{
    int64_t n = (int64_t)tensor_bytes(t) / (int64_t)sizeof(float);
    if (n == 0) return;
    float *host = xmalloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = NAN;
    Tensor all = *t;
    all.n_dims = 1;
    all.shape[0] = all.ld = n;
    tensor_write(&b->dev, &all, host);
    free(host);
}

Tensor *bed_matrix(Bed *b, int64_t rows, int64_t cols, int64_t pad)
{
    int64_t shape[2] = {rows, cols};
    Tensor *t = scope_tensor(b->inputs, DT_F32, 2, shape, cols + pad, MEM_ACTIVATION);
    fill_nan(b, t);
    return t;
}

Tensor *bed_vector(Bed *b, int64_t n)
{
    Tensor *t = scope_tensor(b->inputs, DT_F32, 1, &n, 0, MEM_ACTIVATION);
    fill_nan(b, t);
    return t;
}

/* What is allocated next holds NaN, not the zeros of fresh memory. */
static void soil_memory(Bed *b)
{
    scope_push(b->inputs);
    bed_vector(b, 1 << 20);
    scope_pop(b->inputs, NULL);
    b->dev.mem = (MemStats){0};
}

void bed_open(Bed *b, int threads)
{
    *b = (Bed){0};
    test_device_open(&b->dev, (size_t)256 << 20, threads);
    b->arena = arena_new(1 << 16);
    b->inputs = scope_new(&b->dev, b->arena);
    b->scope = scope_new(&b->dev, b->arena);
    soil_memory(b);
    b->ctx = (Ctx){.dev = &b->dev, .scope = b->scope, .arena = b->arena, .key = 77};
}

Tensor *bed_cube(Bed *b, int64_t n0, int64_t n1, int64_t n2)
{
    int64_t shape[3] = {n0, n1, n2};
    Tensor *t = scope_tensor(b->inputs, DT_F32, 3, shape, 0, MEM_ACTIVATION);
    fill_nan(b, t);
    return t;
}

Tensor *bed_i32(Bed *b, const int32_t *values, int64_t n)
{
    Tensor *t = scope_tensor(b->inputs, DT_I32, 1, &n, 0, MEM_ACTIVATION);
    tensor_write(&b->dev, t, values);
    return t;
}

Tensor *bed_i64(Bed *b, const int64_t *values, int64_t n)
{
    Tensor *t = scope_tensor(b->inputs, DT_I64, 1, &n, 0, MEM_ACTIVATION);
    tensor_write(&b->dev, t, values);
    return t;
}

Tensor *bed_fill(Bed *b, Tensor *t, uint64_t key, double sigma, double mean)
{
    int64_t n = tensor_numel(t);
    float *host = xmalloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = (float)(round((mean + sigma * rng_normal(key, (uint64_t)i)) * 4096) / 4096);
    tensor_write_f32(&b->dev, t, host);
    free(host);
    return t;
}

float *bed_read(Bed *b, const Tensor *t)
{
    float *host = xmalloc((size_t)tensor_numel(t) * sizeof *host);
    tensor_read_f32(&b->dev, t, host);
    return host;
}

bool bed_pad_intact(Bed *b, const Tensor *t)
{
    int64_t rows = tensor_rows(t), cols = tensor_cols(t), shape[2] = {rows, t->ld};
    Tensor all = tensor_shape(DT_F32, 2, shape);
    all.storage = t->storage;
    all.offset = t->offset;
    float *host = bed_read(b, &all);
    bool intact = true;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = cols; i < t->ld; i++)
            intact &= isnan(host[r * t->ld + i]) != 0;
    free(host);
    return intact;
}

void bed_docs(Bed *b, BedDocs *out, int n_docs, const int32_t *lens)
{
    ASSERT(n_docs <= BED_MAX_DOCS, "%d documents", n_docs);
    *out = (BedDocs){0};
    for (int i = 0; i < n_docs; i++) {
        out->cu[i + 1] = out->cu[i] + lens[i];
        if (lens[i] > out->docs.max_len) out->docs.max_len = lens[i];
    }
    out->n = out->cu[n_docs];
    int32_t *positions = xmalloc((size_t)out->n * sizeof *positions);
    int64_t *samples = xmalloc((size_t)out->n * sizeof *samples);
    for (int i = 0; i < n_docs; i++) {
        for (int32_t j = 0; j < lens[i]; j++) {
            positions[out->cu[i] + j] = j;
            samples[out->cu[i] + j] = 100 + i;
        }
    }
    out->positions = bed_i32(b, positions, out->n);
    out->samples = bed_i64(b, samples, out->n);
    out->docs.cu = bed_i32(b, out->cu, n_docs + 1);
    out->docs.cu_host = out->cu;
    out->docs.n_docs = n_docs;
    free(positions);
    free(samples);
}

Tensor *bed_rope(Bed *b, int64_t positions, int dim)
{
    float *host = xmalloc((size_t)(positions * dim) * sizeof *host);
    for (int64_t p = 0; p < positions; p++) {
        for (int i = 0; i < dim / 2; i++) {
            double angle = (double)p * pow(10000.0, -2.0 * i / dim);
            host[p * dim + i] = (float)cos(angle);
            host[p * dim + dim / 2 + i] = (float)sin(angle);
        }
    }
    Tensor *t = bed_matrix(b, positions, dim, 0);
    tensor_write(&b->dev, t, host);
    free(host);
    return t;
}
