#include "dist/states.h"

#include "base/str.h"

#include <stdlib.h>

/* Multiples of 256 bytes, so that what follows is aligned for any access. */
static size_t run_bytes(const StatesRun *r)
{
    size_t n = (size_t)(r->end - r->begin);
    size_t bytes = r->format == STATES_FP32
                       ? 2 * n * sizeof(float)
                       : 2 * n + 2 * (n + STATES_BLOCK - 1) / STATES_BLOCK * sizeof(float);
    return (bytes + 255) / 256 * 256;
}

void states_layout_add(StatesLayout *l, int64_t end, StatesFormat format)
{
    StatesRun *last = l->n > 0 ? &l->runs[l->n - 1] : NULL;
    int64_t begin = last ? last->end : 0;
    ASSERT(end >= begin, "a run ends at %lld", (long long)end);
    if (last && last->format == format) {
        l->bytes = last->at;
        last->end = end;
    } else {
        ASSERT(begin % STATES_BLOCK == 0, "a run begins at %lld", (long long)begin);
        l->runs = xrealloc(l->runs, (size_t)(l->n + 1) * sizeof *l->runs);
        last = &l->runs[l->n++];
        *last = (StatesRun){begin, end, format, l->bytes};
    }
    l->bytes += run_bytes(last);
}

void states_layout_clear(StatesLayout *l)
{
    free(l->runs);
    *l = (StatesLayout){0};
}

/* Elements [first, first + numel), counted from the first. */
static StatesLayout part_of(const StatesLayout *whole, int64_t first, int64_t numel)
{
    StatesLayout part = {0};
    ASSERT(first % STATES_BLOCK == 0, "a part begins at %lld", (long long)first);
    for (int i = 0; i < whole->n; i++) {
        const StatesRun *r = &whole->runs[i];
        int64_t end = r->end < first + numel ? r->end : first + numel;
        if (end > first && r->begin < first + numel)
            states_layout_add(&part, end - first, r->format);
    }
    return part;
}

static size_t largest_part(const StatesLayout *whole, int64_t numel)
{
    size_t most = 0;
    int64_t total = whole->n > 0 ? whole->runs[whole->n - 1].end : 0;
    for (int64_t first = 0; first < total; first += numel) {
        StatesLayout part = part_of(whole, first, numel);
        if (part.bytes > most) most = part.bytes;
        states_layout_clear(&part);
    }
    return most;
}

void states_init(States *s, Device *d, const StatesLayout *whole, int64_t numel, int part)
{
    int64_t n = (int64_t)largest_part(whole, numel);
    *s = (States){.bytes = tensor_alloc(d, DT_U8, 1, &n, MEM_OPTIMIZER),
                  .layout = part_of(whole, part * numel, numel)};
    tensor_zero(d, &s->bytes);
}

void states_clear(States *s)
{
    tensor_clear(&s->bytes);
    states_layout_clear(&s->layout);
}

const StatesRun *states_run(const States *s, int64_t element)
{
    for (int i = 0; i < s->layout.n; i++)
        if (element < s->layout.runs[i].end) return &s->layout.runs[i];
    panic("states: there is no element %lld", (long long)element);
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
    const StatesRun *r = states_run(s, begin);
    ASSERT(begin + n <= r->end, "states: [%lld, %lld) is not in one run", (long long)begin,
           (long long)(begin + n));
    size_t from = (size_t)(begin - r->begin), all = (size_t)(r->end - r->begin);
    if (r->format == STATES_FP32)
        return (AdamwStates){.m = array_at(s, DT_F32, r->at + from * sizeof(float), n),
                             .v = array_at(s, DT_F32, r->at + (all + from) * sizeof(float), n)};
    ASSERT(from % STATES_BLOCK == 0, "states: element %lld is within a block", (long long)begin);
    int64_t n_blocks = (n + STATES_BLOCK - 1) / STATES_BLOCK;
    size_t scales = r->at + 2 * all + from / STATES_BLOCK * sizeof(float);
    size_t other = (all + STATES_BLOCK - 1) / STATES_BLOCK * sizeof(float);
    return (AdamwStates){.m = array_at(s, DT_U8, r->at + from, n),
                         .v = array_at(s, DT_U8, r->at + all + from, n),
                         .m_max = array_at(s, DT_F32, scales, n_blocks),
                         .v_max = array_at(s, DT_F32, scales + other, n_blocks)};
}
