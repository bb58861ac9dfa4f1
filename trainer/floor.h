/* The floor of a training step: the base model's products on dense buffers of random numbers, and attention, every row
 * trained; no adapters, no norms, no activations, no optimizer.  What a perfect trainer would take on this machine. */
#pragma once

#include "data/loader.h"
#include "model/llama.h"

enum { FLOOR_LAYER_PRODUCTS = 4, FLOOR_MAX_BUFFERS = 40 };

typedef struct Floor {
    Device *dev;
    const LlamaConfig *cfg;
    bool full; /* gradients of weights, too */
    int64_t n, head_rows;
    Docs docs;
    Tensor cu;
    Tensor *w[FLOOR_LAYER_PRODUCTS + 1], *dw[FLOOR_LAYER_PRODUCTS + 1]; /* the last: the head's */
    Tensor *x[FLOOR_LAYER_PRODUCTS + 1], *y[FLOOR_LAYER_PRODUCTS + 1],
        *dx[FLOOR_LAYER_PRODUCTS + 1];
    Tensor *q, *k, *v, *o, *lse, *dq, *dk, *dv;
    Tensor buffers[FLOOR_MAX_BUFFERS];
    int n_buffers;
} Floor;

/* False when the device has no room for the buffers.  Borrows cfg and batch. */
bool floor_open(Floor *f, Device *d, const LlamaConfig *cfg, bool full, const HostBatch *batch);
void floor_run(Floor *f); /* issued, not waited for */
void floor_close(Floor *f);
