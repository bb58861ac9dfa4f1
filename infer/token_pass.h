/* Passes in which each sequence of a cache reads one token.  At batch 1 such a pass is hundreds of kernels of a few
 * microseconds: more than the host can start in time.  A device that can record work (Backend.capture_begin) records the
 * second pass of a kind and replays it from then on; where the cache is, what is in it and which tokens are read stand in
 * device memory.  Recorded anew when the number of sequences changes or the cache has grown beyond the bound of its kernels.
 *
 * Each pass leaves the device ready for the next one, in which sequences read what was best.  So that can begin before the host
 * knows what it was, and is given up where a sequence ends or another one comes.
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
    int32_t *cu_host;
    int32_t *best_host; /* (n_seqs), where the device copies to without a detour */
    bool ahead;         /* the next pass has begun */
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
 * the next pass.  The host does not wait.  Where the pass has begun (token_pass_read_best), ids must be what was best. */
void token_pass_run(TokenPass *d, const int32_t *ids);
/* With opts.greedy: waits for the pass and copies what token_pass_best has to best[n_live].  `ahead`: begins the next pass, in which
 * each sequence reads that, before it waits; the cache must have room for it and counts it already. */
void token_pass_read_best(TokenPass *d, int32_t *best, bool ahead);
/* A pass that has begun is not wanted; nothing where none has.  Before sequences of the cache leave or come. */
void token_pass_cancel(TokenPass *d);
/* (n_live) i32 with opts.greedy, as kernels.h: argmax; and (n_live, V) f32. */
const Tensor *token_pass_best(const TokenPass *d);
const Tensor *token_pass_logits(const TokenPass *d);
