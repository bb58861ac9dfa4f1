/* Passes in which each sequence of a cache reads one token.  At batch 1 such a pass is hundreds of kernels of a few
 * microseconds: more than the host can start in time.  A device that can record work (Backend.capture_begin) records the
 * second pass of a kind and replays it from then on; where the cache is, what is in it and which tokens are read stand in
 * device memory.  Recorded anew when the number of sequences changes or the cache has grown beyond the bound of its kernels.
 *
 * A recorded pass keeps the memory of all its tensors: nobody else may have it. */
#pragma once

#include "model/kv_cache.h"

typedef struct TokenPassOpts {
    bool greedy;   /* the best token is chosen on the device: all that the host reads is its id */
    bool no_graph; /* each pass kernel by kernel */
} TokenPassOpts;

typedef struct TokenPass {
    Llama *m;
    KvCache *kv;
    TokenPassOpts opts;
    Ctx ctx; /* scope: of the pass that was run last */
    Batch batch;
    Tensor ids, cu, best; /* (n_seqs), (n_seqs + 1), (n_seqs) i32 on the device */
    int32_t *cu_host, *ones;
    Tensor ids_now, positions_now, cu_now, best_now; /* the first n_live of them */
    Tensor *logits;                                  /* (n_live, V) f32 */
    void *graph;                                     /* what is recorded, or NULL */
    int64_t n, bound; /* sequences of the last pass; tokens in the cache that it is good for */
    int64_t n_recorded, n_replayed;
} TokenPass;

/* Borrows m and kv, which must not move. */
void token_pass_init(TokenPass *d, Llama *m, KvCache *kv, const TokenPassOpts *opts);
void token_pass_clear(TokenPass *d);
/* Sequence b < kv->n_live reads ids[b]; the cache's counts go on.  Results are those of token_pass_best or token_pass_logits, until
 * the next pass.  The host does not wait. */
void token_pass_run(TokenPass *d, const int32_t *ids);
/* (n_live) i32 with opts.greedy, as kernels.h: argmax; and (n_live, V) f32. */
const Tensor *token_pass_best(const TokenPass *d);
const Tensor *token_pass_logits(const TokenPass *d);
