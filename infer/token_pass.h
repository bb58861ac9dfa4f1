/* Passes in which each sequence of a cache reads one token.  At batch 1 such a pass is hundreds of kernels of a few
 * microseconds: more than the host can start in time.  A device that can record work (Backend.capture_begin) records the
 * second pass of a kind and replays it from then on; where the cache is, what is in it and which tokens are read stand in
 * device memory.  Recorded anew when the number of sequences changes or the cache has grown beyond the bound of its kernels.
 *
 * Each pass leaves the device ready for the next one, in which sequences read what was best.  So a few can begin before the host
 * knows what it was: a host that is late by milliseconds, as others' work on it makes it, does not keep the device waiting.
 *
 * A recorded pass keeps the memory of all its tensors: nobody else may have it. */
#pragma once

#include "model/kv_cache.h"

/* The most that begin before the host has read the one before them. */
enum { TOKEN_PASSES_AHEAD = 4 };

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
    int32_t *
        best_host; /* (TOKEN_PASSES_AHEAD + 1, n_seqs), where the device copies to without a detour */
    int64_t copied[TOKEN_PASSES_AHEAD + 1]; /* events: those of a pass are there */
    int64_t n_begun, n_read; /* passes whose best is copied; of them the host has it */
    Tensor ids_now, positions_now, cu_now, best_now; /* the first n_live of them */
    Tensor *logits;                                  /* (n_live, V) f32 */
    void *graph;                                     /* what is recorded, or NULL */
    int64_t n, bound; /* sequences of the last pass; tokens in the cache that it is good for */
    int64_t n_recorded, n_replayed;
} TokenPass;

/* Borrows m and kv, which must not move. */
void token_pass_init(TokenPass *d, Llama *m, KvCache *kv, const TokenPassOpts *opts);
void token_pass_clear(TokenPass *d);
/* Sequence b < kv->n_live reads ids[b]; the cache's counts go on.  The host does not wait.  With opts.greedy token_pass_read_best or
 * token_pass_cancel comes before the next call; where a pass has begun ahead, that is this one, and ids must be what was best. */
void token_pass_run(TokenPass *d, const int32_t *ids);
/* With opts.greedy: waits for the pass and copies its best tokens (kernels.h: argmax) to best[n_live].  Before it waits it begins passes, each of which
 * reads what was best in the one before, until `ahead` of them have begun, TOKEN_PASSES_AHEAD at most; the cache must have room for
 * them and counts them already. */
void token_pass_read_best(TokenPass *d, int32_t *best, int64_t ahead);
/* How many have begun that the host has not read. */
int64_t token_pass_ahead(const TokenPass *d);
/* Those are not wanted.  Before sequences of the cache leave or come. */
void token_pass_cancel(TokenPass *d);
/* (n_live, V) f32 of the pass that has begun last, until the next one. */
const Tensor *token_pass_logits(const TokenPass *d);
