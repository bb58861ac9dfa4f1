/* Tokenised sources on disk: one file a source, named by its key, mapped when it is read.
 *
 * A file that is damaged or was made for something else is never an error: it is told, and made anew. */
#pragma once

#include "data/store.h"

/* Of the files' bytes, the settings and the tokenizer. */
typedef struct CacheKey {
    uint64_t v[2];
} CacheKey;

enum { CACHE_KEPT = 64 };

/* Fills all of *s but its files; false when there is no usable file. */
bool cache_load(TokenStore *s, const char *dir, CacheKey key, int vocab_size, Log *log);
/* Writes beside and renames.  What goes wrong is a warning.  Of all files the CACHE_KEPT that were used last stay. */
void cache_save(const TokenStore *s, const char *dir, CacheKey key, Log *log);
