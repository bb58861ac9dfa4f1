/* The order of one epoch: which documents, in which rows.  A pure function of (data, options, seed, epoch). */
#pragma once

#include "data/dataset.h"

/* A document's use in an epoch; copy: the how-manieth, where its source's weight is above 1. */
typedef struct DocUse {
    int64_t doc;
    int64_t copy;
} DocUse;

typedef struct Epoch {
    int64_t number; /* -1: empty */
    int64_t n_uses, n_rows;
    DocUse *uses;       /* (n_uses) in the order of the rows */
    int64_t *row_uses;  /* (n_rows + 1) first use of each row; PACK_CONCAT: NULL */
    int64_t *use_start; /* PACK_CONCAT: (n_uses + 1) where each begins in the one long text */
    int64_t n_text;     /* tokens of all uses */
    /* Per row. */
    int64_t *tokens, *trained, *docs; /* (n_rows + 1) sums of all rows before */
    int64_t *longest;                 /* (n_rows) longest document */
} Epoch;

void epoch_make(Epoch *e, const Dataset *d, Packing packing, int64_t max_length, bool shuffle,
                uint64_t seed, int64_t number);
void epoch_clear(Epoch *e);
