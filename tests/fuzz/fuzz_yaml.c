/* YAML: every node can be walked and asked for every type. */
#include "base/str.h"
#include "base/yaml.h"
#include "tests/fuzz/fuzz.h"

static void walk(const YamlNode *n, int *nodes)
{
    bool b;
    int64_t i;
    double d;
    ASSERT(n->line > 0 && ++*nodes <= 200000, "line %d, node %d", n->line, *nodes);
    bool null = yaml_is_null(n), number = yaml_number(n, &d), integer = yaml_int(n, &i);
    ASSERT(!integer || number, "'%s' is an integer and no number", n->text);
    ASSERT(null + number + yaml_bool(n, &b) <= 1, "'%s' is two things", n->text);
    for (int k = 0; k < n->n; k++) {
        if (n->kind == YAML_MAP) ASSERT(yaml_get(n, n->keys[k]) == n->items[k], "%s", n->keys[k]);
        walk(n->items[k], nodes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    YamlNode *root;
    Err err = {0};
    int nodes = 0;
    if (yaml_parse(&root, (const char *)data, size, "f", &err) == OK) {
        walk(root, &nodes);
        yaml_node_free(root);
    } else {
        ASSERT(str_starts(err.line, "f:"), "%s", err.line);
    }
    return 0;
}
