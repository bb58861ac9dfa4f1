/* Tensors of random numbers, each element by its own counter. */
#include "kernels/cpu/cpu.h"
#include "tensor/convert.h"

typedef struct Fill {
    float *to; /* NULL: hi and low (low may be NULL) */
    uint16_t *hi;
    int16_t *low;
    int64_t cols, ld;
    uint64_t key;
    double mean, std;
} Fill;

static void fill_elements(void *args, int64_t first, int64_t end)
{
    const Fill *a = args;
    for (int64_t i = first; i < end; i++) {
        float x = (float)(a->mean + a->std * rng_normal(a->key, (uint64_t)i));
        int64_t at = i / a->cols * a->ld + i % a->cols;
        if (a->to)
            a->to[at] = x;
        else if (a->low)
            convert_split(a->hi + at, a->low + at, &x, 1);
        else
            a->hi[at] = bf16_from_f32(x);
    }
}

void cpu_fill_normal(Device *d, Tensor *t, Tensor *low, uint64_t key, double mean, double std)
{
    bool f32 = t->dtype == DT_F32;
    ASSERT((f32 && !low) || (t->dtype == DT_BF16 && (!low || low->dtype == DT_I16)),
           "fill_normal of %s", dtype_name(t->dtype));
    Fill a = {f32 ? data_f32(t) : NULL,
              f32 ? NULL : tensor_data(t),
              low ? tensor_data(low) : NULL,
              tensor_cols(t),
              t->ld,
              key,
              mean,
              std};
    enum { WORK = 32 }; /* a draw costs as much as so many floats touched */
    rows_run(d, tensor_numel(t), WORK, fill_elements, &a);
}
