/* Text to token ids and back, exactly as the model's own tokenizer does it.
 *
 * Reads tokenizer.json (byte-level BPE of Llama 3 and Qwen; BPE with byte fallback of Llama 2, TinyLlama,
 * Mistral), SentencePiece tokenizer.model (BPE) and tiktoken rank files; what cannot be done exactly
 * (Unigram, WordPiece, unknown normalizers) is refused by name.  A Tokenizer is read-only after loading
 * and may be used by several threads at once, each with its own TokenBuf. */
#pragma once

#include "base/err.h"
#include "base/str.h"

typedef struct Tokenizer Tokenizer;

/* `path`: a folder (tokenizer.json, else tokenizer.model; tokenizer_config.json and
 * special_tokens_map.json beside it are read) or one of those files. */
Status tokenizer_load(Tokenizer **out, const char *path, Err *err) MUST_CHECK;
/* From a file's bytes, with nothing beside it; `name` stands for its path ("x.json": tokenizer.json). */
Status tokenizer_load_bytes(Tokenizer **out, const char *name, const void *data, size_t len,
                            Err *err) MUST_CHECK;
void tokenizer_free(Tokenizer *t);

int tokenizer_vocab_size(const Tokenizer *t); /* highest id + 1, added tokens included */
uint64_t tokenizer_hash(
    const Tokenizer *t); /* of everything that decides ids: part of cache keys */
const char *tokenizer_kind(
    const Tokenizer *t); /* "byte-level BPE", "SentencePiece BPE", "tiktoken" */

/* -1 where the tokenizer has none. */
int tokenizer_bos(const Tokenizer *t);
int tokenizer_eos(const Tokenizer *t);
int tokenizer_pad(const Tokenizer *t);
/* Whether the tokenizer itself puts BOS before / EOS after a text (its post-processor, or
 * add_bos_token, add_eos_token of tokenizer_config.json). */
bool tokenizer_adds_bos(const Tokenizer *t);
bool tokenizer_adds_eos(const Tokenizer *t);
/* The id of a token by its exact content ("<|eot_id|>", "▁the"), or -1. */
int tokenizer_id(const Tokenizer *t, const char *content);
/* How a token is written in the vocabulary; NULL when the id names none. */
const char *tokenizer_piece(const Tokenizer *t, int id);
bool tokenizer_is_special(const Tokenizer *t, int id);
/* The chat template of tokenizer_config.json or chat_template.jinja (Jinja text), or NULL. */
const char *tokenizer_chat_template(const Tokenizer *t);

/* Ids with, for each, the byte offset in the input at which its text starts (a token that is part of a
 * character, or a prefix that the tokenizer inserted, starts where that character does).  Grows;
 * zero-initialise; tokenbuf_clear frees.  Use one again (n = 0) rather than a new one for each text: it
 * keeps what encoding works in, a cache of words among it. */
typedef struct TokenBuf {
    int32_t *ids;
    int32_t *starts;
    int64_t n, cap;
    struct EncodeScratch *scratch; /* the tokenizer's, NULL until it is first needed */
} TokenBuf;
void tokenbuf_push(TokenBuf *b, int32_t id, int32_t start);
void tokenbuf_clear(TokenBuf *b);

typedef enum EncodeFlags {
    ENCODE_SPECIALS =
        1, /* special tokens written in the text ("<s>") become their ids; without it they
                           * are ordinary text (what a user typed can then inject nothing) */
    ENCODE_NO_PREFIX = 2, /* leave out the space that Llama 2's tokenizer puts in front of the text
                           * (not those behind special tokens in it): the text goes on another */
} EncodeFlags;

#define TOKENIZER_MAX_TEXT (((size_t)1 << 30) - 1) /* bytes */
/* Appends the ids of text[0..len), TOKENIZER_MAX_TEXT at most; adds neither BOS nor EOS.  Invalid UTF-8 is first made
 * valid (U+FFFD).  Added tokens that are not special ("<think>") are found with any flags. */
void tokenizer_encode(const Tokenizer *t, TokenBuf *out, const char *text, size_t len, int flags);

/* Appends the text of ids[0..n), valid UTF-8.  skip_special leaves special tokens out; ids that name no
 * token are left out always.  Decoding what was encoded gives the text back, but for what the
 * tokenizer's own rules lose: its normalizer's changes (NFC), one space at the very front where it
 * strips the one it inserted, white space that an added token's lstrip or rstrip took, characters
 * that became <unk>. */
void tokenizer_decode(const Tokenizer *t, StrBuf *out, const int32_t *ids, int64_t n,
                      bool skip_special);

/* Decoding piece by piece for streaming: bytes that do not yet make a character are held back.  The
 * concatenation of all pieces equals tokenizer_decode of the whole.  Zero-initialise, then finish with
 * decode_stream_end. */
typedef struct DecodeStream {
    StrBuf held;
    int64_t n_done;     /* tokens seen, but for those left out */
    int64_t n_stripped; /* leading spaces taken off */
    bool begun;         /* something was put out: leading spaces stay from now on */
} DecodeStream;
void decode_stream_push(DecodeStream *s, const Tokenizer *t, StrBuf *out, int32_t id,
                        bool skip_special);
void decode_stream_end(DecodeStream *s, const Tokenizer *t, StrBuf *out);
