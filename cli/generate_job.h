/* `lorac generate`: what its three ways (one text, a chat, rows of a file) share. */
#pragma once

#include "cli/command.h"
#include "cli/data_flags.h"
#include "cli/gen_flags.h"
#include "cli/model_open.h"

typedef struct GenerateJob {
    ModelFlags model;
    GenFlags gen;
    DataFlags data;
    const char *prompt, *prompt_file, *chat; /* at most one of these and data.data */
    const char *out, *out_field;
    int64_t limit;
    bool specials, no_bos;

    Log log;
    Problems problems; /* of the rows */
    LlamaConfig cfg;
    Tokenizer *t;
    GenerateOpts opts;
    OpenModel open;
} GenerateJob;

/* Opens the model for prompts of at most `longest` tokens. */
Status generate_job_open(GenerateJob *job, int64_t longest, Err *err) MUST_CHECK;
/* Generates for one prompt and writes the text to stdout as it comes; `said` (or NULL) collects it. */
Status generate_job_stream(GenerateJob *job, const TokenBuf *ids, bool continues, StrBuf *said,
                           Err *err) MUST_CHECK;

/* After model_read_config and gen_flags_apply. */
Status generate_text(GenerateJob *job, Err *err) MUST_CHECK;
Status generate_chat(GenerateJob *job, Err *err) MUST_CHECK;
Status generate_rows(GenerateJob *job, Err *err) MUST_CHECK;
