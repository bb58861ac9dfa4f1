/* Allocation that cannot fail silently, small string helpers and the growing text buffer.  UTF-8 is in
 * utf8.c. */
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p) give_up("out of host memory: malloc of %zu bytes", n);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = n && size ? calloc(n, size) : calloc(1, 1);
    if (!p) give_up("out of host memory: calloc of %zu times %zu bytes", n, size);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q) give_up("out of host memory: realloc to %zu bytes", n);
    return q;
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = xmalloc(len + 1);
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

static void strbuf_vprintf(StrBuf *b, const char *fmt, va_list args)
    __attribute__((format(printf, 2, 0), nonnull(2)));

char *str_format(const char *fmt, ...)
{
    StrBuf b = {0};
    va_list args;
    va_start(args, fmt);
    strbuf_vprintf(&b, fmt, args);
    va_end(args);
    return strbuf_take(&b);
}

bool str_eq(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

void str_make_printable(char *s, size_t n, const char *keep)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool control = c < 0x20 || c == 0x7F;
        /* U+0080..U+009F, which some terminals obey as they obey ESC */
        bool c1 = c == 0xC2 && i + 1 < n && ((unsigned char)s[i + 1] & 0xE0) == 0x80;
        if (control && !(c && strchr(keep, c))) s[i] = '?';
        if (c1) s[i] = s[i + 1] = '?';
    }
}

enum { MAX_WORD = 96 };

/* Edit distance in which swapping two neighbours counts as one edit. */
static int edit_distance(const char *a, int n, const char *b, int m)
{
    int rows[3][MAX_WORD + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++)
        last[j] = before[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int d = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < d) d = last[j] + 1;
            if (now[j - 1] + 1 < d) d = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] < d)
                d = before[j - 2] + 1;
            now[j] = d;
        }
        int *free_row = before;
        before = last, last = now, now = free_row;
    }
    return last[m];
}

const char *str_nearest(const char *word, const char *const *candidates, int n)
{
    size_t len = strlen(word);
    if (len == 0 || len > MAX_WORD) return NULL;
    const char *best = NULL;
    int best_d = (int)len / 3 + 1; /* a third of the letters may be wrong, one at least */
    for (int i = 0; i < n; i++) {
        size_t m = strlen(candidates[i]);
        if (m == 0 || m > MAX_WORD) continue;
        int d = edit_distance(word, (int)len, candidates[i], (int)m);
        bool shares_nothing = d >= (int)(len > m ? len : m);
        if (shares_nothing || d > best_d || (best && d == best_d)) continue;
        best = candidates[i], best_d = d;
    }
    return best;
}

static void strbuf_reserve(StrBuf *b, size_t more)
{
    if (more >= SIZE_MAX / 2 - b->len) panic("a string of %zu + %zu bytes", b->len, more);
    size_t need = b->len + more + 1;
    if (need <= b->cap) return;
    size_t cap = b->cap ? b->cap : 32;
    while (cap < need)
        cap *= 2;
    b->data = xrealloc(b->data, cap);
    b->cap = cap;
}

void strbuf_append(StrBuf *b, const char *s, size_t n)
{
    strbuf_reserve(b, n);
    if (n) memcpy(b->data + b->len, s, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void strbuf_puts(StrBuf *b, const char *s)
{
    strbuf_append(b, s, strlen(s));
}

void strbuf_putc(StrBuf *b, char c)
{
    strbuf_append(b, &c, 1);
}

static void strbuf_vprintf(StrBuf *b, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    if (n < 0) panic("vsnprintf cannot format a text");
    strbuf_reserve(b, (size_t)n);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void strbuf_printf(StrBuf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    strbuf_vprintf(b, fmt, args);
    va_end(args);
}

void strbuf_reset(StrBuf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = '\0';
}

void strbuf_clear(StrBuf *b)
{
    free(b->data);
    *b = (StrBuf){0};
}

char *strbuf_take(StrBuf *b)
{
    char *text = b->data ? b->data : xstrdup("");
    *b = (StrBuf){0};
    return text;
}
