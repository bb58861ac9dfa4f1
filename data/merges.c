/* Strings without a backslash are taken as they stand; any other element goes through the JSON reader by
 * itself, so that the two cannot disagree. */
#include "data/merges.h"

#include "base/json.h"

#include <string.h>

/* Behind the string that starts at s (a quote), or end. */
static const char *skip_string(const char *s, const char *end)
{
    for (s++; s < end; s++) {
        if (*s == '"') return s + 1;
        if (*s == '\\') s++;
    }
    return end;
}

static const char *skip_space(const char *s, const char *end, int *line)
{
    for (; s < end && (*s == ' ' || *s == '\n' || *s == '\r' || *s == '\t'); s++)
        *line += *s == '\n';
    return s;
}

/* Whether the string at s is `name` and a key: a colon follows. */
static bool is_key(const char *s, const char *behind, const char *end, const char *name)
{
    int line = 0;
    size_t n = strlen(name);
    if ((size_t)(behind - s) != n + 2 || memcmp(s + 1, name, n) != 0) return false;
    behind = skip_space(behind, end, &line);
    return behind < end && *behind == ':';
}

/* Behind the list or object that starts at s, or NULL when it does not end. */
static const char *skip_brackets(const char *s, const char *end, int *lines)
{
    int depth = 0;
    while (s < end) {
        char c = *s;
        if (c == '"') {
            s = skip_string(s, end);
            continue;
        }
        *lines += c == '\n';
        s++;
        if (c == '[' || c == '{') depth++;
        if ((c == ']' || c == '}') && --depth == 0) return s;
    }
    return NULL;
}

bool merges_find(ListText *out, const char *data, size_t len)
{
    const char *s = data, *end = data + len;
    int depth = 0, line = 1;
    bool in_model = false; /* the last key of the outermost object */
    while (s < end) {
        char c = *s;
        if (c != '"') {
            line += c == '\n';
            depth += (c == '[' || c == '{') - (c == ']' || c == '}');
            s++;
            continue;
        }
        const char *behind = skip_string(s, end);
        int colon = line;
        const char *next = skip_space(behind, end, &colon);
        if (depth == 1 && next < end && *next == ':') in_model = is_key(s, behind, end, "model");
        if (depth == 2 && in_model && is_key(s, behind, end, "merges")) {
            line = colon;
            next = skip_space(next + 1, end, &line);
            if (next == end || *next != '[') return false;
            *out = (ListText){.from = (size_t)(next - data), .line = line};
            behind = skip_brackets(next, end, &out->n_lines);
            out->to = behind ? (size_t)(behind - data) : 0;
            return behind != NULL;
        }
        s = behind;
    }
    return false;
}

/* A string of printable characters without a backslash: its text, and *at moves behind it. */
static bool plain_string(const char **at, const char *end, const char **s, size_t *n)
{
    const char *p = *at;
    if (p == end || *p != '"') return false;
    for (*s = ++p; p < end && *p != '"'; p++)
        if (*p == '\\' || (unsigned char)*p < 0x20) return false;
    if (p == end) return false;
    *n = (size_t)(p - *s);
    *at = p + 1;
    return true;
}

static bool plain_pair(MergeIter *it, const char *s[2], size_t n[2])
{
    const char *at = it->at + 1;
    int line = it->line;
    at = skip_space(at, it->end, &line);
    if (!plain_string(&at, it->end, &s[0], &n[0])) return false;
    at = skip_space(at, it->end, &line);
    if (at == it->end || *at != ',') return false;
    at = skip_space(at + 1, it->end, &line);
    if (!plain_string(&at, it->end, &s[1], &n[1])) return false;
    at = skip_space(at, it->end, &line);
    if (at == it->end || *at != ']') return false;
    it->at = at + 1;
    it->line = line;
    return true;
}

/* "a b", with one space. */
static bool cut_line(const char *s[2], size_t n[2])
{
    if (n[0] >= 8 && memcmp(s[0], "#version", 8) == 0) {
        s[0] = NULL;
        return true;
    }
    const char *space = memchr(s[0], ' ', n[0]);
    if (!space) return false;
    s[1] = space + 1;
    n[1] = n[0] - (size_t)(s[1] - s[0]);
    n[0] = (size_t)(space - s[0]);
    return !memchr(s[1], ' ', n[1]);
}

static Status bad_element(const MergeIter *it)
{
    return err_set(it->err, E_INPUT,
                   "%s:%d: model.merges[%zu]: must be two tokens, \"a b\" or [\"a\", \"b\"]",
                   it->path, it->line, it->n);
}

/* Anything else: as JSON. */
static Status hard_element(MergeIter *it, const char *s[2], size_t n[2])
{
    const char *from = it->at, *to;
    int line = it->line;
    if (*from == '"') {
        to = skip_string(from, it->end);
    } else if (*from == '[' || *from == '{') {
        to = skip_brackets(from, it->end, &it->line);
    } else {
        return bad_element(it);
    }
    if (!to) return bad_element(it);
    TRY(json_parse(&it->hard, from, (size_t)(to - from), it->path, line, 0, it->err));
    it->at = to;
    if (json_str(it->hard, &s[0], &n[0])) return cut_line(s, n) ? OK : bad_element(it);
    bool pair = json_kind(it->hard) == JK_ARRAY && json_size(it->hard) == 2 &&
                json_str(json_at(it->hard, 0), &s[0], &n[0]) &&
                json_str(json_at(it->hard, 1), &s[1], &n[1]);
    return pair ? OK : bad_element(it);
}

Status merges_next(MergeIter *it, const char *s[2], size_t n[2], bool *more)
{
    json_free(it->hard);
    it->hard = NULL;
    char want = it->inside ? ',' : '[';
    const char *at = skip_space(it->at, it->end, &it->line);
    *more = false;
    if (it->inside && at < it->end && *at == ']') return OK;
    if (at == it->end || *at != want)
        return err_set(it->err, E_INPUT, "%s:%d: model.merges: invalid JSON: a comma is missing",
                       it->path, it->line);
    at = skip_space(at + 1, it->end, &it->line);
    if (!it->inside && at < it->end && *at == ']') return OK;
    it->n += it->inside;
    it->inside = *more = true;
    it->at = at;
    if (at == it->end) return bad_element(it);
    if (plain_string(&it->at, it->end, &s[0], &n[0])) return cut_line(s, n) ? OK : bad_element(it);
    if (*at == '[' && plain_pair(it, s, n)) return OK;
    return hard_element(it, s, n);
}

void merges_end(MergeIter *it)
{
    json_free(it->hard);
    it->hard = NULL;
}
