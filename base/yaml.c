/* YAML over libyaml's event parser: this file is the only one that knows the library.  Everything that
 * can grow without bound by a short text is limited: depth, and nodes that aliases expand to. */
#include "base/yaml.h"

#include "base/fs.h"
#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 64, MAX_NODES = 200000, MAX_BYTES = 8 << 20 };

typedef struct Anchor {
    char *name;
    const YamlNode *node; /* NULL while the node is still being read */
} Anchor;

typedef struct Reader {
    yaml_parser_t parser;
    const char *file;
    const char *text;
    size_t len;
    Anchor *anchors;
    int n_anchors;
    YamlNode *keys; /* a list of the keys' nodes: an anchor may point at one */
    int n_nodes;
    Err *err;
} Reader;

static Status next_event(Reader *r, yaml_event_t *e);
static Status read_node(Reader *r, const yaml_event_t *e, int depth, YamlNode **out);

static int line_of(const yaml_event_t *e)
{
    return (int)e->start_mark.line + 1;
}

void yaml_node_free(YamlNode *n)
{
    if (!n) return;
    for (int i = 0; i < n->n; i++) {
        yaml_node_free(n->items[i]);
        if (n->keys) free(n->keys[i]);
    }
    free(n->items);
    free(n->keys);
    free(n->key_lines);
    free(n->text);
    free(n);
}

static Status new_node(Reader *r, YamlKind kind, int line, YamlNode **out)
{
    if (r->n_nodes++ >= MAX_NODES)
        return err_set(r->err, E_INPUT,
                       "%s:%d: more than %d values (aliases count as often as used)", r->file, line,
                       MAX_NODES);
    YamlNode *n = xcalloc(1, sizeof *n);
    n->kind = kind;
    n->line = line;
    *out = n;
    return OK;
}

/* Takes key (NULL in a list) and item. */
static void add_child(YamlNode *n, char *key, int key_line, YamlNode *item)
{
    if ((n->n & (n->n - 1)) == 0) { /* full at 0, 1, 2, 4, 8, ... */
        size_t cap = n->n ? 2 * (size_t)n->n : 1;
        n->items = xrealloc(n->items, cap * sizeof(YamlNode *));
        if (n->kind == YAML_MAP) {
            n->keys = xrealloc(n->keys, cap * sizeof(char *));
            n->key_lines = xrealloc(n->key_lines, cap * sizeof(int));
        }
    }
    if (n->kind == YAML_MAP) {
        n->keys[n->n] = key;
        n->key_lines[n->n] = key_line;
    }
    n->items[n->n++] = item;
}

/* Depth counts the alias's place and its own, so that a chain of aliases cannot build what a text
 * may not. */
static Status copy_node(Reader *r, const YamlNode *from, int line, int depth, YamlNode **out)
{
    if (depth > MAX_DEPTH)
        return err_set(r->err, E_INPUT, "%s:%d: nested deeper than %d levels", r->file, line,
                       MAX_DEPTH);
    YamlNode *n = NULL;
    TRY(new_node(r, from->kind, from->line, &n));
    n->quoted = from->quoted;
    if (from->text) n->text = xstrdup(from->text);
    for (int i = 0; i < from->n; i++) {
        YamlNode *child = NULL;
        Status s = copy_node(r, from->items[i], line, depth + 1, &child);
        if (s != OK) {
            yaml_node_free(n);
            return s;
        }
        add_child(n, from->keys ? xstrdup(from->keys[i]) : NULL,
                  from->keys ? from->key_lines[i] : 0, child);
    }
    *out = n;
    return OK;
}

/* An anchor counts from its node's start on, but may be used only when the node is complete.  A later
 * anchor of the same name hides the earlier. */
static int anchor_add(Reader *r, const yaml_char_t *name)
{
    if (!name) return -1;
    if ((r->n_anchors & (r->n_anchors - 1)) == 0)
        r->anchors = xrealloc(r->anchors,
                              (r->n_anchors ? 2 * (size_t)r->n_anchors : 1) * sizeof *r->anchors);
    r->anchors[r->n_anchors] = (Anchor){xstrdup((const char *)name), NULL};
    return r->n_anchors++;
}

