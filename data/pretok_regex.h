/* Regular expressions as tokenizer.json writes them: Oniguruma's Ruby syntax, searched as the
 * `tokenizers` library searches.  PCRE2's only home in the tree. */
#pragma once

#include "base/err.h"

typedef struct Regex Regex;               /* read-only after regex_new */
typedef struct RegexScratch RegexScratch; /* one per thread */

/* err gets what is wrong with the pattern, without file and key. */
Status regex_new(Regex **out, const char *pattern, size_t len, Err *err) MUST_CHECK;
void regex_free(Regex *re);

RegexScratch *regex_scratch_new(void);
void regex_scratch_free(RegexScratch *s);

/* Walks the matches in s[0..n), valid UTF-8.  Zero-initialise.  An empty match directly behind the last
 * match does not count.  A pattern that backtracks without end has no further match. */
typedef struct RegexIter {
    size_t pos;
    bool any; /* a match was found before, and ended at last_end */
    size_t last_end;
} RegexIter;
bool regex_next(RegexIter *it, const Regex *re, RegexScratch *scratch, const char *s, size_t n,
                size_t *start, size_t *end);
