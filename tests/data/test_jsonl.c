/* Rows out of files: arrays and lines, plain and gzip, whole and broken. */
#include "base/fs.h"
#include "base/str.h"
#include "data/gzline.h"
#include "data/jsonl.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static char *put(const char *dir, const char *name, const char *bytes, size_t n)
{
    char *path = path_join(dir, name);
    Err err = {0};
    cr_assert(file_write_atomic(path, bytes, n, &err) == OK, "%s", err.line);
    return path;
}

/* gzip by zlib's own writer, which is not what we read with. */
static char *put_gz(const char *dir, const char *name, const char *bytes, size_t n)
{
    char *path = path_join(dir, name);
    gzFile f = gzopen(path, "wb");
    cr_assert(f && gzwrite(f, bytes, (unsigned)n) == (int)n);
    gzclose(f);
    return path;
}

/* "line:row|line:row|...", then "!message" after an error; paths are cut out of the message. */
static char *rows_of(const char *path)
{
    StrBuf b = {0};
    Err err = {0};
    RowReader *r = NULL;
    Status s = rows_open(&r, path, &err);
    const char *text = "";
    size_t len;
    int64_t line;
    while (s == OK && text) {
        s = rows_next(r, &text, &len, &line, &err);
        if (s == OK && text) {
            strbuf_printf(&b, "%lld", (long long)line);
            if (rows_number(r)) strbuf_printf(&b, "#%lld", (long long)rows_number(r));
            strbuf_putc(&b, ':');
            strbuf_append(&b, text, len);
            strbuf_putc(&b, '|');
        }
    }
    if (s != OK) {
        const char *at = strstr(err.line, path);
        strbuf_printf(&b, "!%s", at ? at + strlen(path) : err.line);
    }
    rows_close(r);
    return strbuf_take(&b);
}

static const struct {
    const char *name, *bytes, *want;
} CASES[] = {
    {"lines", "{\"a\":1}\n{\"a\":2}\n", "1:{\"a\":1}|2:{\"a\":2}|"},
    {"lines, no end", "{\"a\":1}\n\n  \n{\"a\":2}", "1:{\"a\":1}|4:{\"a\":2}|"},
    {"lines, CRLF", "{}\r\n{}\r\n", "1:{}\r|2:{}\r|"},
    {"array", "[{\"a\":1}, {\"a\":2}]", "1#1:{\"a\":1}|1#2:{\"a\":2}|"},
    {"array over lines", "\n[\n {\n\"a\":\"]}\"},\n\n {\"a\":\"\\\"[{\"}\n]\n",
     "3:{\n\"a\":\"]}\"}|6:{\"a\":\"\\\"[{\"}|"},
    {"array of other things", "[1,\"x,]\",[2,[3]],null\n,true]",
     "1#1:1|1#2:\"x,]\"|1#3:[2,[3]]|1#4:null|2:true|"},
    {"empty array", " [ ] ", ""},
    {"byte order mark", "\xEF\xBB\xBF[{}]", "1#1:{}|"},
    {"escape at the end of a string", "[\"a\\\\\",{}]", "1#1:\"a\\\\\"|1#2:{}|"},
    {"no comma", "[{} {}]", "1#1:{}|!:1: row 1: expected ',' or ']' after a row, found '{'"},
    {"no comma, lines", "[\n{}\n{}]", "2:{}|!:3: expected ',' or ']' after a row, found '{'"},
    {"no comma, rows over lines", "[{\n},{\n} {}]",
     "1#1:{\n}|2#2:{\n}|!:3: row 2: expected ',' or ']' after a row, found '{'"},
    {"a bracket too many", "[{},{}}]",
     "1#1:{}|1#2:{}|!:1: row 2: expected ',' or ']' after a row, found '}'"},
    {"comma at the end", "[{},\n]", "1#1:{}|!:2: expected a row, found ']'"},
    {"comma first", "[,{}]", "!:1: row 1: expected a row, found ','"},
    {"two commas", "[{},,{}]", "1#1:{}|!:1: row 2: expected a row, found ','"},
    {"more behind", "[{}]\nx", "1#1:{}|!:2: expected nothing after the array, found 'x'"},
    {"not closed", "[{},{}",
     "1#1:{}|1#2:{}|!:1: row 2: the array's closing ']' is missing: the file was cut off, found "
     "the "
     "end of the file"},
    {"not closed, lines", "[{},\n{}\n",
     "1#1:{}|2:{}|!:3: the array's closing ']' is missing: the file was cut off, found the end of "
     "the "
     "file"},
    {"cut in a row", "[{},\n{\"a\": \"b",
     "1#1:{}|!:2: the file ends inside the row that starts here: it was cut off, or a quote or "
     "bracket "
     "is missing"},
    {"nothing", "", "!: is empty: no rows"},
    {"white space", " \n\t", "!: is empty: no rows"},
    {"comma-separated", "a,b\n",
     "!:1: expected a JSON array of objects, or one object a line, found "
     "'a'"},
    {"UTF-16", "\xFF\xFE[\0", "!: is UTF-16 text; write it as UTF-8"},
    {"Parquet", "PAR1....", "!: is a Parquet file; write it as JSON or JSONL"},
};

