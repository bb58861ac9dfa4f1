/* What the tests of data sets share: a tokenizer of single bytes, files, documents as marked text. */
#pragma once

#include "base/fs.h"
#include "data/loader.h"
#include "data/questions.h"
#include "tests/support/tmp.h"

/* Ids 0-255 are the bytes; then the special tokens below, then two merges of two bytes. */
enum {
    BYTE_BOS = 256, /* <s> */
    BYTE_EOS,       /* </s> */
    BYTE_HEADER,    /* <|start_header_id|> */
    BYTE_HEADER_END,
    BYTE_EOT,      /* <|eot_id|> */
    BYTE_IM_START, /* <|im_start|> */
    BYTE_IM_END,
    BYTE_PAD,
    BYTE_NEWLINES, /* "\n\n" */
    BYTE_COLON_A,  /* ":A" */
    BYTE_VOCAB
};

typedef enum ByteFlags {
    BYTE_NO_BOS = 1, /* has no BOS, as Qwen's */
    BYTE_QWEN = 2,   /* its chat template is one with Qwen 2.5's default system text */
    BYTE_MERGES = 4, /* uses the two merges */
} ByteFlags;

/* Written to `dir` as tokenizer.json and read by the ordinary reader. */
Tokenizer *byte_tokenizer(const char *dir, int flags);

/* Writes dir/name; the caller frees the path. */
char *put_file(const char *dir, const char *name, const char *text);
char *put_gzip(const char *dir, const char *name, const char *text);

/* A document's tokens as text with its trained stretches between « and », special tokens as written:
 * "<s>prompt«answer</s>». */
char *marked(const Tokenizer *t, const int32_t *ids, const int32_t *labels, int64_t n);

/* All documents, one a line. */
char *marked_set(const Tokenizer *t, const Dataset *d);
/* All lines of problems, with `dir/` cut out. */
char *problem_lines(const Problems *p, const char *dir);
