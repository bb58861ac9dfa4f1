/* A host batch on the device, as the forward pass and the loss take it. */
#pragma once

#include "data/loader.h"
#include "model/llama.h"

/* Everything in the scope of the step; `host` must live until backward is done. */
typedef struct TrainBatch {
    Batch batch;
    Tensor *rows, *targets; /* (M) i32: tokens whose successor is trained, and that successor */
    int64_t n_trained;      /* M */
} TrainBatch;

/* Host arrays reused from batch to batch.  Zero-initialise. */
typedef struct BatchScratch {
    int32_t *rows, *targets;
    int64_t cap;
} BatchScratch;
void batch_scratch_clear(BatchScratch *s);

/* host->n_trained must be above 0. */
void batch_upload(TrainBatch *out, Ctx *c, const HostBatch *host, BatchScratch *scratch);
