/* Cuts a stream of bytes into the JSON values of an array or of lines.  It counts brackets and skips
 * strings; it does not judge what lies between them. */
#include "data/jsonl.h"

#include "base/str.h"
#include "data/gzline.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 17 };
/* A longer row is a file with a broken quote or bracket, not a row. */
static const size_t MAX_ROW = (size_t)1 << 26;

struct RowReader {
    ByteSource *in;
    char *path;
    char buf[CHUNK];
    size_t n, at;  /* buf[at..n) is not yet used */
    int64_t line;  /* of buf[at] */
    int64_t ended; /* the line of the array's bracket, or of the end of its row before */
    bool array, done;
    int64_t n_rows, number;
    StrBuf row;
};

/* Makes sure that buf[at] is there; *end says that the file has ended. */
static Status more(RowReader *r, bool *end, Err *err)
{
    *end = false;
    if (r->at < r->n) return OK;
    r->at = 0;
    r->n = 0;
    TRY(source_read(r->in, r->buf, CHUNK, &r->n, err));
    *end = r->n == 0;
    return OK;
}

/* `row` where its number must be told: the array's bracket or the row before ends on this line. */
static int64_t number_here(const RowReader *r, int64_t row)
{
    return r->line == r->ended ? row : 0;
}

/* Steps over white space.  *c is the next character, or -1 at the end.  No end of it is none that is read. */
static Status skip_space(RowReader *r, int *c, Err *err)
{
    for (size_t n = 0; n <= MAX_ROW; n++) {
        bool end;
        TRY(more(r, &end, err));
        if (end) {
            *c = -1;
            return OK;
        }
        char b = r->buf[r->at];
        if (b != ' ' && b != '\t' && b != '\n' && b != '\r') {
            *c = (unsigned char)b;
            return OK;
        }
        if (b == '\n') r->line++;
        r->at++;
    }
    r->done = true;
    return row_error(err,
                     err_set(err, E_INPUT, "%s:%lld: more than 64 MiB of white space before a row",
                             r->path, (long long)r->line),
                     r->path, number_here(r, r->n_rows + 1));
}

/* A character as a message may show it. */
static const char *shown(int c, char out[8])
{
    if (c < 0) return "the end of the file";
    if (c > 0x20 && c < 0x7f) {
        out[0] = '\'', out[1] = (char)c, out[2] = '\'', out[3] = 0;
    } else {
        out[0] = '0', out[1] = 'x', out[2] = "0123456789abcdef"[c >> 4 & 15];
        out[3] = "0123456789abcdef"[c & 15], out[4] = 0;
    }
    return out;
}

/* row: the one that this is about, or 0. */
static Status bad(RowReader *r, int64_t row, Err *err, const char *what, int c)
{
    char s[8];
    r->done = true;
    return row_error(err,
                     err_set(err, E_INPUT, "%s:%lld: %s, found %s", r->path, (long long)r->line,
                             what, shown(c, s)),
                     r->path, number_here(r, row));
}

/* The first bytes decide: array, lines, or something that we do not read. */
static Status start(RowReader *r, Err *err)
{
    bool end;
    TRY(more(r, &end, err));
    size_t left = r->n - r->at;
    if (left >= 3 && memcmp(r->buf, "\xEF\xBB\xBF", 3) == 0) r->at += 3;
    if (left >= 2 && (memcmp(r->buf, "\xFF\xFE", 2) == 0 || memcmp(r->buf, "\xFE\xFF", 2) == 0))
        return err_set(err, E_INPUT, "%s: is UTF-16 text; write it as UTF-8", r->path);
    if (left >= 4 && memcmp(r->buf, "PAR1", 4) == 0)
        return err_set(err, E_INPUT, "%s: is a Parquet file; write it as JSON or JSONL", r->path);
    int c;
    TRY(skip_space(r, &c, err));
    if (c == -1) return err_set(err, E_INPUT, "%s: is empty: no rows", r->path);
    if (c != '[' && c != '{')
        return bad(r, 0, err, "expected a JSON array of objects, or one object a line", c);
    if (c == '[') {
        r->array = true;
        r->ended = r->line;
        r->at++;
    }
    return OK;
}

Status rows_open(RowReader **out, const char *path, Err *err)
{
    ByteSource *in;
    TRY(source_open(&in, path, err));
    RowReader *r = xmalloc(sizeof *r);
    memset(r, 0, sizeof *r);
    r->in = in;
    r->path = xstrdup(path);
    r->line = 1;
    Status s = start(r, err);
    if (s != OK) {
        rows_close(r);
        return s;
    }
    *out = r;
    return OK;
}

void rows_close(RowReader *r)
{
    if (!r) return;
    source_close(r->in);
    strbuf_clear(&r->row);
    free(r->path);
    free(r);
}

bool rows_are_array(const RowReader *r)
{
    return r->array;
}

int64_t rows_number(const RowReader *r)
{
    return r->number;
}

