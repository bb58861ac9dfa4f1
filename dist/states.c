#include "dist/states.h"

void states_init(States *s, Device *d, int64_t numel)
{
    int64_t n = 2 * numel * (int64_t)sizeof(float);
    *s = (States){.bytes = tensor_alloc(d, DT_U8, 1, &n, MEM_OPTIMIZER), .numel = numel};
    tensor_zero(d, &s->bytes);
}

void states_clear(States *s)
{
    tensor_clear(&s->bytes);
    *s = (States){0};
}

static Tensor array_at(const States *s, DType dtype, size_t at, int64_t n)
{
    Tensor t = tensor_shape(dtype, 1, &n);
    t.storage = s->bytes.storage;
    t.offset = s->bytes.offset + at;
    return t;
}

AdamwStates states_view(const States *s, int64_t begin, int64_t n)
{
    ASSERT(begin >= 0 && begin + n <= s->numel, "states: %lld of %lld", (long long)(begin + n),
           (long long)s->numel);
    return (AdamwStates){.m = array_at(s, DT_F32, (size_t)begin * sizeof(float), n),
                         .v = array_at(s, DT_F32, (size_t)(s->numel + begin) * sizeof(float), n)};
}