Test(jsonl, rows_and_errors)
{
    char *dir = tmp_dir();
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char *path = put(dir, "f.json", CASES[i].bytes, strlen(CASES[i].bytes));
        char *got = rows_of(path);
        cr_expect_str_eq(got, CASES[i].want, "%s", CASES[i].name);
        free(got);
        free(path);
        char *gz = put_gz(dir, "f.json.gz", CASES[i].bytes, strlen(CASES[i].bytes));
        got = rows_of(gz);
        cr_expect_str_eq(got, CASES[i].want, "%s, gzip", CASES[i].name);
        free(got);
        free(gz);
    }
    char *gone = path_join(dir, "gone");
    char *got = rows_of(gone);
    cr_expect_str_eq(got, "!: cannot open: No such file or directory");
    free(got);
    got = rows_of(dir);
    cr_expect_str_eq(got, "!: is a folder, a file is needed");
    free(got);
    free(gone);
    tmp_dir_remove(dir);
}

/* Rows larger and smaller than every buffer, as an array and as lines, plain and gzip: the same. */
Test(jsonl, borders_of_buffers)
{
    char *dir = tmp_dir();
    StrBuf lines = {0}, array = {0};
    uint32_t x = 1;
    int n = 400;
    strbuf_puts(&lines, "\n");
    strbuf_puts(&array, "[\n");
    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        if (i > 0) strbuf_puts(&array, ",\n");
        StrBuf row = {0};
        strbuf_puts(&row, "{\"a\":\"");
        size_t len = i == 7 ? 300000 : x >> 21; /* up to 2047 */
        for (size_t k = 0; k < len; k++)
            strbuf_puts(&row, (k ^ x) % 29 == 0 ? "\\\"" : (k ^ x) % 31 == 0 ? "]" : "é");
        strbuf_puts(&row, "\"}");
        strbuf_append(&lines, row.data, row.len);
        strbuf_putc(&lines, '\n');
        strbuf_append(&array, row.data, row.len);
        strbuf_clear(&row);
    }
    strbuf_putc(&array, ']');
    char *paths[4] = {
        put(dir, "l", lines.data, lines.len), put_gz(dir, "l.gz", lines.data, lines.len),
        put(dir, "a", array.data, array.len), put_gz(dir, "a.gz", array.data, array.len)};
    char *want = rows_of(paths[0]);
    int bars = 0;
    for (const char *p = want; (p = strstr(p, "}|")) != NULL; p++)
        bars++;
    cr_expect_eq(bars, n);
    for (int i = 1; i < 4; i++) {
        char *got = rows_of(paths[i]);
        cr_expect(strcmp(got, want) == 0, "%s differs", paths[i]);
        free(got);
    }
    for (int i = 0; i < 4; i++)
        free(paths[i]);
    free(want);
    strbuf_clear(&lines);
    strbuf_clear(&array);
    tmp_dir_remove(dir);
}

/* Reads all; returns the bytes, or NULL with the message in *err. */
static char *all_of(const char *path, size_t *len, Err *err)
{
    ByteSource *s;
    StrBuf b = {0};
    char buf[1000];
    size_t n;
    if (source_open(&s, path, err) != OK) return NULL;
    Status status;
    while ((status = source_read(s, buf, sizeof buf, &n, err)) == OK && n > 0)
        strbuf_append(&b, buf, n);
    source_close(s);
    *len = b.len;
    if (status == OK) return strbuf_take(&b);
    strbuf_clear(&b);
    return NULL;
}

Test(gzline, members_padding_and_damage)
{
    char *dir = tmp_dir();
    char *a = put_gz(dir, "a.gz", "one\n", 4);
    char *bytes;
    size_t n, len;
    Err err = {0};
    cr_assert(file_read(&bytes, &n, a, &err) == OK);

    StrBuf two = {0}; /* a member behind a member, and zeros behind both */
    strbuf_append(&two, bytes, n);
    strbuf_append(&two, bytes, n);
    for (int i = 0; i < 600; i++)
        strbuf_putc(&two, 0);
    char *b = put(dir, "b.gz", two.data, two.len);
    char *text = all_of(b, &len, &err);
    cr_assert(text != NULL, "%s", err.line);
    cr_expect_eq(len, 8);
    cr_expect_str_eq(text, "one\none\n");
    free(text);

    for (size_t cut = 2; cut < n; cut++) { /* at every byte */
        char *c = put(dir, "c.gz", bytes, cut);
        memset(&err, 0, sizeof err);
        cr_expect(all_of(c, &len, &err) == NULL, "cut at %zu of %zu", cut, n);
        cr_expect(strstr(err.line, "c.gz: the gzip data is cut off") != NULL, "%s", err.line);
        free(c);
    }
    strbuf_reset(&two);
    strbuf_append(&two, bytes, n);
    strbuf_puts(&two, "tail");
    char *d = put(dir, "d.gz", two.data, two.len);
    cr_expect(all_of(d, &len, &err) == NULL);
    cr_expect(strstr(err.line, "bytes that are not gzip follow") != NULL, "%s", err.line);

    bytes[n - 6] ^= 1; /* the checksum */
    char *e = put(dir, "e.gz", bytes, n);
    cr_expect(all_of(e, &len, &err) == NULL);
    cr_expect(strstr(err.line, "the gzip data is damaged (incorrect data check)") != NULL, "%s",
              err.line);
    free(a), free(b), free(d), free(e);
    free(bytes);
    strbuf_clear(&two);
    tmp_dir_remove(dir);
}
