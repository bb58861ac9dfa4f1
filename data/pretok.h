/* Pre-tokenization: cuts normalized text into the words that byte pair encoding works on. */
#pragma once

#include "data/mapped_text.h"
#include "data/pretok_regex.h"

typedef enum PreKind {
    PRE_SPLIT,      /* at the matches of a pattern */
    PRE_BYTE_LEVEL, /* GPT-2: maybe a space in front, maybe its pattern; the last step */
    PRE_METASPACE,  /* "▁" for " ", maybe one in front, maybe a cut before each */
    PRE_DIGITS,     /* numbers apart, or each digit */
} PreKind;

typedef enum SplitBehavior {
    SPLIT_ISOLATED,   /* a match is a word of its own */
    SPLIT_REMOVED,    /* matches are dropped */
    SPLIT_WITH_PREV,  /* a match belongs to what stands before it */
    SPLIT_WITH_NEXT,  /* ... behind it */
    SPLIT_CONTIGUOUS, /* matches in a row are one word */
} SplitBehavior;

typedef enum PrependScheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } PrependScheme;

typedef struct PreStep {
    PreKind kind;
    Regex *regex; /* SPLIT, BYTE_LEVEL (NULL: does not cut), METASPACE (never), DIGITS */
    SplitBehavior behavior;
    bool invert;
    PrependScheme scheme; /* BYTE_LEVEL: ALWAYS or NEVER */
    char space[5];        /* METASPACE: one character */
    bool split;           /* METASPACE */
} PreStep;

/* Zero-initialise; pretok_clear frees. */
typedef struct Pretok {
    PreStep *steps;
    int n;
} Pretok;

PreStep *pretok_add(Pretok *p, PreKind kind);
void pretok_clear(Pretok *p);

typedef struct Span {
    int32_t a, b; /* bytes [a, b) */
} Span;

typedef struct Spans {
    Span *items;
    int n, cap;
} Spans;
void spans_push(Spans *s, size_t a, size_t b); /* an empty span is not kept */
void spans_clear(Spans *s);

/* What one call works in; zero-initialise, pretok_work_clear frees. */
typedef struct PretokWork {
    Spans spans[2];
    struct Segment {
        Span span;
        bool match;
    } * segments;
    size_t cap_segments;
    MappedText bufs[2];
    RegexScratch *regex; /* the caller's */
} PretokWork;
void pretok_work_clear(PretokWork *w);

/* The words of *v, which may become a text in w's buffers.  no_prefix leaves out the space in front.  begins: the input offset
 * at which *v begins, which its first character need not have: normalisation puts marks in order. */
const Spans *pretok_run(const Pretok *p, TextView *v, PretokWork *w, bool no_prefix,
                        int32_t begins);
