/* One pass over the pattern; a class [...] is a small loop of its own. */
#include "data/onig_syntax.h"

#include <string.h>

/* Members of a class, without the brackets.  White space is Unicode's White_Space (PCRE2's \s has
 * U+180E too); a word character is Alphabetic, Mark, Decimal_Number or Connector_Punctuation, and in
 * Oniguruma, outside of [ ], Latin-1's other numbers too. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"    \
    "\\x{205F}\\x{3000}"
#define NOT_SPACES                                                                                 \
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-"         \
    "\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}"        \
    "\\x{3001}-\\x{10FFFF}"
#define WORD_IN_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD          WORD_IN_CLASS "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
#define HEX           "0-9A-Fa-f"

enum { MAX_GROUPS = 64 };

typedef struct Rewrite {
    StrBuf *out;
    const char *begin, *p, *end;
    Err *err;
    bool nocase[MAX_GROUPS]; /* of the open groups, [depth] the innermost */
    int depth;
    char last; /* the letter before, where letters match both cases */
} Rewrite;

static Status refuse(const Rewrite *r, const char *what)
{
    return err_set(r->err, E_INPUT, "the pattern has %s, which lorac cannot translate", what);
}

/* The binary properties that both know by these names, without case, spaces, - and _. */
static bool is_binary_property(const char *name)
{
    static const char *const names[] = {"alphabetic",
                                        "any",
                                        "ascii",
                                        "asciihexdigit",
                                        "cased",
                                        "caseignorable",
                                        "dash",
                                        "defaultignorablecodepoint",
                                        "diacritic",
                                        "emoji",
                                        "emojicomponent",
                                        "emojimodifier",
                                        "emojimodifierbase",
                                        "emojipresentation",
                                        "extendedpictographic",
                                        "extender",
                                        "graphemebase",
                                        "graphemeextend",
                                        "hexdigit",
                                        "idcontinue",
                                        "idstart",
                                        "ideographic",
                                        "joincontrol",
                                        "lowercase",
                                        "math",
                                        "noncharactercodepoint",
                                        "patternsyntax",
                                        "patternwhitespace",
                                        "quotationmark",
                                        "radical",
                                        "regionalindicator",
                                        "sentenceterminal",
                                        "softdotted",
                                        "terminalpunctuation",
                                        "unifiedideograph",
                                        "uppercase",
                                        "variationselector",
                                        "whitespace",
                                        "xidcontinue",
                                        "xidstart"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(names[i], name)) return true;
    return false;
}

/* \p{...}, \P{...}.  A script's name means Script_Extensions to PCRE2 and Script to Oniguruma. */
static Status copy_property(Rewrite *r)
{
    const char *from = r->p, *end = memchr(from, '}', (size_t)(r->end - from));
    char plain[64];
    size_t n = 0;
    if (r->end - from < 3 || from[2] != '{') return refuse(r, "\\p without {}");
    if (!end) return refuse(r, "an unclosed {");
    const char *name = from + 3;
    bool negated = *name == '^';
    name += negated;
    for (const char *p = name; p < end; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!letter && *p != ' ' && *p != '_' && *p != '-')
            return refuse(r, "a \\p{} whose name is not letters alone");
        if (letter && n + 1 < sizeof plain) plain[n++] = (char)(*p | 0x20);
    }
    plain[n] = '\0';
    if (n == 3 && plain[0] == 'x') return refuse(r, "a \\p{} of PCRE2's own");
    bool script = n > 2 && !is_binary_property(plain);
    strbuf_printf(r->out, "\\%c{%s%s%.*s}", from[1], negated ? "^" : "", script ? "sc:" : "",
                  (int)(end - name), name);
    r->p = end + 1;
    return OK;
}

