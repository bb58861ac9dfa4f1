/* AdamW streamed through host memory against the same kernel on the same numbers: the same bits, however arrays are cut,
 * and nothing where the step is to be skipped. */
#include "optim/host_adamw.h"
#include "tensor/convert.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { N = 5000 };

typedef struct Bed {
    Device dev, states, pinned;
} Bed;

static void open_device(Device *d, DType compute, int threads)
{
    Err err = {0};
    DeviceOpts opts = {.threads = threads, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(d, backend_find("cpu"), &opts, compute, &err), OK, "%s", err.line);
}

static void bed_open(Bed *b, DType compute)
{
    open_device(&b->dev, compute, 1);
    open_device(&b->states, compute, 2);
    open_device(&b->pinned, compute, 1);
}

static void bed_close(Bed *b)
{
    device_close(&b->pinned);
    device_close(&b->states);
    device_close(&b->dev);
}

static const AdamwOpts options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

/* Weights and gradients differ, states are 0. */
typedef struct Arrays {
    Tensor weights, live, low, grad, m, v;
} Arrays;

static Tensor array(Device *d, DType dtype)
{
    int64_t n = N;
    Tensor t = tensor_alloc(d, dtype, 1, &n, MEM_OPTIMIZER);
    tensor_zero(d, &t);
    return t;
}

static void arrays_open(Arrays *a, Bed *b, bool on_host)
{
    bool split = b->dev.compute == DT_BF16;
    Device *states = on_host ? &b->states : &b->dev, *weights = on_host ? &b->pinned : &b->dev;
    *a = (Arrays){.weights = array(weights, b->dev.compute),
                  .grad = array(&b->dev, b->dev.compute),
                  .m = array(states, DT_F32),
                  .v = array(states, DT_F32)};
    if (split) a->low = array(states, DT_I16);
    if (on_host) a->live = array(&b->dev, b->dev.compute);
    weights->k->fill_normal(weights, &a->weights, split ? &a->low : NULL, 1, 0, 1);
    b->dev.k->fill_normal(&b->dev, &a->grad, NULL, 2, 0, 1);
}

static void arrays_close(Arrays *a)
{
    tensor_clear(&a->weights);
    tensor_clear(&a->live);
    tensor_clear(&a->low);
    tensor_clear(&a->grad);
    tensor_clear(&a->m);
    tensor_clear(&a->v);
}

static Tensor part(const Tensor *t, int64_t begin, int64_t n)
{
    if (!t->storage) return (Tensor){0};
    Tensor view = tensor_shape(t->dtype, 1, &n);
    view.storage = t->storage;
    view.offset = t->offset + (size_t)begin * dtype_bytes(t->dtype);
    return view;
}

static HostAdamwChunk chunk(const Arrays *a, int64_t begin, int64_t n)
{
    HostAdamwChunk c = {
        .array = {.weights = part(&a->weights, begin, n),
                  .low = part(&a->low, begin, n),
                  .grad = part(&a->grad, begin, n),
                  .states = {.m = part(&a->m, begin, n), .v = part(&a->v, begin, n)},
                  .args = adamw_args(&options)},
        .live = part(&a->live, begin, n)};
    adamw_add_range(&c.array.args, &options, n, 1, true);
    return c;
}

static void expect_same(const Tensor *a, const Tensor *b, const char *what)
{
    if (!a->storage) return;
    cr_expect_arr_eq(tensor_data(a), tensor_data(b), tensor_bytes(a), "%s", what);
}

/* Three steps, the second of which is skipped. */
static void compare(DType compute, int64_t longest)
{
    enum { MOST = 64, STEPS = 3 };
    Bed b;
    bed_open(&b, compute);
    Arrays want, got;
    arrays_open(&want, &b, false);
    arrays_open(&got, &b, true);
    HostAdamwChunk all = chunk(&want, 0, N), chunks[MOST];
    int n = 0;
    for (int64_t at = 0; at < N; at += longest, n++)
        chunks[n] = chunk(&got, at, N - at < longest ? N - at : longest);
    int64_t n_scalars = STEP_N;
    Tensor step = tensor_alloc(&b.dev, DT_F32, 1, &n_scalars, MEM_OPTIMIZER);
    HostAdamw *h = host_adamw_new(&b.dev, &b.states, &b.pinned, compute, longest, 2);
    for (int t = 1; t <= STEPS; t++) {
        adamw_begin(&b.dev, &step, &options, 0.01, t);
        float scalars[STEP_N];
        tensor_read(&b.dev, &step, scalars);
        scalars[STEP_SKIP] = t == 2;
        tensor_write(&b.dev, &step, scalars);
        adamw_update(&b.dev, &all.array, &step);
        host_adamw_update(h, chunks, n / 2, &step, 0);
        host_adamw_update(h, chunks + n / 2, n - n / 2, &step, 1);
        host_adamw_finish(h);
        expect_same(&want.weights, &got.weights, "masters");
        expect_same(&want.weights, &got.live, "weights on the device");
        expect_same(&want.low, &got.low, "low halves");
        expect_same(&want.m, &got.m, "m");
        expect_same(&want.v, &got.v, "v");
    }
    host_adamw_free(h);
    tensor_clear(&step);
    arrays_close(&want);
    arrays_close(&got);
    bed_close(&b);
}

Test(host_adamw, has_the_bits_of_the_kernel)
{
    for (int i = 0; i < 2; i++) {
        DType compute = i ? DT_BF16 : DT_F32;
        compare(compute, N);
        compare(compute, 1024); /* one more than there are slots */
        compare(compute, 136);  /* many times around */
    }
}
