/* Numbers into tensors: every pair of dtypes, pitches, long rows, what rounding leaves; directly and by way of buffers. */
#include "base/rng.h"
#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"
#include "tensor/upload.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* The CPU as a device whose memory is not the host's: buffers are marked when they are given and taken back, and what
 * was copied is not seen before the copy was issued. */
static int n_buffers;

static void *host_alloc(Device *d, size_t bytes)
{
    (void)d;
    n_buffers++;
    void *p = xmalloc(bytes);
    memset(p, 0xa5, bytes);
    return p;
}

static void host_free(Device *d, void *p)
{
    (void)d;
    n_buffers--;
    free(p);
}

static void open_device(Device *d, Backend *b, bool staged)
{
    Err err = {0};
    *b = *backend_find("cpu");
    if (staged) {
        b->host_alloc = host_alloc;
        b->host_free = host_free;
    }
    DeviceOpts opts = {.threads = 2, .region_bytes = (size_t)256 << 20};
    cr_assert_eq(device_open(d, b, &opts, DT_F32, &err), OK, "%s", err.line);
}

typedef struct Shape {
    int64_t rows, cols, pad;
} Shape;

static void check(Device *d, const Shape *s, DType from, DType to, bool split)
{
    int64_t n = s->rows * s->cols, shape[2] = {s->rows, s->cols};
    float *x = xmalloc((size_t)n * sizeof *x), *got = xmalloc((size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(3, (uint64_t)i);
    char *bytes = xmalloc((size_t)n * dtype_bytes(from) + 1), *file = bytes + 1; /* unaligned */
    convert_from_f32(file, from, x, n);
    convert_to_f32(x, file, from, n);
    Tensor t = tensor_shape(to, 2, shape), low = tensor_shape(DT_I16, 2, shape);
    t.ld += s->pad;
    t.storage = storage_new(d, tensor_bytes(&t), MEM_WEIGHT);
    low.storage = storage_new(d, tensor_bytes(&low), MEM_OPTIMIZER);
    memset(tensor_data(&t), 0x11, tensor_bytes(&t));
    memset(tensor_data(&low), 0x11, tensor_bytes(&low));
    Upload *u = upload_open(d);
    upload_add(u, &t, split ? &low : NULL, file, from);
    upload_close(u);
    if (split) {
        convert_join(got, tensor_data(&t), tensor_data(&low), n);
        cr_assert_arr_eq(got, x, (size_t)n * sizeof *x, "%s in two halves", dtype_name(from));
    } else {
        char *want = xmalloc((size_t)n * dtype_bytes(to)),
             *have = xmalloc((size_t)n * dtype_bytes(to));
        convert_from_f32(want, to, x, n);
        tensor_read(d, &t, have);
        cr_assert_arr_eq(have, want, (size_t)n * dtype_bytes(to), "%s to %s, %d x %d + %d",
                         dtype_name(from), dtype_name(to), (int)s->rows, (int)s->cols, (int)s->pad);
        free(want), free(have);
    }
    storage_unref(t.storage);
    storage_unref(low.storage);
    free(x), free(got), free(bytes);
}

Test(upload, every_dtype_and_layout, .timeout = 100)
{
    static const Shape shapes[] = {{1, 1, 0},      {3, 5, 0},       {3, 5, 4},      {1, 3000001, 0},
                                   {700, 1000, 0}, {700, 1000, 24}, {2, 600000, 8}, {0, 7, 0}};
    static const DType files[] = {DT_F32, DT_BF16, DT_F16}, tensors[] = {DT_F32, DT_BF16};
    for (int staged = 0; staged < 2; staged++) {
        Device d;
        Backend b;
        open_device(&d, &b, staged);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int f = 0; f < 3; f++) {
                for (int t = 0; t < 2; t++)
                    check(&d, &shapes[i], files[f], tensors[t], false);
                if (shapes[i].pad == 0) check(&d, &shapes[i], files[f], DT_BF16, true);
            }
        cr_assert_eq(n_buffers, 0);
        device_close(&d);
    }
}

/* Many tensors in one go, more than the buffers hold: each is where it belongs. */
Test(upload, more_than_a_buffer, .timeout = 100)
{
    enum { N = 40, LEN = 1 << 20 };
    for (int staged = 0; staged < 2; staged++) {
        Device d;
        Backend b;
        open_device(&d, &b, staged);
        float *x = xmalloc(N * (size_t)LEN * sizeof *x);
        for (int64_t i = 0; i < (int64_t)N * LEN; i++)
            x[i] = (float)(i % 100003);
        Tensor t[N];
        int64_t n = LEN;
        Upload *u = upload_open(&d);
        for (int i = 0; i < N; i++) {
            t[i] = tensor_alloc(&d, DT_F32, 1, &n, MEM_WEIGHT);
            upload_add(u, &t[i], NULL, x + (size_t)i * LEN, DT_F32);
        }
        upload_close(u);
        float *got = xmalloc(LEN * sizeof *got);
        for (int i = 0; i < N; i++) {
            tensor_read(&d, &t[i], got);
            cr_assert_eq(memcmp(got, x + (size_t)i * LEN, LEN * sizeof *got), 0, "tensor %d", i);
            tensor_clear(&t[i]);
        }
        free(x), free(got);
        device_close(&d);
    }
}
