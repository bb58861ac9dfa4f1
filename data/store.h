/* The tokens of one source: made from its files, or mapped from the cache.
 *
 * A row becomes a document, or several when it is split, or none when it trains on nothing and that is
 * allowed. */
#pragma once

#include "base/fs.h"
#include "data/loader.h"

/* loader.h: RowPlace, as it can be kept. */
typedef struct RowAt {
    int64_t file; /* of the source */
    int64_t line, number;
} RowAt;

typedef struct DocEntry {
    int64_t start; /* of its tokens in ids and labels */
    int64_t row;   /* of the source, from 0; a split row's documents stand together */
    RowAt at;
    uint64_t hash; /* of tokens and labels */
    int32_t n;
    int32_t n_trained; /* labels but -100, the first aside */
    int32_t piece;     /* 0: the whole row; k: the k-th piece of a split one */
    int32_t dropped;   /* tokens that were cut off the row, told at its first document */
} DocEntry;

typedef struct StoreStats {
    int64_t rows;      /* read, the untrained ones too */
    int64_t untrained; /* left out */
    RowAt first_untrained;
    int64_t empty_answers;
    int64_t spelled; /* rows whose text spells a special token */
    RowAt first_spelled;
} StoreStats;

typedef struct TokenStore {
    StoreStats stats;
    int64_t n_docs, n_tokens;
    DocEntry *docs;        /* (n_docs) */
    int32_t *ids, *labels; /* (n_tokens) */
    char **files;
    int n_files;
    bool from_cache;
    FileMap map; /* the arrays lie in it when from_cache, else they are ours */
} TokenStore;

/* Errors go to `problems`, in file order; then E_INPUT. */
Status store_open(TokenStore *out, const DataSource *src, const DataOpts *opts, const Tokenizer *t,
                  Pool *pool, Log *log, Problems *problems) MUST_CHECK;
void store_clear(TokenStore *s);

/* The files that a source's path means; the caller frees with dir_list_free. */
Status source_files(char ***files, int *n, const char *path, Err *err) MUST_CHECK;
