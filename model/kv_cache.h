/* Keys and values of the tokens so far, for n_seqs sequences of at most `capacity` tokens each. */
#pragma once

#include "model/llama.h"

struct KvCache {
    Tensor *k, *v; /* n_layers each: (n_seqs, capacity, K*D) */
    Tensor past;   /* (n_seqs) i32 on the device: tokens in the cache before this forward pass */
    int32_t *past_host; /* the same */
    int64_t n_seqs, capacity, max_past;
    int64_t n_live; /* sequences in use: n_seqs until kv_cache_compact */
    int n_layers;
};

void kv_cache_init(KvCache *kv, const Llama *m, int64_t n_seqs, int64_t capacity);
void kv_cache_clear(KvCache *kv);
/* After a forward pass: sequence b < n_live grew by n_new[b]. */
void kv_cache_advance(KvCache *kv, const int32_t *n_new);
/* After one of a token each, in which the device counted by itself (kernels.h: next_tokens); and as if the last n had not been. */
void kv_cache_follow(KvCache *kv);
void kv_cache_retreat(KvCache *kv, int64_t n);
/* Empty again, all n_seqs of them. */
void kv_cache_reset(KvCache *kv);
/* Sequence slots are renumbered: new slot i holds old slot from[i]; i < n.  For batches whose sequences end at
 * different times.  from[] ascending. */
void kv_cache_compact(KvCache *kv, const int32_t *from, int64_t n);
/* n more sequences, empty, behind the others; as many in all as kv_cache_init was asked for. */
void kv_cache_add(KvCache *kv, int64_t n);
