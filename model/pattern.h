/* Patterns over module names, as adapter_config.json has them: the part of Python's regular expressions that
 * means the same without backtracking.  Matching takes time and memory linear in the pattern, whoever
 * wrote it. */
#pragma once

#include "base/err.h"

typedef struct Pattern Pattern;

/* Literals, '.', classes, groups, '|', '*', '+', '?', {m,n} (lazy forms too), ^ $ \b \d \w \s.  What is not
 * understood (look-around, back references, flags) is E_INPUT naming it. */
Status pattern_compile(Pattern **out, const char *text, Err *err) MUST_CHECK;
/* Whether all of s matches, as re.fullmatch. */
bool pattern_matches(const Pattern *p, const char *s);
void pattern_free(Pattern *p); /* NULL is fine */
