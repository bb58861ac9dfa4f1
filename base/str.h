/* Strings and growing memory: allocation that cannot fail silently, a growing text buffer, UTF-8. */
#pragma once

#include "base/err.h"

/* As malloc and family, but give_up when memory runs out.  n == 0 gives a pointer that can be freed. */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
/* sprintf into fresh memory; the caller frees. */
char *str_format(const char *fmt, ...) PRINTF_LIKE(1, 2);

bool str_eq(const char *a, const char *b); /* NULL equals only NULL */
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);

/* The candidate closest to `word` by edit distance, or NULL when none is near enough to suggest. */
const char *str_nearest(const char *word, const char *const *candidates, int n);

/* Replaces control characters (C0, DEL, and C1 in UTF-8) in s[0..n) by '?', but for those in `keep`. */
void str_make_printable(char *s, size_t n, const char *keep);

/* A growing byte buffer, always NUL-terminated behind `len` once something was appended.
 * Zero-initialise; strbuf_clear frees. */
typedef struct StrBuf {
    char *data;
    size_t len, cap;
} StrBuf;

void strbuf_append(StrBuf *b, const char *s, size_t n);
void strbuf_puts(StrBuf *b, const char *s);
void strbuf_putc(StrBuf *b, char c);
void strbuf_printf(StrBuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void strbuf_reset(StrBuf *b); /* length 0, memory kept */
void strbuf_clear(StrBuf *b);
char *strbuf_take(StrBuf *b); /* the text (never NULL), now the caller's to free; *b is empty */

/* Decodes one scalar value at s[0..n): sets *cp and returns the bytes consumed (1..4), or 0 when the
 * bytes there are not valid UTF-8 (surrogates and overlong forms included).  n > 0. */
int utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Writes 1..4 bytes, returns how many.  cp must be a scalar value. */
int utf8_encode(uint32_t cp, char out[4]);
bool utf8_valid(const char *s, size_t n);
/* Appends s with one U+FFFD per maximal invalid subsequence, as Rust's from_utf8_lossy. */
void utf8_append_lossy(StrBuf *b, const char *s, size_t n);
