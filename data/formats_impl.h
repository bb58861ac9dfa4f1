/* What formats.c, format_prompt.c, format_chat.c and format_tokens.c share. */
#pragma once

#include "data/formats.h"

/* A format's fields in the order of RowFormat.names. */
enum { ALPACA_INSTRUCTION, ALPACA_INPUT, ALPACA_OUTPUT };
enum { SAMSUM_DIALOGUE, SAMSUM_SUMMARY };
enum { CHAT_LIST, CHAT_ROLE, CHAT_CONTENT };
enum { COMPLETION_PROMPT, COMPLETION_ANSWER };
enum { TOKENS_IDS, TOKENS_LABELS };

/* --- fields: formats.c */

/* The i-th field of the format. */
Status format_field(const RowFormat *f, const Json *row, int i, bool required, const char **text,
                    size_t *len, Err *err) MUST_CHECK;
/* "name: missing; ..." with what the object has instead. */
/* Not absent, null, false, "", [] or {}, nor such a list as text. */
bool format_says_something(const Json *j);
Status format_missing(const Json *row, const char *asked, const char *name, Err *err);
/* The file's name of a field. */
const char *format_mapped(const DataSource *src, const char *name);

/* --- prompts: format_prompt.c */

/* Appends all that stands before the answer, in the source's own template. */
Status format_put_prompt(const RowFormat *f, const Json *row, Rendering *r, bool trained,
                         Err *err) MUST_CHECK;
/* A prompt and its answer as a chat: to s->messages, with the user's text in s->text. */
Status format_pair_as_chat(const RowFormat *f, const Json *row, bool answer_required,
                           FormatScratch *s, Err *err) MUST_CHECK;

/* --- conversations: format_chat.c */

/* Reads the turns of a `messages`, `sharegpt` or conversational prompt/completion row to s->messages, and
 * marks the trained ones. */
Status format_read_messages(const RowFormat *f, const Json *row, bool answer_required,
                            FormatScratch *s, Err *err) MUST_CHECK;
void format_add_message(FormatScratch *s, ChatMessage m);

/* --- tokens: format_tokens.c */

/* Appends the row as it is. */
Status format_tokens(const RowFormat *f, const Json *row, TokenRow *out, Err *err) MUST_CHECK;
/* The tokens before the first trained one; in *answer the text of the others. */
Status format_tokens_prompt(const RowFormat *f, const Json *row, TokenRow *out, char **answer,
                            Err *err) MUST_CHECK;
