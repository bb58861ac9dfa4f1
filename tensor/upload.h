/* Upload: numbers from host memory (a mapped file) into tensors, at the speed of memory.  Threads convert them piece by piece:
 * into the tensors themselves where those lie in the host's memory, else into two buffers of which one is filled while the
 * device copies from the other.  No waiting for single tensors. */
#pragma once

#include "tensor/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Upload Upload;

Upload *upload_open(Device *d);
/* numel(to) numbers of `dtype` (F32, BF16, F16), dense and perhaps unaligned, rounded once to to's dtype.  low: NULL, or i16
 * beside a dense bf16 `to`, receives what that rounding (to nearest, halves away from zero) leaves (convert_split).  The pad
 * between rows of `to` becomes 0 or stays.  Both may be on a device of host memory instead.  `from` must stay until
 * upload_flush or upload_close. */
void upload_add(Upload *u, const Tensor *to, const Tensor *low, const void *from, DType dtype);
/* Of what was added, as it lies in memory. */
size_t upload_bytes(const Upload *u);
/* What was added has been read from where it was and is on its way: work that is issued to the device now comes after it. */
void upload_flush(Upload *u);
/* What was added is there. */
void upload_close(Upload *u);

#ifdef __cplusplus
}
#endif
