/* YAML as a tree with line numbers, over libyaml's parser, whose home is yaml.c.  Scalars stay text:
 * the reader of a key knows its type.  One document; anchors and aliases are resolved (with a limit on
 * the nodes that they expand to); duplicate keys and tags other than the core ones are errors. */
#pragma once

#include "base/err.h"

typedef enum YamlKind { YAML_SCALAR, YAML_LIST, YAML_MAP } YamlKind;

typedef struct YamlNode {
    YamlKind kind;
    int line;    /* 1-based, in the file it came from */
    char *text;  /* SCALAR: the text; a NUL byte inside is an error */
    bool quoted; /* SCALAR: written with quotes, so never null, a bool or a number */
    int n;       /* LIST, MAP: children */
    char **keys; /* MAP: n keys, in file order */
    int *key_lines;
    struct YamlNode **items; /* LIST, MAP: n values */
} YamlNode;

/* An empty text gives an empty MAP.  At most 8 MiB, 64 levels and 200,000 values; deeper or more is
 * an error. */
Status yaml_parse(YamlNode **out, const char *text, size_t len, const char *name,
                  Err *err) MUST_CHECK;
Status yaml_parse_file(YamlNode **out, const char *path, Err *err) MUST_CHECK;
void yaml_node_free(YamlNode *n); /* not yaml_free: libyaml exports that name */

const YamlNode *yaml_get(const YamlNode *map, const char *key); /* NULL when absent or no map */
bool yaml_is_null(const YamlNode *n);                           /* NULL, plain "", "~", "null" */

/* Strict conversions of a plain scalar (core schema of YAML 1.2); false when it is something else. */
bool yaml_bool(const YamlNode *n, bool *out); /* true, false, also True, TRUE, ... */
bool yaml_int(const YamlNode *n,
              int64_t *out); /* decimal, with optional sign and _ between digits */
bool yaml_number(const YamlNode *n,
                 double *out); /* as strtod, finite; 1e-4 without a dot included */
/* A number that yaml_number does not take because it is no 0 and a double holds none so small: 1e-400. */
bool yaml_is_tiny(const YamlNode *n);
