/* A tokenizer of single bytes with the special tokens of all templates: documents can be read at sight. */
#pragma once

#include "data/tokenizer.h"

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

/* Written to `dir`/tokenizer and read by the ordinary reader. */
Status byte_tokenizer_make(Tokenizer **out, const char *dir, int flags, Err *err) MUST_CHECK;
