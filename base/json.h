/* JSON: a read-only tree over jansson, whose home is json.c, and a small writer.
 *
 * Names keep clear of jansson's own (json_string, JSON_OBJECT): its symbols share our process.
 * Every accessor takes the tree's own nodes and returns borrowed pointers that live until json_free
 * of the root. */
#pragma once

#include "base/err.h"
#include "base/str.h"

typedef struct Json Json; /* never dereferenced outside json.c */

typedef enum JsonKind {
    JK_NULL,
    JK_BOOL,
    JK_INT,
    JK_REAL,
    JK_STRING,
    JK_ARRAY,
    JK_OBJECT
} JsonKind;

typedef enum JsonFlags {
    JSON_REFUSE_DUPLICATES = 1, /* a key twice in one object is an error */
} JsonFlags;

/* Several times the largest tokenizer.json there is; as a tree a text takes some ten times its size. */
enum { JSON_MAX_BYTES = 256 << 20 };

/* Parses text[0..len), JSON_MAX_BYTES at most.  `name` is what error lines start with ("name:line: ..."); `first_line` is
 * the line number of text[0] in that file (1 for a whole file, the row's line for JSONL).  Trailing
 * bytes other than white space are an error; so are invalid UTF-8, a NUL character in a key, a byte
 * order mark and depth beyond 512.  An integer beyond 63 bits is read as JK_REAL: Hugging Face writes
 * 1e30 as one. */
Status json_parse(Json **out, const char *text, size_t len, const char *name, int first_line,
                  int flags, Err *err) MUST_CHECK;
/* Reads a whole file. */
Status json_parse_file(Json **out, const char *path, Err *err) MUST_CHECK;
void json_free(Json *root); /* NULL is fine */

JsonKind json_kind(const Json *j); /* NULL, what json_get does not find: JK_NULL */
const char *json_kind_name(
    const Json *j); /* "string", "number", ... for messages; NULL j: "nothing" */

size_t json_size(const Json *j);                           /* of an array or object, else 0 */
const Json *json_at(const Json *array, size_t i);          /* NULL when out of range or no array */
const Json *json_get(const Json *object, const char *key); /* NULL when absent or no object */

/* Walks an object in file order:  for (void *it = json_first(o); it; it = json_next(o, it)) */
void *json_first(const Json *object);
void *json_next(const Json *object, void *it);
const char *json_iter_key(void *it);
size_t json_iter_key_len(void *it);
const Json *json_iter_value(void *it);

/* Each returns false and leaves *out alone when the node is NULL or of another kind. */
bool json_str(const Json *j, const char **out, size_t *len); /* len may be NULL */
bool json_int(const Json *j, int64_t *out);
bool json_number(const Json *j, double *out); /* integer or real */
bool json_bool(const Json *j, bool *out);

/* Appends s as a JSON string with quotes; non-ASCII bytes are kept (they must be UTF-8). */
void json_write_string(StrBuf *b, const char *s, size_t n);
/* Appends a number that reads back to the same double; non-finite values become null. */
void json_write_number(StrBuf *b, double v);
/* Appends a whole tree.  indent 0: compact; n: n spaces a level.  `tojson` style: keys in file order. */
void json_write(StrBuf *b, const Json *j, int indent);
