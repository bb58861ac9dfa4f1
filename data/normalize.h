/* The normalizer of a tokenizer: what is done to the text before it is cut into words. */
#pragma once

#include "data/mapped_text.h"
#include "data/pretok_regex.h"

typedef enum NormKind {
    NORM_PREPEND, /* `to` in front of a text that is not empty */
    NORM_REPLACE, /* every match by `to` */
    NORM_NFC,     /* Unicode's canonical composition */
    NORM_SPM,     /* SentencePiece: dummy prefix, extra white space, "▁" for " " */
} NormKind;

typedef struct NormStep {
    NormKind kind;
    Regex *regex; /* REPLACE: or NULL, and then `from` is literal and not empty */
    char *from;
    size_t n_from;
    char *to;
    size_t n_to;
    bool dummy_prefix, remove_extra, escape; /* SPM */
} NormStep;

/* Zero-initialise; normalizer_clear frees. */
typedef struct Normalizer {
    NormStep *steps;
    int n;
} Normalizer;

NormStep *normalizer_add(Normalizer *z, NormKind kind);
void normalizer_clear(Normalizer *z);

/* *v becomes the normalized text, in one of the two buffers unless nothing changed.  no_prefix leaves
 * out PREPEND and the dummy prefix. */
void normalizer_run(const Normalizer *z, TextView *v, MappedText bufs[2], RegexScratch *scratch,
                    bool no_prefix);

/* nfc.c.  False when the text is in NFC already; else appends its NFC.  A composed character comes
 * from where its first part does. */
bool nfc_append(MappedText *out, const TextView *v);
