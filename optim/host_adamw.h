/* HostAdamw: AdamW whose masters and states live in host memory, streamed: gradients come down in chunks, all cores
 * update one chunk while the next ones come, and new weights go up behind them.
 *
 * A chunk's gradient lands in one of HOST_ADAMW_SLOTS pinned buffers; where all are full the caller waits for the host, as
 * the step then does anyway.  Masters and states are updated in place and never travel; the weights go up from the
 * master itself.  A parameter takes so many bytes of the host's memory traffic with bf16 weights and gradients: 12 are
 * read and written by the cores (master, low half, m, v: 24 in all), the gradient is written by the device and read, and
 * the weight is read by the device: 30. */
#pragma once

#include "optim/adamw.h"

enum { HOST_ADAMW_SLOTS = 4 };
/* Elements of a chunk: 16 MiB of bf16, which PCIe moves in about 0.3 ms; a multiple of what any encoding of states has
 * as its block. */
#define HOST_ADAMW_CHUNK ((int64_t)8 << 20)

typedef struct HostAdamw HostAdamw;

/* Part of an array that is no longer than a chunk.  array: weights (the master), low and states in host memory, grad on the
 * device; live: the weights on the device, which follow the master, or no storage. */
typedef struct HostAdamwChunk {
    AdamwArray array;
    Tensor live;
} HostAdamwChunk;

/* Borrows the devices: dev, and host memory as ParamShards keep it (dist/shard.h).  grads: dtype of the gradients;
 * longest: elements of the longest chunk; n_steps: how many sets of scalars may be in use between two finishes. */
HostAdamw *host_adamw_new(Device *dev, Device *states, Device *pinned, DType grads, int64_t longest,
                          int n_steps);
void host_adamw_free(HostAdamw *h);

/* Updates the chunks by the scalars that `step` (STEP_N) holds when the compute stream has come here; they become set
 * number i of n_steps, each of which is used once between two finishes.  Returns the event until which the gradients are
 * read; may return long before anything is updated. */
int64_t host_adamw_update(HostAdamw *h, const HostAdamwChunk *chunks, int n, const Tensor *step,
                          int i);
/* Returns when all is updated; the compute stream goes on when new weights are on the device. */
void host_adamw_finish(HostAdamw *h);
