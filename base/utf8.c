/* UTF-8 by table 3-7 of the Unicode standard: which bytes may follow which. */
#include "base/str.h"

/* The length of the scalar value at s[0..n), or, when the bytes are ill-formed, minus the length of the
 * maximal subpart: the longest start of some well-formed sequence, at least one byte. */
static int decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char c = u[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    int len = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    if (c < 0xC2 || c > 0xF4) return -1;
    /* Only the second byte's range depends on the first: no overlong forms, no surrogates, no value
     * above U+10FFFF. */
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    uint32_t v = c & (0x7Fu >> len);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || u[i] < low || u[i] > high) return -i;
        v = v << 6 | (u[i] & 0x3Fu);
        low = 0x80, high = 0xBF;
    }
    *cp = v;
    return len;
}

int utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    int len = decode(s, n, cp);
    return len > 0 ? len : 0;
}

int utf8_encode(uint32_t cp, char out[4])
{
    ASSERT(cp < 0xD800 || (cp > 0xDFFF && cp <= 0x10FFFF), "U+%04X is no scalar value", cp);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3F));
        cp >>= 6;
    }
    out[0] = (char)((0xF00u >> len & 0xFF) | cp);
    return len;
}

bool utf8_valid(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int len = decode(s + i, n - i, &cp);
        if (len < 0) return false;
        i += (size_t)len;
    }
    return true;
}

void utf8_append_lossy(StrBuf *b, const char *s, size_t n)
{
    uint32_t cp;
    size_t good = 0; /* start of the valid run that is not yet appended */
    for (size_t i = 0; i < n;) {
        int len = decode(s + i, n - i, &cp);
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        strbuf_append(b, s + good, i - good);
        strbuf_append(b, "\xEF\xBF\xBD", 3);
        i += (size_t)-len;
        good = i;
    }
    if (good < n) strbuf_append(b, s + good, n - good);
}
