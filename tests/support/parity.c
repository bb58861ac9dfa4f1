/* The same tensors on both devices. */
#include "tests/support/parity.h"

#include "base/rng.h"
#include "base/str.h"
#include "tensor/convert.h"
#include "tests/support/test_device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

bool pairs_open(Pairs *b, bool deterministic)
{
    *b = (Pairs){.key = 1, .deterministic = deterministic};
    const Backend *cuda = backend_find("cuda");
    Err err = {0};
    DeviceOpts opts = test_device_opts((size_t)4 << 30, 0);
    opts.deterministic |= deterministic;
    if (!cuda || device_open(&b->gpu, cuda, &opts, DT_BF16, &err) != OK) {
        const char *asked = getenv("LORAC_TEST_BACKEND");
        ASSERT(!asked || !str_eq(asked, "cuda"), "%s", err.line);
        fprintf(stderr, "skipped: %s\n", cuda ? err.line : "built without CUDA");
        return false;
    }
    ASSERT(device_open(&b->cpu, backend_find("cpu"), &opts, DT_F32, &err) == OK, "%s", err.line);
    return true;
}

void pairs_drop(Pairs *b)
{
    for (int i = 0; i < b->n_made; i++) {
        tensor_clear(&b->made[i]->cpu);
        tensor_clear(&b->made[i]->gpu);
        free(b->made[i]);
    }
    b->n_made = 0;
}

void pairs_close(Pairs *b)
{
    device_close(&b->cpu);
    device_close(&b->gpu);
}

Pair *pair_make(Pairs *b, DType gpu, DType cpu, int n_dims, const int64_t *shape, int64_t pad)
{
    Pair *p = xcalloc(1, sizeof *p);
    p->cpu = tensor_shape(cpu, n_dims, shape);
    p->gpu = tensor_shape(gpu, n_dims, shape);
    p->cpu.ld += pad;
    p->gpu.ld += pad;
    p->cpu.storage = storage_new(&b->cpu, tensor_bytes(&p->cpu), MEM_ACTIVATION);
    p->gpu.storage = storage_new(&b->gpu, tensor_bytes(&p->gpu), MEM_ACTIVATION);
    ASSERT(b->n_made < (int)(sizeof b->made / sizeof b->made[0]), "%d tensors", b->n_made);
    b->made[b->n_made++] = p;
    return p;
}

Pair *pair_fill(Pairs *b, Pair *p, double sigma, double mean)
{
    int64_t n = tensor_numel(&p->cpu);
    float *x = xmalloc((size_t)n * sizeof *x);
    b->key++;
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(mean + sigma * rng_normal(b->key, (uint64_t)i));
        if (p->gpu.dtype == DT_BF16) x[i] = bf16_to_f32(bf16_from_f32(x[i]));
    }
    tensor_write_f32(&b->cpu, &p->cpu, x);
    tensor_write_f32(&b->gpu, &p->gpu, x);
    free(x);
    return p;
}

Pair *pair_matrix(Pairs *b, int64_t rows, int64_t cols, int64_t pad)
{
    return pair_fill(b, pair_make(b, DT_BF16, DT_F32, 2, (int64_t[]){rows, cols}, pad), 1, 0);
}

Pair *pair_shifted(Pairs *b, int64_t rows, int64_t cols, int64_t pad, int64_t shift)
{
    Pair *p = pair_matrix(b, rows, cols + shift, pad);
    p->cpu = tensor_slice_cols(&p->cpu, shift, cols);
    p->gpu = tensor_slice_cols(&p->gpu, shift, cols);
    return p;
}

Pair *pair_vector(Pairs *b, int64_t n, DType gpu)
{
    return pair_fill(b, pair_make(b, gpu, DT_F32, 1, &n, 0), 1, gpu == DT_BF16 ? 1 : 0);
}

Pair *pair_ints(Pairs *b, const int32_t *v, int64_t n)
{
    Pair *p = pair_make(b, DT_I32, DT_I32, 1, &n, 0);
    tensor_write(&b->cpu, &p->cpu, v);
    tensor_write(&b->gpu, &p->gpu, v);
    return p;
}

Pair *pair_zeros(Pairs *b, DType dtype, int64_t n)
{
    Pair *p = pair_make(b, dtype, dtype, 1, &n, 0);
    tensor_zero(&b->cpu, &p->cpu);
    tensor_zero(&b->gpu, &p->gpu);
    return p;
}

void pair_same(Pairs *b, const char *what, const Pair *p, double tolerance)
{
    int64_t n = tensor_numel(&p->cpu);
    float *want = xmalloc((size_t)n * sizeof *want), *got = xmalloc((size_t)n * sizeof *got);
    Tensor cpu = p->cpu, gpu = p->gpu;
    tensor_read_f32(&b->cpu, &cpu, want);
    tensor_read_f32(&b->gpu, &gpu, got);
    double most = 1e-30, worst = 0, sum = 0, norm = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)want[i]));
        double off = fabs((double)want[i] - (double)got[i]);
        if (!(off <= worst)) worst = off, at = i;
        sum += off * off;
        norm += (double)want[i] * (double)want[i];
    }
    double rms = sqrt(sum / (norm + 1e-30));
    if (!(worst / most <= tolerance) || !(rms <= tolerance)) {
        fprintf(
            stderr,
            "%s: element %lld is %g, should be %g: off by %.2g of %.3g, rms %.2g, allowed %.2g\n",
            what, (long long)at, (double)got[at], (double)want[at], worst / most, most, rms,
            tolerance);
        b->n_failed++;
    }
    free(want);
    free(got);
}

void pair_same_bytes(Pairs *b, const char *name, const Pair *p)
{
    size_t bytes = tensor_bytes(&p->cpu), other = 0;
    uint8_t *x = xmalloc(bytes), *y = xmalloc(bytes);
    tensor_read(&b->cpu, &p->cpu, x);
    tensor_read(&b->gpu, &p->gpu, y);
    for (size_t i = 0; i < bytes; i++)
        other += x[i] != y[i];
    if (other) fprintf(stderr, "%s: %zu of %zu bytes differ\n", name, other, bytes);
    b->n_failed += other != 0;
    free(x), free(y);
}
