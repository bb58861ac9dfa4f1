/* Adapters into the room around their matrix. */
#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct Rows {
    float *to;
    const float *from;
    int64_t ld_to, ld_from, cols;
    float scale;
} Rows;

static void scaled_rows(void *args, int64_t row0, int64_t row1)
{
    const Rows *a = args;
    for (int64_t r = row0; r < row1; r++)
        for (int64_t i = 0; i < a->cols; i++)
            a->to[r * a->ld_to + i] = a->scale * a->from[r * a->ld_from + i];
}

static void clear_rows(void *args, int64_t row0, int64_t row1)
{
    const Rows *a = args;
    for (int64_t r = row0; r < row1; r++)
        memset(a->to + r * a->ld_to, 0, (size_t)a->cols * sizeof *a->to);
}

void cpu_write_adapters(Device *d, Tensor *w, const AdapterPart *parts, int n)
{
    int64_t out = tensor_rows(w), in = tensor_cols(w), ld = w->ld, rank = 0;
    float *m = data_f32(w);
    for (int i = 0; i < n; i++)
        rank += tensor_rows(parts[i].a);
    ASSERT(in + rank <= ld, "write_adapters: %lld + %lld columns in a pitch of %lld", (long long)in,
           (long long)rank, (long long)ld);
    Rows room = {.to = m + in, .ld_to = ld, .cols = rank};
    rows_run(d, out, rank, clear_rows, &room);
    for (int64_t i = 0, at = 0, r; i < n; i++, at += r) {
        const AdapterPart *p = &parts[i];
        r = tensor_rows(p->a);
        Rows a = {m + (out + at) * ld, dense_f32(p->a), ld, in, in, 1};
        Rows b = {m + p->row0 * ld + in + at, dense_f32(p->b), ld, r, r, p->scale};
        rows_run(d, r, in, scaled_rows, &a);
        rows_run(d, tensor_rows(p->b), r, scaled_rows, &b);
    }
}
