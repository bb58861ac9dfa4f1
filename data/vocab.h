/* The tokens of a vocabulary: content to id and id to content.  Content is what the file says ("Ġthe",
 * "▁the"), any bytes but the empty string. */
#pragma once

#include "base/err.h"
#include "base/str.h"

enum {
    VOCAB_MAX_ID = (1 << 21) - 1
}; /* a foreign file cannot make us ask for more memory than that */

typedef struct VocabPiece {
    uint32_t at; /* in the pool */
    int32_t len; /* -1: the id names no token */
} VocabPiece;

/* Of short keys; not the same in every version. */
uint32_t token_hash(const char *s, size_t n);

typedef struct VocabSlot {
    uint32_t hash;
    int32_t id; /* -1: empty */
} VocabSlot;

/* Zero-initialise; vocab_clear frees. */
typedef struct Vocab {
    StrBuf pool; /* each piece with a NUL behind it */
    VocabPiece *pieces;
    int n; /* highest id + 1 */
    int cap;
    int n_found; /* tokens that vocab_find knows */
    VocabSlot *slots;
    uint32_t n_slots; /* a power of two */
} Vocab;

void vocab_clear(Vocab *v);
void vocab_reserve(Vocab *v, size_t n); /* room for n tokens that vocab_find knows */

/* Names an id that had no name yet, and makes it findable.  False when the id or the content is
 * taken. */
bool vocab_add(Vocab *v, int id, const char *s, size_t n) MUST_CHECK;
/* Names an id without making its content findable; an id that has a name keeps it. */
void vocab_name(Vocab *v, int id, const char *s, size_t n);

int vocab_find(const Vocab *v, const char *s, size_t n); /* the id, or -1 */
/* NULL when the id names none; NUL-terminated. */
const char *vocab_piece(const Vocab *v, int id, size_t *n);
