/* What the files of the tokenizer know of each other; nobody else includes it. */
#pragma once

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/decoder.h"
#include "data/normalize.h"
#include "data/pretok.h"
#include "data/tokenizer.h"
#include "data/vocab.h"

struct Tokenizer {
    char *kind;
    Vocab vocab; /* of the model; added tokens are named in it, not found */
    AddedTokens added;
    Normalizer norm;
    Pretok pre;
    Bpe bpe;
    Decoder dec;
    int bos, eos, pad;
    bool adds_bos, adds_eos;
    bool
        prefix_once; /* SentencePiece, not "legacy": the space in front only at the start of the text */
    char *chat_template;
    uint64_t hash;
};

/* What the files beside the tokenizer say: tokenizer_config.json, special_tokens_map.json,
 * chat_template.jinja.  All may be absent. */
typedef struct TokenizerConfig {
    char *path; /* of tokenizer_config.json, for messages */
    char *bos, *eos, *pad, *unk;
    int add_bos, add_eos; /* 0, 1, or -1: not said */
    bool llama_class;     /* LlamaTokenizer[Fast]: the two above decide, not the template */
    bool not_legacy;
    AddedTokens added; /* of added_tokens_decoder, not built */
    char *chat_template;
} TokenizerConfig;

Status tokenizer_config_load(TokenizerConfig *c, const char *dir, Err *err) MUST_CHECK;
void tokenizer_config_clear(TokenizerConfig *c);

/* The readers fill *t (zeroed but for bos, eos, pad = -1) from the file's bytes; on failure the caller
 * frees it. */
Status tokenizer_read_json(Tokenizer *t, const TokenizerConfig *c, const char *path,
                           const char *data, size_t len, Err *err) MUST_CHECK;
Status tokenizer_read_spm(Tokenizer *t, const TokenizerConfig *c, const char *path,
                          const uint8_t *data, size_t len, Err *err) MUST_CHECK;
Status tokenizer_read_tiktoken(Tokenizer *t, const TokenizerConfig *c, const char *path,
                               const char *data, size_t len, Err *err) MUST_CHECK;

int token_id(const Tokenizer *t, const char *content, size_t n); /* or -1 */
/* Adds a token that the model's own file lists: names its id. */
void tokenizer_put_added(Tokenizer *t, const AddedToken *token);
/* A token of an AddedToken object of JSON; `where` starts error lines ("path: added_tokens[3]"). */
struct Json;
Status added_token_parse(AddedToken *out, const struct Json *j, const char *where,
                         Err *err) MUST_CHECK;

/* The pattern of Llama 3 (and of GPT-2, where use_regex asks for it). */
extern const char LLAMA3_PATTERN[];
extern const char GPT2_PATTERN[];
