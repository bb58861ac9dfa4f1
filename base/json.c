/* JSON over jansson: this file is the only one that knows the library.  What jansson leaves to the
 * caller is done in a scan of the text first: depth, and integers beyond 64 bits. */
#include "base/json.h"

#include "base/fs.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 512 };

static const json_t *jan(const Json *j)
{
    return (const json_t *)(const void *)j;
}

static const Json *ours(const json_t *j)
{
    return (const Json *)(const void *)j;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

typedef struct Scan {
    int line;          /* of `at`, from 0 */
    bool too_deep;     /* the rest is set for this case */
    size_t n_big;      /* integers that do not fit in 64 bits */
    size_t *big_after; /* where each ends */
} Scan;

static bool is_big(const char *digits, size_t n, bool negative)
{
    while (n > 1 && *digits == '0')
        digits++, n--;
    const char *limit = negative ? "9223372036854775808" : "9223372036854775807";
    return n > 19 || (n == 19 && memcmp(digits, limit, 19) > 0);
}

static int count_lines(const char *text, size_t n)
{
    int lines = 0;
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines;
}

/* Walks over tokens without checking them; jansson does that. */
static Scan scan_text(const char *text, size_t len)
{
    Scan s = {0};
    int depth = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\n') {
            s.line++;
        } else if (c == '"') {
            for (i++; i < len && text[i] != '"' && text[i] != '\n'; i++)
                if (text[i] == '\\') i++;
            if (i < len && text[i] == '\n') s.line++;
        } else if (c == '[' || c == '{') {
            s.too_deep = ++depth > MAX_DEPTH;
            if (s.too_deep) break;
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (is_digit(c)) {
            size_t from = i;
            while (i + 1 < len && is_digit(text[i + 1]))
                i++;
            char after = i + 1 < len ? text[i + 1] : ' ';
            if (after == '.' || after == 'e' ||
                after == 'E') { /* a real's other digits are no integer */
                while (i + 1 < len && (is_digit(text[i + 1]) || memchr(".eE+-", text[i + 1], 5)))
                    i++;
            } else if (is_big(text + from, i + 1 - from, from > 0 && text[from - 1] == '-')) {
                s.big_after = xrealloc(s.big_after, (s.n_big + 1) * sizeof *s.big_after);
                s.big_after[s.n_big++] = i + 1;
            }
        }
    }
    return s;
}

/* The text with ".0" behind integers that jansson would refuse as too big. */
static char *with_reals(const char *text, size_t *len, const Scan *s)
{
    StrBuf b = {0};
    size_t at = 0;
    for (size_t i = 0; i < s->n_big; i++) {
        strbuf_append(&b, text + at, s->big_after[i] - at);
        strbuf_puts(&b, ".0");
        at = s->big_after[i];
    }
    strbuf_append(&b, text + at, *len - at);
    *len = b.len;
    return strbuf_take(&b);
}

Status json_parse(Json **out, const char *text, size_t len, const char *name, int first_line,
                  int flags, Err *err)
{
    if (len > JSON_MAX_BYTES)
        return err_set(err, E_INPUT, "%s: %zu bytes of JSON, at most %d are read", name, len,
                       JSON_MAX_BYTES);
    const char *nul = len ? memchr(text, '\0', len) : NULL;
    if (nul) /* allowed nowhere, but jansson takes one behind a number for the end */
        return err_set(err, E_INPUT, "%s:%d: invalid JSON: a NUL byte", name,
                       first_line + count_lines(text, (size_t)(nul - text)));
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        return err_set(err, E_INPUT,
                       "%s:%d: invalid JSON: starts with a byte order mark; save it as UTF-8 "
                       "without one",
                       name, first_line);
    Scan scan = scan_text(text, len);
    if (scan.too_deep) {
        free(scan.big_after);
        return err_set(err, E_INPUT, "%s:%d: invalid JSON: nested deeper than %d levels", name,
                       first_line + scan.line, MAX_DEPTH);
    }
    char *patched = scan.n_big ? with_reals(text, &len, &scan) : NULL;
    free(scan.big_after);

    size_t how = JSON_DECODE_ANY | JSON_ALLOW_NUL;
    if (flags & JSON_REFUSE_DUPLICATES) how |= JSON_REJECT_DUPLICATES;
    json_error_t e;
    json_t *root = json_loadb(patched ? patched : text, len, how, &e);
    free(patched);
    if (!root) {
        int line = e.line > 0 ? e.line - 1 : 0;
        return err_set(err, E_INPUT, "%s:%d: invalid JSON: %s (column %d)", name, first_line + line,
                       len ? e.text : "the text is empty", e.column);
    }
    *out = (Json *)(void *)root;
    return OK;
}

Status json_parse_file(Json **out, const char *path, Err *err)
{
    FileMap m;
    TRY(file_map(&m, path, err));
    Status s = json_parse(out, (const char *)m.data, m.len, path, 1, 0, err);
    file_unmap(&m);
    return s;
}

void json_free(Json *root)
{
    json_decref((json_t *)(void *)root);
}

JsonKind json_kind(const Json *j)
{
    if (!j) return JK_NULL;
    switch (json_typeof(jan(j))) {
    case JSON_OBJECT:
        return JK_OBJECT;
    case JSON_ARRAY:
        return JK_ARRAY;
    case JSON_STRING:
        return JK_STRING;
    case JSON_INTEGER:
        return JK_INT;
    case JSON_REAL:
        return JK_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return JK_BOOL;
    case JSON_NULL:
        break;
    }
    return JK_NULL;
}

