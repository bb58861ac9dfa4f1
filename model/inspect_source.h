/* All tensors below a path, whatever kind it is, in an order that people expect.  For inspect.c. */
#pragma once

#include "model/inspect.h"

typedef struct NamedTensor {
    char *name; /* its own, or in a trace its file's: "000012.rmsnorm" */
    const SafeTensor *tensor;
} NamedTensor;

typedef struct WeightFiles {
    InspectKind kind;
    NamedTensor *items; /* by weight_name_order */
    int n;
    SafeTensors **files;
    int n_files;
} WeightFiles;

Status weight_files_open(WeightFiles *out, const char *path, Err *err) MUST_CHECK;
void weight_files_close(WeightFiles *f);

/* Byte order, but runs of digits count as numbers. */
int weight_name_order(const char *a, const char *b);
