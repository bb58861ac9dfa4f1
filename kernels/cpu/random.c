/* Tensors of random numbers, each element by its own counter. */
#include "kernels/cpu/cpu.h"

typedef struct Fill {
    float *to;
    int64_t cols, ld;
    uint64_t key;
    double mean, std;
} Fill;

static void fill_elements(void *args, int64_t first, int64_t end)
{
    const Fill *a = args;
    for (int64_t i = first; i < end; i++)
        a->to[i / a->cols * a->ld + i % a->cols] =
            (float)(a->mean + a->std * rng_normal(a->key, (uint64_t)i));
}

void cpu_fill_normal(Device *d, Tensor *t, uint64_t key, double mean, double std)
{
    Fill a = {data_f32(t), tensor_cols(t), t->ld, key, mean, std};
    enum { WORK = 32 }; /* a draw costs as much as so many floats touched */
    rows_run(d, tensor_numel(t), WORK, fill_elements, &a);
}
