/* The flags that name a data file and how its rows are worded. */
#pragma once

#include "base/opts.h"
#include "data/loader.h"

typedef struct DataFlags {
    const char *data, *format, *chat, *prompt, *system;
    OptStrings fields;
} DataFlags;

#define DATA_FLAGS(f)                                                                              \
    {"data", OPT_STRING, &(f).data, "FILE", "rows: JSONL or a JSON array, plain or .gz"},          \
        {"format", OPT_STRING, &(f).format, "NAME",                                                \
         "alpaca, samsum, messages, sharegpt, completion, text or tokens"},                        \
        {"template", OPT_STRING, &(f).chat, "NAME",                                                \
         "how prompts are worded: default, llama2, llama3, llama3.1, chatml or raw (chats: the "   \
         "tokenizer's own, where it is one of these)"},                                            \
        {"prompt-template", OPT_STRING, &(f).prompt, "TEXT",                                       \
         "a wording of your own, with {field}s of the row"},                                       \
        {"system", OPT_STRING, &(f).system, "TEXT", "system message for chats that have none"},    \
    {                                                                                              \
        "field", OPT_STRINGS, &(f).fields, "NAME=OTHER",                                           \
            "the file calls the format's field NAME OTHER; may be given several times"             \
    }

/* Fills *out; clear it with data_source_clear. */
Status data_flags_source(DataSource *out, const DataFlags *f, const Tokenizer *t,
                         Err *err) MUST_CHECK;
void data_source_clear(DataSource *s);
/* The template that --template names, or without one the tokenizer's own; E_INPUT with the choice when that is
 * unknown. */
Status data_flags_chat(ChatTemplate *out, const char *name, const Tokenizer *t,
                       Err *err) MUST_CHECK;
/* NULL: the answer. */
Status data_flags_train_on(TrainOn *out, const char *name, Err *err) MUST_CHECK;