static Status read_alias(Reader *r, const yaml_event_t *e, int depth, YamlNode **out)
{
    const char *name = (const char *)e->data.alias.anchor;
    for (int i = r->n_anchors - 1; i >= 0; i--) {
        if (!str_eq(r->anchors[i].name, name)) continue;
        if (!r->anchors[i].node)
            return err_set(r->err, E_INPUT, "%s:%d: *%s: the alias stands inside its own anchor",
                           r->file, line_of(e), name);
        return copy_node(r, r->anchors[i].node, line_of(e), depth, out);
    }
    return err_set(r->err, E_INPUT, "%s:%d: *%s: no anchor of that name comes before", r->file,
                   line_of(e), name);
}

/* The tags that say no more than the value does. */
static Status check_tag(Reader *r, const yaml_event_t *e, const yaml_char_t *tag, YamlKind kind)
{
    static const char core[] = "tag:yaml.org,2002:";
    static const char *const scalars[] = {"str", "int", "float", "bool", "null"};
    const char *t = (const char *)tag;
    if (!t || str_eq(t, "!")) return OK;
    if (str_starts(t, core)) {
        const char *name = t + strlen(core);
        if (kind == YAML_LIST && str_eq(name, "seq")) return OK;
        if (kind == YAML_MAP && str_eq(name, "map")) return OK;
        for (size_t i = 0; kind == YAML_SCALAR && i < sizeof scalars / sizeof *scalars; i++)
            if (str_eq(name, scalars[i])) return OK;
    }
    return err_set(r->err, E_INPUT, "%s:%d: tag '%s' is not supported here; leave it out", r->file,
                   line_of(e), t);
}

static bool is_str_tag(const yaml_char_t *tag)
{
    return tag &&
           (str_eq((const char *)tag, "!") || str_eq((const char *)tag, "tag:yaml.org,2002:str"));
}

static Status read_scalar(Reader *r, const yaml_event_t *e, YamlNode **out)
{
    const char *value = (const char *)e->data.scalar.value;
    size_t len = e->data.scalar.length;
    TRY(check_tag(r, e, e->data.scalar.tag, YAML_SCALAR));
    if (memchr(value, '\0', len))
        return err_set(r->err, E_INPUT, "%s:%d: a NUL byte inside a value", r->file, line_of(e));
    int anchor = anchor_add(r, e->data.scalar.anchor);
    YamlNode *n = NULL;
    TRY(new_node(r, YAML_SCALAR, line_of(e), &n));
    n->text = xstrndup(value, len);
    bool tagged = e->data.scalar.tag != NULL;
    n->quoted =
        tagged ? is_str_tag(e->data.scalar.tag) : e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    if (anchor >= 0) r->anchors[anchor].node = n;
    *out = n;
    return OK;
}

static Status read_list(Reader *r, int depth, YamlNode *n)
{
    for (;;) {
        yaml_event_t e;
        TRY(next_event(r, &e));
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        YamlNode *item = NULL;
        Status s = end ? OK : read_node(r, &e, depth + 1, &item);
        yaml_event_delete(&e);
        if (s != OK || end) return s;
        add_child(n, NULL, 0, item);
    }
}

typedef struct KeyRef {
    const char *key;
    int i;
} KeyRef;

static int by_key(const void *a, const void *b)
{
    const KeyRef *x = a, *y = b;
    int c = strcmp(x->key, y->key);
    return c ? c : (x->i > y->i) - (x->i < y->i);
}

/* Tells the first repetition in file order. */
static Status check_duplicates(Reader *r, const YamlNode *map)
{
    if (map->n < 2) return OK;
    KeyRef *refs = xcalloc((size_t)map->n, sizeof *refs);
    for (int i = 0; i < map->n; i++)
        refs[i] = (KeyRef){map->keys[i], i};
    qsort(refs, (size_t)map->n, sizeof *refs, by_key);
    int again = -1, before = -1;
    for (int k = 1; k < map->n; k++) {
        if (!str_eq(refs[k].key, refs[k - 1].key)) continue;
        if (again < 0 || refs[k].i < again) again = refs[k].i, before = refs[k - 1].i;
    }
    free(refs);
    if (again < 0) return OK;
    return err_set(r->err, E_INPUT,
                   "%s:%d: %s: the key stands here a second time, first in line %d", r->file,
                   map->key_lines[again], map->keys[again], map->key_lines[before]);
}

