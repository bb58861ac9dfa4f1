/* Text with the places it came from, and the two character classes that a tokenizer needs by itself. */
#include "data/mapped_text.h"

#include <stdlib.h>
#include <string.h>

void mapped_text_reset(MappedText *t)
{
    strbuf_reset(&t->s);
}

void mapped_text_clear(MappedText *t)
{
    strbuf_clear(&t->s);
    free(t->from);
    *t = (MappedText){0};
}

static int32_t *room_for(MappedText *t, size_t n)
{
    size_t need = t->s.len + n;
    if (need > t->cap) {
        size_t cap = t->cap ? t->cap : 256;
        while (cap < need)
            cap *= 2;
        t->from = xrealloc(t->from, cap * sizeof *t->from);
        t->cap = cap;
    }
    return t->from + t->s.len;
}

void mapped_text_append(MappedText *t, const char *s, size_t n, int32_t from)
{
    if (!n) return;
    int32_t *to = room_for(t, n);
    for (size_t i = 0; i < n; i++)
        to[i] = from;
    strbuf_append(&t->s, s, n);
}

void mapped_text_copy(MappedText *t, const TextView *v, size_t a, size_t b)
{
    if (a == b) return;
    int32_t *to = room_for(t, b - a);
    if (v->from) {
        memcpy(to, v->from + a, (b - a) * sizeof *to);
    } else {
        int32_t from = 0;
        for (size_t i = a; i < b; i++) {
            if (i == a || is_char_start(v->s[i])) from = view_from(v, i);
            *to++ = from;
        }
    }
    strbuf_append(&t->s, v->s + a, b - a);
}

TextView mapped_text_view(const MappedText *t)
{
    return (TextView){t->s.data ? t->s.data : "", t->s.len, t->from, 0};
}

TextView view_slice(const TextView *v, size_t a, size_t b)
{
    return (TextView){v->s + a, b - a, v->from ? v->from + a : NULL, v->base + (int32_t)a};
}

int32_t view_from(const TextView *v, size_t i)
{
    if (v->from) return i < v->n ? v->from[i] : v->n ? v->from[v->n - 1] : 0;
    while (i > 0 && i < v->n && !is_char_start(v->s[i]))
        i--;
    return v->base + (int32_t)i;
}

bool is_white_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 0x09 && cp <= 0x0D);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

char *bytes_dup(const char *s, size_t n)
{
    char *d = xmalloc(n + 1);
    if (n) memcpy(d, s, n);
    d[n] = '\0';
    return d;
}

const char *bytes_find(const char *s, size_t n, const char *what, size_t m)
{
    for (const char *at; n >= m && (at = memchr(s, what[0], n - m + 1)); s = at + 1) {
        if (memcmp(at, what, m) == 0) return at;
        n -= (size_t)(at + 1 - s);
    }
    return NULL;
}

size_t utf8_cut_tail(const char *s, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = (unsigned char)s[n - k];
        if ((c & 0xC0) == 0x80) continue;
        size_t need = c >= 0xF0 && c <= 0xF4  ? 4
                      : c >= 0xE0 && c < 0xF0 ? 3
                      : c >= 0xC2 && c < 0xE0 ? 2
                                              : 1;
        if (need <= k) return 0;
        if (k == 1) return 1;
        unsigned char second = (unsigned char)s[n - k + 1];
        unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        return second >= low && second <= high ? k : 0;
    }
    return 0;
}

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
           (byte >= 0xAE && byte <= 0xFF);
}

uint32_t byte_to_alphabet(uint8_t byte)
{
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;           /* 33 of them */
    if (byte <= 0xA0) return 0x121u + (byte - 0x7Fu); /* 34 */
    return 0x143;                                     /* the soft hyphen */
}

int alphabet_to_byte(uint32_t cp)
{
    if (cp < 0x100) return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}
