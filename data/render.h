/* A document between its row and its tokens: stretches of text and whole tokens, each with the mark
 * whether it is trained.
 *
 * Text that stands together is tokenised together, whatever its marks, because merges cross them; a
 * token is trained when the character at which it starts is.  What a user wrote is never searched for
 * special tokens: those are put in by id. */
#pragma once

#include "base/str.h"
#include "data/tokenizer.h"

typedef struct RenderPart {
    size_t start, end; /* text: bytes of Rendering.text */
    int32_t token;     /* >= 0: this token; else text */
    bool trained;
    bool apart; /* text: tokenised apart from the text before it */
} RenderPart;

/* Zero-initialise (rendering_reset keeps the memory); rendering_clear frees. */
typedef struct Rendering {
    StrBuf text;
    RenderPart *parts;
    int n_parts, cap_parts;
    /* Where prompt and answer share a run of text: how many tokens are prompt.  false: those that start
     * in it.  true: as many as the prompt has when tokenised alone, which is the rule of Stanford
     * Alpaca, llama-recipes and TRL (reference implementations differ where a token straddles). */
    bool prompt_counted_alone;
    bool starts_with_bos; /* the template wrote its own */
} Rendering;

void rendering_reset(Rendering *r);
void rendering_clear(Rendering *r);
void rendering_text(Rendering *r, const char *s, size_t n, bool trained);
void rendering_puts(Rendering *r, const char *s, bool trained);
void rendering_token(Rendering *r, int32_t token, bool trained);
/* The text that follows is tokenised apart from what stands before it. */
void rendering_break(Rendering *r);

/* How a tokenizer treats the start of a text; found once by trying. */
typedef struct RenderRules {
    bool prefix_after_token; /* the space that Llama 2 puts in front also follows a special token */
} RenderRules;
RenderRules render_rules(const Tokenizer *t);

/* Tokens with labels under their own token (-100: not trained). */
typedef struct TokenRow {
    int32_t *ids, *labels;
    int64_t n, cap;
} TokenRow;
void token_row_push(TokenRow *row, int32_t id, int32_t label);
void token_row_clear(TokenRow *row);

enum { UNTRAINED = -100 };

/* Appends the tokens of `r` to *out, BOS first when the tokenizer has one and the rendering does not
 * begin with it.  `scratch` is emptied and refilled. */
void render_encode(TokenRow *out, const Rendering *r, const Tokenizer *t, RenderRules rules,
                   TokenBuf *scratch);
/* The rendering as text, special tokens as they are written in the vocabulary. */
void render_print(StrBuf *out, const Rendering *r, const Tokenizer *t);
