/* Tokens from the host as a forward pass takes them, and a context for passes that record nothing. */
#pragma once

#include "model/kv_cache.h"

/* Zero-initialise; feed_begin starts a pass: ctx has a fresh scope, no tape.  feed_end drops its tensors and keeps the
 * memory of the handles for the next. */
typedef struct Feed {
    Ctx ctx;
    Batch batch;
} Feed;

void feed_init(Feed *f, Device *d);
void feed_clear(Feed *f);
/* ids, positions (n) and cu (n_docs + 1), the first token of each document, then n; cu is borrowed until
 * feed_end.  kv: or NULL. */
void feed_begin(Feed *f, int64_t n, const int32_t *ids, const int32_t *positions, int n_docs,
                const int32_t *cu, int64_t max_doc, KvCache *kv);
/* (n) i32 on the device, alive until feed_end. */
Tensor *feed_ints(Feed *f, const int32_t *host, int64_t n);
void feed_end(Feed *f);
