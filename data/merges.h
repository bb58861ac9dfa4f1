/* The merges of tokenizer.json, read straight from its text: 280,000 pairs in Llama 3's file, which as a
 * tree of JSON values would take longer than all else that loading does. */
#pragma once

#include "base/err.h"
#include "base/str.h"

/* The text of a list, '[' to ']'. */
typedef struct ListText {
    size_t from, to; /* bytes of the file */
    int line;        /* of '[' */
    int n_lines;     /* line breaks in it */
} ListText;

/* Finds the list model.merges.  False when there is none; what is wrong with the JSON around it is not
 * looked at. */
bool merges_find(ListText *out, const char *data, size_t len);

/* Walks the list.  Zero-initialise, set the first five, merges_next until *more is false, merges_end. */
typedef struct MergeIter {
    const char *at, *end; /* '[' at first; behind ']' */
    const char *path;
    int line;
    Err *err;
    bool inside;
    size_t n;          /* elements seen */
    struct Json *hard; /* of the last element, where it was not plain */
} MergeIter;

/* The two tokens of "a b" or ["a", "b"], until the next call.  s[0] is NULL for a "#version" line. */
Status merges_next(MergeIter *it, const char *s[2], size_t n[2], bool *more) MUST_CHECK;
void merges_end(MergeIter *it);