static Status read_map(Reader *r, int depth, YamlNode *n)
{
    for (;;) {
        yaml_event_t e;
        TRY(next_event(r, &e));
        if (e.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&e);
            return check_duplicates(r, n);
        }
        YamlNode *key = NULL, *value = NULL;
        Status s = read_node(r, &e, depth + 1, &key);
        int line = line_of(&e);
        yaml_event_delete(&e);
        if (s != OK) return s;
        add_child(r->keys, NULL, 0, key);
        if (key->kind != YAML_SCALAR)
            return err_set(r->err, E_INPUT, "%s:%d: a key must be a word, not a list or a map",
                           r->file, line);
        TRY(next_event(r, &e));
        s = read_node(r, &e, depth + 1, &value);
        yaml_event_delete(&e);
        if (s != OK) return s;
        add_child(n, xstrdup(key->text), line, value);
    }
}

static Status read_node(Reader *r, const yaml_event_t *e, int depth, YamlNode **out)
{
    if (depth > MAX_DEPTH)
        return err_set(r->err, E_INPUT, "%s:%d: nested deeper than %d levels", r->file, line_of(e),
                       MAX_DEPTH);
    if (e->type == YAML_ALIAS_EVENT) return read_alias(r, e, depth, out);
    if (e->type == YAML_SCALAR_EVENT) return read_scalar(r, e, out);

    ASSERT(e->type == YAML_SEQUENCE_START_EVENT || e->type == YAML_MAPPING_START_EVENT,
           "event %d where a node begins", (int)e->type);
    bool list = e->type == YAML_SEQUENCE_START_EVENT;
    YamlKind kind = list ? YAML_LIST : YAML_MAP;
    TRY(check_tag(r, e, list ? e->data.sequence_start.tag : e->data.mapping_start.tag, kind));
    int anchor = anchor_add(r, list ? e->data.sequence_start.anchor : e->data.mapping_start.anchor);
    YamlNode *n = NULL;
    TRY(new_node(r, kind, line_of(e), &n));
    Status s = list ? read_list(r, depth, n) : read_map(r, depth, n);
    if (s != OK) {
        yaml_node_free(n);
        return s;
    }
    if (anchor >= 0) r->anchors[anchor].node = n;
    *out = n;
    return OK;
}

/* The reader (bad bytes) knows an offset, the scanner and the parser a line. */
static Status syntax_error(Reader *r)
{
    const yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "no valid YAML";
    if (p->error == YAML_MEMORY_ERROR) give_up("out of host memory in libyaml");
    if (p->error == YAML_READER_ERROR) {
        int line = 1;
        for (size_t i = 0; i < r->len && i < p->problem_offset; i++)
            line += r->text[i] == '\n';
        return err_set(r->err, E_INPUT, "%s:%d: invalid YAML: %s", r->file, line, problem);
    }
    int line = (int)p->problem_mark.line + 1;
    if (!p->context)
        return err_set(r->err, E_INPUT, "%s:%d: invalid YAML: %s", r->file, line, problem);
    return err_set(r->err, E_INPUT, "%s:%d: invalid YAML: %s, %s that began in line %d", r->file,
                   line, problem, p->context, (int)p->context_mark.line + 1);
}

/* On OK the event is the caller's to delete. */
static Status next_event(Reader *r, yaml_event_t *e)
{
    return yaml_parser_parse(&r->parser, e) ? OK : syntax_error(r);
}

/* What may stand between nodes of the stream, with nothing to delete. */
static Status next_type(Reader *r, yaml_event_type_t *type, int *line)
{
    yaml_event_t e;
    TRY(next_event(r, &e));
    *type = e.type;
    *line = line_of(&e);
    yaml_event_delete(&e);
    return OK;
}

static Status read_document(Reader *r, YamlNode **root)
{
    yaml_event_type_t type;
    int line;
    TRY(next_type(r, &type, &line)); /* the stream's start */
    TRY(next_type(r, &type, &line));
    if (type == YAML_STREAM_END_EVENT) return new_node(r, YAML_MAP, 1, root);

    yaml_event_t e;
    TRY(next_event(r, &e));
    Status s = read_node(r, &e, 0, root);
    yaml_event_delete(&e);
    if (s != OK) return s;
    TRY(next_type(r, &type, &line)); /* the document's end */
    TRY(next_type(r, &type, &line));
    if (type != YAML_STREAM_END_EVENT)
        return err_set(r->err, E_INPUT, "%s:%d: a second document begins; one a file is read",
                       r->file, line);
    return OK;
}

