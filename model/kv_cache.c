/* Keys and values of the tokens so far, one dense block a layer. */
#include "model/kv_cache.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

void kv_cache_init(KvCache *kv, const Llama *m, int64_t n_seqs, int64_t capacity)
{
    const LlamaConfig *cfg = &m->cfg;
    Device *d = m->dev;
    ASSERT(n_seqs > 0 && capacity > 0, "%lld sequences of %lld", (long long)n_seqs,
           (long long)capacity);
    int64_t shape[3] = {n_seqs, capacity, cfg->n_kv_heads * cfg->head_dim};
    *kv = (KvCache){.n_seqs = n_seqs, .capacity = capacity, .n_layers = (int)cfg->n_layers};
    kv->k = xcalloc((size_t)kv->n_layers, sizeof *kv->k);
    kv->v = xcalloc((size_t)kv->n_layers, sizeof *kv->v);
    for (int i = 0; i < kv->n_layers; i++) {
        kv->k[i] = tensor_alloc(d, d->compute, 3, shape, MEM_ACTIVATION);
        kv->v[i] = tensor_alloc(d, d->compute, 3, shape, MEM_ACTIVATION);
    }
    kv->past = tensor_alloc(d, DT_I32, 1, &n_seqs, MEM_ACTIVATION);
    kv->past_host = xcalloc((size_t)n_seqs, sizeof *kv->past_host);
    kv_cache_reset(kv);
}

void kv_cache_clear(KvCache *kv)
{
    for (int i = 0; i < kv->n_layers; i++) {
        tensor_clear(&kv->k[i]);
        tensor_clear(&kv->v[i]);
    }
    tensor_clear(&kv->past);
    free(kv->k);
    free(kv->v);
    free(kv->past_host);
    *kv = (KvCache){0};
}

static void find_max_past(KvCache *kv)
{
    kv->max_past = 0;
    for (int64_t i = 0; i < kv->n_seqs; i++)
        if (kv->past_host[i] > kv->max_past) kv->max_past = kv->past_host[i];
}

static void write_past(KvCache *kv)
{
    find_max_past(kv);
    /* nobody waits: what the host has is read before the call returns (it is no pinned memory) */
    Device *d = kv->past.storage->dev;
    d->backend->copy(d, tensor_data(&kv->past), kv->past_host, tensor_bytes(&kv->past),
                     COPY_TO_DEVICE);
}

static void grow(KvCache *kv, int64_t i, int32_t by)
{
    ASSERT(by >= 0 && kv->past_host[i] + by <= kv->capacity,
           "sequence %lld: %d tokens and %d more in a cache of %lld", (long long)i,
           kv->past_host[i], by, (long long)kv->capacity);
    kv->past_host[i] += by;
}

void kv_cache_advance(KvCache *kv, const int32_t *n_new)
{
    for (int64_t i = 0; i < kv->n_live; i++)
        grow(kv, i, n_new[i]);
    write_past(kv);
}

void kv_cache_follow(KvCache *kv)
{
    for (int64_t i = 0; i < kv->n_live; i++)
        grow(kv, i, 1);
    find_max_past(kv);
}

void kv_cache_retreat(KvCache *kv, int64_t n)
{
    for (int64_t i = 0; i < kv->n_live; i++) {
        ASSERT(kv->past_host[i] >= n, "sequence %lld has %d tokens, not %lld", (long long)i,
               kv->past_host[i], (long long)n);
        kv->past_host[i] -= (int32_t)n;
    }
    write_past(kv);
}

void kv_cache_reset(KvCache *kv)
{
    memset(kv->past_host, 0, (size_t)kv->n_seqs * sizeof *kv->past_host);
    kv->n_live = kv->n_seqs;
    write_past(kv);
}

static void move_slot(Tensor *t, int64_t to, int64_t from, int64_t tokens)
{
    size_t row = (size_t)t->shape[2] * dtype_bytes(t->dtype), slot = (size_t)t->shape[1] * row;
    char *data = tensor_data(t);
    Device *d = t->storage->dev;
    d->backend->copy(d, data + (size_t)to * slot, data + (size_t)from * slot, (size_t)tokens * row,
                     COPY_ON_DEVICE);
}

/* from[] ascends, so a slot is read before it is written over. */
void kv_cache_compact(KvCache *kv, const int32_t *from, int64_t n)
{
    ASSERT(n <= kv->n_live, "%lld of %lld sequences", (long long)n, (long long)kv->n_live);
    for (int64_t i = 0; i < n; i++) {
        ASSERT(from[i] >= i && from[i] < kv->n_live && (i == 0 || from[i] > from[i - 1]),
               "slot %lld from %d", (long long)i, from[i]);
        if (from[i] == i) continue;
        int32_t tokens = kv->past_host[from[i]];
        for (int layer = 0; layer < kv->n_layers; layer++) {
            move_slot(&kv->k[layer], i, from[i], tokens);
            move_slot(&kv->v[layer], i, from[i], tokens);
        }
        kv->past_host[i] = tokens;
    }
    for (int64_t i = n; i < kv->n_seqs; i++)
        kv->past_host[i] = 0;
    kv->n_live = n;
    write_past(kv);
}

/* compact left the counts behind n_live at zero */
void kv_cache_add(KvCache *kv, int64_t n)
{
    ASSERT(n > 0 && kv->n_live + n <= kv->n_seqs, "%lld and %lld sequences in a cache for %lld",
           (long long)kv->n_live, (long long)n, (long long)kv->n_seqs);
    kv->n_live += n;
}
