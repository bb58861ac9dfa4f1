/* The header of one safetensors file, checked: what safetensors.c puts together and no other file needs. */
#pragma once

#include "base/arena.h"
#include "tensor/safetensors.h"

typedef struct SafeHeader {
    SafeTensor *tensors; /* in the order of their bytes */
    int n;
    const char **meta; /* keys and values in turn */
    int n_meta;
} SafeHeader;

/* Reads and checks data[0..len), the whole file.  Texts and shapes live in the arena, tensors' data in
 * `data`; `file` is borrowed.  On OK the arrays are the caller's: safeheader_clear. */
Status safeheader_read(SafeHeader *out, Arena *arena, const uint8_t *data, size_t len,
                       const char *file, Err *err) MUST_CHECK;
void safeheader_clear(SafeHeader *h);
