/* From tokens back to text: the decoder of tokenizer.json as a list of steps that a token's text goes
 * through, or the rules of the other formats.  decode.c runs it, for a whole sequence and for a stream. */
#pragma once

#include "base/str.h"

typedef enum DecodeKind {
    DECODE_STEPS,
    DECODE_BYTE_LEVEL, /* GPT-2's alphabet back to bytes */
    DECODE_SPM,        /* SentencePiece */
    DECODE_SPACED,     /* no decoder: tokens with a space between */
} DecodeKind;

typedef enum DecodeStepKind {
    DEC_REPLACE,       /* `from` by `to` */
    DEC_BYTE_FALLBACK, /* <0xXX> to bytes; a run that is not UTF-8 becomes one U+FFFD a byte */
    DEC_FUSE,          /* from here on all tokens are one */
    DEC_STRIP,         /* up to n leading `from` */
    DEC_METASPACE,     /* `from` by " ", dropped in the first token where n is not 0 */
} DecodeStepKind;

typedef struct DecodeStep {
    DecodeStepKind kind;
    char *from, *to;
    size_t n_from, n_to;
    int64_t n;
    bool fused; /* STRIP: stands behind FUSE */
} DecodeStep;

/* Zero-initialise; decoder_clear frees. */
typedef struct Decoder {
    DecodeKind kind;
    DecodeStep *steps;
    int n;
    int byte_step; /* of BYTE_FALLBACK, or -1 */
    /* SPM */
    bool dummy_prefix, remove_extra;
    int32_t *bytes; /* by id: the byte that a piece stands for, or -1 */
    int n_bytes;
} Decoder;

DecodeStep *decoder_add(Decoder *d, DecodeStepKind kind);
void decoder_clear(Decoder *d);
