/* Oniguruma's (Ruby) regular expressions rewritten for PCRE2, for the part of the language that
 * tokenizers use.  Where the two read the same text differently (\s, \w, \d, \h, ^, $, nested
 * classes, {n,m}+) the pattern is spelled out or refused, never passed on.  \p{...} is PCRE2's own and as
 * new as it: 10.42 knows Unicode 14, so characters of later versions are neither letters nor numbers. */
#pragma once

#include "base/err.h"
#include "base/str.h"

/* Appends the PCRE2 pattern, which is meant for UTF, UCP and MULTILINE with LF as the newline.  The
 * error line says what is not supported. */
Status onig_to_pcre2(StrBuf *out, const char *pattern, size_t len, Err *err) MUST_CHECK;