Status row_error(Err *err, Status s, const char *file, int64_t number)
{
    const size_t n = strlen(file);
    if (!err || number == 0 || strncmp(err->line, file, n) != 0 || err->line[n] != ':') return s;
    const size_t digits = strspn(err->line + n + 1, "0123456789");
    const char *rest = err->line + n + 1 + digits;
    if (digits == 0 || strncmp(rest, ": ", 2) != 0) return s;
    return err_set(err, s, "%.*s: row %lld%s", (int)(rest - err->line), err->line,
                   (long long)number, rest);
}

char *row_name(const RowPlace *at)
{
    if (at->number == 0) return str_format("%s:%lld", at->file, (long long)at->line);
    return str_format("%s:%lld: row %lld", at->file, (long long)at->line, (long long)at->number);
}

static Status too_long(RowReader *r, int64_t line, Err *err)
{
    r->done = true;
    return err_set(err, E_INPUT,
                   "%s:%lld: the row that starts here is longer than 64 MiB: is a quote or a "
                   "bracket missing?",
                   r->path, (long long)line);
}

/* Copies one line, without its end, to r->row. */
static Status take_line(RowReader *r, Err *err)
{
    int64_t line = r->line;
    for (;;) {
        bool end;
        TRY(more(r, &end, err));
        if (end) return OK;
        const char *from = r->buf + r->at;
        const char *nl = memchr(from, '\n', r->n - r->at);
        size_t n = nl ? (size_t)(nl - from) : r->n - r->at;
        if (r->row.len + n > MAX_ROW) return too_long(r, line, err);
        strbuf_append(&r->row, from, n);
        r->at += n;
        if (nl) return OK; /* the line end is counted by the next skip_space */
    }
}

/* Copies one element of an array to r->row: up to the bracket that closes it, or for a bare value up to
 * the comma or bracket behind it. */
static Status take_element(RowReader *r, Err *err)
{
    int64_t line = r->line;
    int64_t depth = 0;
    bool in_string = false, escaped = false;
    for (;;) {
        bool end;
        TRY(more(r, &end, err));
        if (end) {
            r->done = true;
            return err_set(err, E_INPUT,
                           "%s:%lld: the file ends inside the row that starts here: it was cut "
                           "off, or a quote or bracket is missing",
                           r->path, (long long)line);
        }
        size_t i = r->at;
        bool whole = false;
        for (; i < r->n && !whole; i++) {
            char c = r->buf[i];
            if (c == '\n') r->line++;
            if (in_string) {
                if (escaped) {
                    escaped = false;
                } else if (c == '\\') {
                    escaped = true;
                } else if (c == '"') {
                    in_string = false;
                    whole = depth == 0;
                }
            } else if (c == '"') {
                in_string = true;
            } else if (c == '{' || c == '[') {
                depth++;
            } else if (depth == 0 && (c == ',' || c == ']' || c == '}' || c == '\n')) {
                if (c == '\n') r->line--; /* not taken: skip_space sees it again */
                break;
            } else if (c == '}' || c == ']') {
                whole = --depth == 0;
            }
        }
        if (r->row.len + (i - r->at) > MAX_ROW) return too_long(r, line, err);
        bool stopped = i < r->n; /* at what ends a bare value */
        strbuf_append(&r->row, r->buf + r->at, i - r->at);
        r->at = i;
        if (whole || stopped) return OK;
    }
}

static Status next_in_array(RowReader *r, int64_t *line, Err *err)
{
    int c;
    TRY(skip_space(r, &c, err));
    if (c == -1)
        return bad(r, r->n_rows, err, "the array's closing ']' is missing: the file was cut off",
                   c);
    if (c == ']' && r->n_rows == 0) {
        r->at++;
        r->done = true;
    } else if (r->n_rows > 0) {
        if (c != ',' && c != ']')
            return bad(r, r->n_rows, err, "expected ',' or ']' after a row", c);
        r->at++;
        r->done = c == ']';
        TRY(skip_space(r, &c, err));
    }
    if (r->done) {
        TRY(skip_space(r, &c, err));
        if (c != -1) return bad(r, 0, err, "expected nothing after the array", c);
        return OK;
    }
    if (c == ',' || c == ']' || c == '}' || c == -1)
        return bad(r, r->n_rows + 1, err, "expected a row", c);
    *line = r->line;
    r->number = number_here(r, r->n_rows + 1);
    Status s = take_element(r, err);
    r->ended = r->line;
    return s == OK ? OK : row_error(err, s, r->path, r->number);
}

Status rows_next(RowReader *r, const char **text, size_t *len, int64_t *line, Err *err)
{
    *text = NULL;
    *len = 0;
    if (r->done) return OK;
    strbuf_reset(&r->row);
    *line = r->line;
    if (r->array) {
        TRY(next_in_array(r, line, err));
    } else {
        int c;
        TRY(skip_space(r, &c, err));
        r->done = c == -1;
        *line = r->line;
        if (!r->done) TRY(take_line(r, err));
    }
    if (r->done) return OK;
    r->n_rows++;
    *text = r->row.data ? r->row.data : "";
    *len = r->row.len;
    return OK;
}
