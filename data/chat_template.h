/* Conversations as the models' own chat templates write them.
 *
 * Renderings of the templates that transformers carries for Llama 2, Llama 3, Llama 3.1 and ChatML
 * (Qwen 2.5); the special tokens are put in by id, the contents are plain text that can name none.
 * An assistant turn's trained stretch is what the model has to write itself: from after the header up to
 * and with the token that ends the turn. */
#pragma once

#include "data/loader.h"
#include "data/render.h"

typedef struct ChatMessage {
    const char *role; /* "system", "user", "assistant" */
    const char *text;
    size_t len;
    bool trained; /* this turn's stretch is trained (an assistant's) */
} ChatMessage;

/* A template made ready for one tokenizer. */
typedef struct Chat {
    ChatTemplate kind;
    int bos, eos;                 /* or -1 */
    int header, end_header, turn; /* ids of the template's markers, or -1 */
    char default_system
        [4096];  /* what the model's own template puts in where no message says; or "" */
    bool no_bos; /* BOS does not stand in front, though the tokenizer has one */
} Chat;

/* "llama2", "llama3", "llama3.1", "chatml", ...; NULL for a number that is none */
const char *chat_template_name(ChatTemplate kind);
/* The template that the tokenizer's own Jinja text seems to be, or TEMPLATE_DEFAULT: for messages. */
ChatTemplate chat_template_guess(const Tokenizer *t);

/* Fails when the tokenizer lacks a token that the template needs, or `kind` is no chat template. */
Status chat_open(Chat *out, ChatTemplate kind, const Tokenizer *t, Err *err) MUST_CHECK;

/* Appends the conversation to *r; all else than the trained turns is trained when `train_all` (BOS aside).
 * generation_prompt: ends with the header of the assistant's answer.  A conversation that the template
 * cannot write gives an error that names the turn: "turn 3: ...". */
Status chat_render(const Chat *c, Rendering *r, const ChatMessage *m, int n, bool train_all,
                   bool generation_prompt, Err *err) MUST_CHECK;

/* For `generate --chat`: the token ids (appended to *ids) of a conversation that the assistant is to
 * continue. */
Status chat_prompt(const Chat *c, const Tokenizer *t, const ChatMessage *m, int n, TokenBuf *ids,
                   Err *err) MUST_CHECK;
