/* One small file a tensor: a trace is for looking, not for speed. */
#include "autograd/trace.h"

#include "base/str.h"
#include "tensor/safetensors.h"

#include <stdlib.h>

struct Trace {
    char *dir;
    int64_t n;
};

Trace *trace_new(const char *dir)
{
    Trace *t = xcalloc(1, sizeof *t);
    t->dir = xstrdup(dir);
    return t;
}

void trace_free(Trace *t)
{
    if (!t) return;
    free(t->dir);
    free(t);
}

void trace_tensor(Trace *t, Device *d, const char *op, const Tensor *out)
{
    int64_t n = tensor_numel(out);
    float *host = xmalloc((size_t)n * sizeof *host);
    tensor_read_f32(d, out, host);
    SafeTensor st = {.name = "out",
                     .dtype = ST_F32,
                     .n_dims = out->n_dims,
                     .shape = out->shape,
                     .data = (const uint8_t *)host,
                     .bytes = (size_t)n * sizeof *host};
    char *path = str_format("%s/%06lld.%s.safetensors", t->dir, (long long)t->n++, op);
    Err err = {0};
    if (safetensors_write(path, &st, 1, NULL, NULL, NULL, &err) != OK) panic("%s", err.line);
    free(path);
    free(host);
}
