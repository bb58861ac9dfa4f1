/* From a row's JSON to a document: which fields a format has, how its prompt is worded, what is trained.
 *
 * Errors are "field: what is wrong"; the caller puts file and line in front. */
#pragma once

#include "base/json.h"
#include "data/chat_template.h"
#include "data/loader.h"
#include "data/prompt.h"

enum { FORMAT_MAX_FIELDS = 3 };

/* A source made ready; read-only, so that all threads share it.  Borrows src and t. */
typedef struct RowFormat {
    const DataSource *src;
    const Tokenizer *t;
    int bos, eos; /* or -1 */
    RenderRules rules;
    TrainOn train_on;
    const char *const *fields;            /* the format's own names */
    const char *names[FORMAT_MAX_FIELDS]; /* as the file calls them */
    int answer;                           /* which of them is the answer, or -1 */
    bool as_chat;                         /* through a chat template */
    Chat chat;
    Prompt prompt;          /* TEMPLATE_PROMPT */
    const char *spelled[8]; /* special tokens that a text should not spell out */
    int n_spelled;
} RowFormat;

Status format_open(RowFormat *out, const DataSource *src, TrainOn train_on, const Tokenizer *t,
                   Err *err) MUST_CHECK;
void format_close(RowFormat *f);
/* Ids are below it; without a tokenizer the model's own bound is the caller's to check. */
int format_vocab_size(const Tokenizer *t);
const char *format_name(DataFormat format); /* "alpaca", ...; NULL for a number that is none */

/* Memory of one thread, reused from row to row.  Zero-initialise. */
typedef struct FormatScratch {
    Rendering r;
    TokenBuf tokens;
    StrBuf text;
    ChatMessage *messages;
    int n_messages, cap_messages;
    bool spells; /* the last row's text spells a special token, which stays text */
} FormatScratch;
void format_scratch_clear(FormatScratch *s);

/* Appends the row's tokens and labels. */
Status format_row(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out,
                  Err *err) MUST_CHECK;

/* The row as a question: tokens of all before the answer (labels -100), and in *answer (the caller frees)
 * the answer that the row has, or NULL.  s->r holds the rendering afterwards, except for `tokens` rows. */
Status format_row_prompt(const RowFormat *f, const Json *row, FormatScratch *s, TokenRow *out,
                         char **answer, Err *err) MUST_CHECK;

/* A string field; *text NULL when it is absent or null and not required.  asked: the format's name of it,
 * name: the file's. */
Status format_string(const Json *row, const char *asked, const char *name, bool required,
                     const char **text, size_t *len, Err *err) MUST_CHECK;