Status yaml_parse(YamlNode **out, const char *text, size_t len, const char *name, Err *err)
{
    if (len > MAX_BYTES)
        return err_set(err, E_INPUT, "%s: %zu bytes of YAML, at most %d are read", name, len,
                       MAX_BYTES);
    Reader r = {.file = name, .text = text, .len = len, .err = err};
    if (!yaml_parser_initialize(&r.parser)) give_up("out of host memory in libyaml");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    r.keys = xcalloc(1, sizeof *r.keys);
    r.keys->kind = YAML_LIST;

    YamlNode *root = NULL;
    Status s = read_document(&r, &root);

    yaml_parser_delete(&r.parser);
    yaml_node_free(r.keys);
    for (int i = 0; i < r.n_anchors; i++)
        free(r.anchors[i].name);
    free(r.anchors);
    if (s == OK)
        *out = root;
    else
        yaml_node_free(root);
    return s;
}

Status yaml_parse_file(YamlNode **out, const char *path, Err *err)
{
    FileMap m;
    TRY(file_map(&m, path, err));
    Status s = yaml_parse(out, (const char *)m.data, m.len, path, err);
    file_unmap(&m);
    return s;
}

const YamlNode *yaml_get(const YamlNode *map, const char *key)
{
    if (!map || map->kind != YAML_MAP) return NULL;
    for (int i = 0; i < map->n; i++)
        if (str_eq(map->keys[i], key)) return map->items[i];
    return NULL;
}

static bool is_one_of(const YamlNode *n, const char *const *words)
{
    if (!n || n->kind != YAML_SCALAR || n->quoted) return false;
    for (; *words; words++)
        if (str_eq(n->text, *words)) return true;
    return false;
}

bool yaml_is_null(const YamlNode *n)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return !n || is_one_of(n, words);
}

bool yaml_bool(const YamlNode *n, bool *out)
{
    static const char *const yes[] = {"true", "True", "TRUE", NULL};
    static const char *const no[] = {"false", "False", "FALSE", NULL};
    bool v = is_one_of(n, yes);
    if (!v && !is_one_of(n, no)) return false;
    *out = v;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool yaml_int(const YamlNode *n, int64_t *out)
{
    if (!n || n->kind != YAML_SCALAR || n->quoted) return false;
    const char *s = n->text;
    bool negative = *s == '-';
    if (*s == '-' || *s == '+') s++;
    if (!is_digit(*s)) return false;
    int64_t v = 0; /* kept negative: INT64_MIN has no positive twin */
    for (; *s; s++) {
        if (*s == '_' && is_digit(s[-1]) && is_digit(s[1])) continue;
        if (!is_digit(*s)) return false;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, *s - '0', &v))
            return false;
    }
    if (!negative && v == INT64_MIN) return false;
    *out = negative ? v : -v;
    return true;
}

/* As strtod, without hexadecimal, NaN and infinity.  *fits: the double is what is written, not 0 or infinity in its place. */
static bool read_double(const YamlNode *n, double *out, bool *fits)
{
    if (!n || n->kind != YAML_SCALAR || n->quoted) return false;
    const char *s = n->text + (*n->text == '-' || *n->text == '+');
    bool starts = is_digit(*s) || (*s == '.' && is_digit(s[1]));
    if (!starts || strspn(s, "0123456789.eE+-") != strlen(s)) return false;
    char *end;
    errno = 0;
    *out = strtod(n->text, &end);
    *fits = errno != ERANGE;
    return !*end;
}

bool yaml_number(const YamlNode *n, double *out)
{
    int64_t i;
    double v;
    bool fits;
    if (yaml_int(n, &i))
        v = (double)i;
    else if (!read_double(n, &v, &fits) || !fits)
        return false;
    *out = v;
    return true;
}

bool yaml_is_tiny(const YamlNode *n)
{
    double v;
    bool fits;
    return read_double(n, &v, &fits) && !fits && fabs(v) < 1;
}