const char *json_kind_name(const Json *j)
{
    if (!j) return "nothing";
    switch (json_kind(j)) {
    case JK_OBJECT:
        return "object";
    case JK_ARRAY:
        return "array";
    case JK_STRING:
        return "string";
    case JK_INT:
        return "integer";
    case JK_REAL:
        return "number";
    case JK_BOOL:
        return "bool";
    case JK_NULL:
        break;
    }
    return "null";
}

size_t json_size(const Json *j)
{
    if (!j) return 0;
    return json_is_object(jan(j)) ? json_object_size(jan(j)) : json_array_size(jan(j));
}

const Json *json_at(const Json *array, size_t i)
{
    return ours(json_array_get(jan(array), i));
}

const Json *json_get(const Json *object, const char *key)
{
    return ours(json_object_get(jan(object), key));
}

/* jansson's iterators want a mutable object but do not change it. */
void *json_first(const Json *object)
{
    return json_object_iter((json_t *)(uintptr_t)object);
}

void *json_next(const Json *object, void *it)
{
    return json_object_iter_next((json_t *)(uintptr_t)object, it);
}

const char *json_iter_key(void *it)
{
    return json_object_iter_key(it);
}

size_t json_iter_key_len(void *it)
{
    return json_object_iter_key_len(it);
}

const Json *json_iter_value(void *it)
{
    return ours(json_object_iter_value(it));
}

bool json_str(const Json *j, const char **out, size_t *len)
{
    if (!json_is_string(jan(j))) return false;
    *out = json_string_value(jan(j));
    if (len) *len = json_string_length(jan(j));
    return true;
}

bool json_int(const Json *j, int64_t *out)
{
    if (!json_is_integer(jan(j))) return false;
    *out = json_integer_value(jan(j));
    return true;
}

bool json_number(const Json *j, double *out)
{
    if (!json_is_number(jan(j))) return false;
    *out = json_number_value(jan(j));
    return true;
}

bool json_bool(const Json *j, bool *out)
{
    if (!json_is_boolean(jan(j))) return false;
    *out = json_is_true(jan(j));
    return true;
}

void json_write_string(StrBuf *b, const char *s, size_t n)
{
    strbuf_putc(b, '"');
    size_t plain = 0; /* start of the run that needs no escape */
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        strbuf_append(b, s + plain, i - plain);
        plain = i + 1;
        switch (c) {
        case '"':
            strbuf_puts(b, "\\\"");
            break;
        case '\\':
            strbuf_puts(b, "\\\\");
            break;
        case '\b':
            strbuf_puts(b, "\\b");
            break;
        case '\f':
            strbuf_puts(b, "\\f");
            break;
        case '\n':
            strbuf_puts(b, "\\n");
            break;
        case '\r':
            strbuf_puts(b, "\\r");
            break;
        case '\t':
            strbuf_puts(b, "\\t");
            break;
        default:
            strbuf_printf(b, "\\u%04x", c);
        }
    }
    if (plain < n) strbuf_append(b, s + plain, n - plain);
    strbuf_putc(b, '"');
}

/* The shortest of 15, 16 or 17 digits that reads back. */
void json_write_number(StrBuf *b, double v)
{
    if (!isfinite(v)) {
        strbuf_puts(b, "null");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    strbuf_puts(b, text);
    if (v == 0 && signbit(v)) strbuf_puts(b, ".0"); /* the integer -0 would lose its sign */
}

static void newline(StrBuf *b, int indent, int depth)
{
    if (!indent) return;
    strbuf_putc(b, '\n');
    for (int i = 0; i < indent * depth; i++)
        strbuf_putc(b, ' ');
}

static void write_tree(StrBuf *b, const Json *j, int indent, int depth)
{
    const char *s;
    size_t len;
    bool first = true;
    switch (json_kind(j)) {
    case JK_NULL:
        strbuf_puts(b, "null");
        break;
    case JK_BOOL:
        strbuf_puts(b, json_is_true(jan(j)) ? "true" : "false");
        break;
    case JK_INT:
        strbuf_printf(b, "%lld", (long long)json_integer_value(jan(j)));
        break;
    case JK_REAL: {
        size_t from = b->len;
        json_write_number(b, json_real_value(jan(j)));
        if (!strpbrk(b->data + from, ".e")) strbuf_puts(b, ".0"); /* stays a real */
        break;
    }
    case JK_STRING:
        json_str(j, &s, &len);
        json_write_string(b, s, len);
        break;
    case JK_ARRAY:
        strbuf_putc(b, '[');
        for (size_t i = 0; i < json_size(j); i++) {
            if (i) strbuf_putc(b, ',');
            newline(b, indent, depth + 1);
            write_tree(b, json_at(j, i), indent, depth + 1);
        }
        if (json_size(j)) newline(b, indent, depth);
        strbuf_putc(b, ']');
        break;
    case JK_OBJECT:
        strbuf_putc(b, '{');
        for (void *it = json_first(j); it; it = json_next(j, it), first = false) {
            if (!first) strbuf_putc(b, ',');
            newline(b, indent, depth + 1);
            json_write_string(b, json_iter_key(it), json_iter_key_len(it));
            strbuf_puts(b, indent ? ": " : ":");
            write_tree(b, json_iter_value(it), indent, depth + 1);
        }
        if (!first) newline(b, indent, depth);
        strbuf_putc(b, '}');
        break;
    }
}

void json_write(StrBuf *b, const Json *j, int indent)
{
    write_tree(b, j, indent, 0);
}
