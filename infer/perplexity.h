/* Loss and perplexity of a model over a data set: the mean of -log p over trained tokens, in nats, and e to it. */
#pragma once

#include "data/loader.h"
#include "dist/comm.h"
#include "model/llama.h"

typedef struct Perplexity {
    double loss, perplexity;
    int64_t n_trained, n_tokens,
        n_docs;           /* what the loss is over; tokens without padding; documents */
    bool given_up;        /* progress said so: nothing else here means anything */
    double *doc_loss;     /* (dataset_size) sum over the document's trained tokens */
    int64_t *doc_trained; /* (dataset_size) */
} Perplexity;
void perplexity_clear(Perplexity *p);

enum { PERPLEXITY_TOKENS = 4096 };

typedef struct PerplexityOpts {
    int64_t
        tokens_per_pass; /* rows go together up to this many tokens; 0: PERPLEXITY_TOKENS.  One row at least */
    /* rows; may be NULL.  false: give up */
    bool (*progress)(void *ud, int64_t done, int64_t total);
    void *ud;
    Comm *
        ranks; /* that share the rows and have the same result, to the bit of one rank; NULL: this one alone */
} PerplexityOpts;

/* Every document once, packed as `data` says.  E_FAILED with the row's place when a loss is not finite. */
Status perplexity_of(Perplexity *out, Llama *m, const Dataset *d, const DataOpts *data,
                     const PerplexityOpts *opts, Err *err) MUST_CHECK;