/* \x{...}, \xHH: copied whole. */
static Status copy_braced(Rewrite *r)
{
    const char *from = r->p; /* at the backslash */
    r->p += 2;
    if (r->p < r->end && *r->p == '{') {
        while (r->p < r->end && *r->p != '}')
            r->p++;
        if (r->p == r->end) return refuse(r, "an unclosed {");
        r->p++;
    } else {
        for (int i = 0; i < 2 && r->p < r->end && *r->p && strchr("0123456789abcdefABCDEF", *r->p);
             i++)
            r->p++;
    }
    strbuf_append(r->out, from, (size_t)(r->p - from));
    return OK;
}

/* \uHHHH */
static Status copy_code_point(Rewrite *r)
{
    if (r->end - r->p < 6) return refuse(r, "an incomplete \\u");
    strbuf_printf(r->out, "\\x{%.4s}", r->p + 2);
    r->p += 6;
    return OK;
}

static Status escape(Rewrite *r, bool in_class)
{
    if (r->end - r->p < 2) return refuse(r, "a backslash at its end");
    char c = r->p[1];
    const char *members = NULL;
    bool negated = false;
    switch (c) {
    case 's':
        members = SPACES;
        break;
    case 'S':
        members = in_class ? NOT_SPACES : SPACES, negated = !in_class;
        break;
    case 'd':
        members = "\\p{Nd}";
        break;
    case 'D':
        members = "\\P{Nd}";
        break;
    case 'h':
        members = HEX;
        break;
    case 'H':
        if (in_class) return refuse(r, "\\H inside [ ]");
        members = HEX, negated = true;
        break;
    case 'w':
        members = in_class ? WORD_IN_CLASS : WORD;
        break;
    case 'W':
        if (in_class) return refuse(r, "\\W inside [ ]");
        members = WORD, negated = true;
        break;
    case 'p':
    case 'P':
        return copy_property(r);
    case 'x':
        return copy_braced(r);
    case 'u':
        return copy_code_point(r);
    case 'b':
    case 'B':
        if (in_class) return refuse(r, "\\b inside [ ]");
        strbuf_puts(r->out,
                    c == 'b' ? "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))"
                             : "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
        r->p += 2;
        return OK;
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'v':
    case 'a':
    case 'e':
    case 'A':
    case 'z':
    case 'Z':
        if (in_class && strchr("AzZ", c)) return refuse(r, "an anchor inside [ ]");
        if (c == 'v') {
            strbuf_puts(r->out, "\\x{B}"); /* PCRE2's \v is a class */
        } else {
            strbuf_append(r->out, r->p, 2);
        }
        r->p += 2;
        return OK;
    default:
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
            char what[] = "\\?";
            what[1] = c;
            return refuse(r, what);
        }
        if ((unsigned char)c >=
            0x80) { /* a needless backslash before a character of several bytes */
            r->p++;
            return OK;
        }
        strbuf_append(r->out, r->p, 2);
        r->p += 2;
        return OK;
    }
    if (in_class)
        strbuf_puts(r->out, members);
    else
        strbuf_printf(r->out, "[%s%s]", negated ? "^" : "", members);
    r->p += 2;
    return OK;
}

static Status char_class(Rewrite *r)
{
    strbuf_putc(r->out, '[');
    r->p++;
    if (r->p < r->end && *r->p == '^') strbuf_putc(r->out, *r->p++);
    if (r->p < r->end && *r->p == ']') return refuse(r, "an empty [ ]");
    while (r->p < r->end && *r->p != ']') {
        char c = *r->p;
        if (c == '\\') {
            TRY(escape(r, true));
        } else if (c == '[') {
            return refuse(r, "[ inside [ ]");
        } else if (c == '&' && r->p + 1 < r->end && r->p[1] == '&') {
            return refuse(r, "&& inside [ ]");
        } else {
            strbuf_putc(r->out, c);
            r->p++;
        }
    }
    if (r->p == r->end) return refuse(r, "an unclosed [");
    strbuf_putc(r->out, ']');
    r->p++;
    return OK;
}

