/* Trace: writes every op's output under a running number and its name into a folder, for
 * `inspect --diff A B`, which finds the first tensor that differs between backends, ranks or commits. */
#pragma once

#include "autograd/tape.h"

/* The folder must exist and be empty.  Files: NNNNNN.opname.safetensors with one f32 tensor "out". */
Trace *trace_new(const char *dir);
void trace_free(Trace *t);
void trace_tensor(Trace *t, Device *d, const char *op, const Tensor *out);
