/* Byte pair encoding: a word's symbols are merged in pairs, the pair of lowest rank first, the leftmost of
 * equals, until no adjacent pair has a rank.  One engine for the three kinds of file, whose readers
 * bring their vocabularies into the form of a table of pairs. */
#pragma once

#include "data/mapped_text.h"
#include "data/pretok.h"
#include "data/tokenizer.h"
#include "data/vocab.h"

typedef struct PairSlot {
    uint64_t key; /* left id << 32 | right id; all ones: empty */
    int32_t rank;
    int32_t id; /* of the two together */
} PairSlot;

/* Zero-initialise, fill, bpe_finish; bpe_clear frees.  Read-only from then on. */
typedef struct Bpe {
    const Vocab *vocab;
    bool byte_level;    /* symbols are bytes, written in GPT-2's alphabet; else characters */
    bool byte_fallback; /* a character that is no token becomes its bytes' tokens <0xXX> */
    bool bytes_last;    /* ... after the merges (SentencePiece), so that they are not merged */
    bool fuse_unk;      /* unknown characters in a row are one unk */
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
    int unk_id;         /* -1: unknown characters vanish */

    PairSlot *pairs;
    uint32_t n_slots, n_pairs;
    int32_t n_merges; /* of tokenizer.json: the next one's rank */
    /* SentencePiece looks up the text of a pair, so a character that is no piece can still be part
     * of one.  Such characters have ids from n_model up, which are never put out. */
    Vocab loose;
    int n_model; /* highest id of the model's own tokens + 1; 0: set by bpe_finish */
    uint8_t
        *unused; /* SentencePiece: pieces that are taken apart again, by id; NULL: there are none */

    /* Set by bpe_finish. */
    int32_t byte_ids[256]; /* <0xXX>, or -1 */
    int32_t unit_ids[256]; /* byte level: of each byte's character; else of ASCII; -1: no token */
    size_t longest;        /* bytes of the longest token */
    bool cut_at_space;     /* no token has "▁" behind another character: words may be cut there */
} Bpe;

void bpe_reserve(Bpe *b, size_t n_pairs);
void bpe_add_pair(Bpe *b, int left, int right, int rank, int id); /* a later rank replaces */
/* For vocabularies that rank tokens and not pairs: every way to make token `id` of two symbols that
 * exist.  Characters of SentencePiece pieces must be in `loose` before. */
void bpe_add_splits(Bpe *b, int id, int rank);
void bpe_finish(Bpe *b);
void bpe_clear(Bpe *b);

/* What one thread works in, with a cache of words.  owner: changes when the tokenizer does. */
typedef struct BpeScratch BpeScratch;
BpeScratch *bpe_scratch_new(void);
void bpe_scratch_free(BpeScratch *s);
void bpe_scratch_forget(BpeScratch *s); /* another tokenizer from now on */

/* Appends the ids of one word, bytes [word.a, word.b) of v. */
void bpe_encode(const Bpe *b, BpeScratch *s, const TextView *v, Span word, TokenBuf *out);