static Status open_group(Rewrite *r, bool nocase)
{
    if (r->depth + 1 == MAX_GROUPS) return refuse(r, "too many groups inside each other");
    r->nocase[++r->depth] = nocase;
    return OK;
}

/* "(?...": groups, lookarounds and the i option mean the same to both. */
static Status group(Rewrite *r)
{
    static const char *const same[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    size_t left = (size_t)(r->end - r->p);
    if (r->p == r->begin && left >= 4 && memcmp(r->p, "(?i)", 4) == 0) {
        strbuf_append(r->out, r->p, 4); /* elsewhere Ruby's reaches over alternatives */
        r->p += 4;
        r->nocase[0] = true;
        return OK;
    }
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        size_t n = strlen(same[i]);
        if (left < n || memcmp(r->p, same[i], n) != 0) continue;
        strbuf_append(r->out, same[i], n);
        r->p += n;
        bool sets = same[i][2] == 'i' || same[i][2] == '-';
        return open_group(r, sets ? same[i][2] == 'i' : r->nocase[r->depth]);
    }
    if (left >= 2 && r->p[1] == '?') return refuse(r, "a group (?...) of an uncommon kind");
    if (left >= 2 && r->p[1] == '*') return refuse(r, "(*...");
    strbuf_puts(r->out, "(?:"); /* nothing here asks what a group matched */
    r->p++;
    return open_group(r, r->nocase[r->depth]);
}

/* Where case does not count, Oniguruma folds some letters into several ("ss" matches U+00DF, "fi" U+FB01)
 * and PCRE2 does not. */
static Status literal(Rewrite *r)
{
    static const char *const folds[] = {"ss", "ff", "fi", "fl", "st"};
    char c = *r->p, low = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    bool nocase = r->nocase[r->depth];
    if (nocase && (unsigned char)c >= 0x80) return refuse(r, "letters beyond ASCII under (?i)");
    for (size_t i = 0; nocase && i < sizeof folds / sizeof *folds; i++)
        if (r->last == folds[i][0] && low == folds[i][1])
            return refuse(r, "ss, ff, fi, fl or st under (?i)");
    r->last = nocase && low >= 'a' && low <= 'z' ? low : 0;
    strbuf_putc(r->out, c);
    r->p++;
    return OK;
}

/* Whether the brace that closes at r->p has one number between it and the one that opens, which is not escaped. */
static bool counts(const Rewrite *r)
{
    const char *p = r->p;
    while (p > r->begin && p[-1] >= '0' && p[-1] <= '9')
        p--;
    if (p == r->p || p == r->begin || p[-1] != '{') return false;
    int escapes = 0;
    for (p--; p > r->begin && p[-1] == '\\'; p--)
        escapes++;
    return escapes % 2 == 0;
}

Status onig_to_pcre2(StrBuf *out, const char *pattern, size_t len, Err *err)
{
    Rewrite r = {.out = out, .begin = pattern, .p = pattern, .end = pattern + len, .err = err};
    while (r.p < r.end) {
        char c = *r.p, next = r.p + 1 < r.end ? r.p[1] : 0;
        if (c == '\\' || c == '[' || c == '(') {
            r.last = 0;
            TRY(c == '\\' ? escape(&r, false) : c == '[' ? char_class(&r) : group(&r));
        } else if (c == '}' && next == '+') {
            return refuse(&r, "{n,m}+"); /* possessive to PCRE2, repeated to Ruby */
        } else if (c == '}' && next == '?' && counts(&r)) {
            return refuse(&r, "{n}?"); /* n or none to Ruby, n to PCRE2 */
        } else if (c == '{' && next == ',') {
            return refuse(&r, "{,n}"); /* {0,n} to Ruby, four characters to PCRE2 */
        } else if (c == '\0') {
            return refuse(&r, "a NUL character");
        } else {
            if (c == ')' && r.depth > 0) r.depth--;
            TRY(literal(&r));
        }
    }
    return OK;
}
