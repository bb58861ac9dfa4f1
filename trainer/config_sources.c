/* data.train and data.eval: a path, or a list of paths and maps; what a source does not say comes from the
 * keys above it. */
#include "base/str.h"
#include "trainer/config_reader.h"

#include <stdlib.h>

static char *copy_text(const char *s)
{
    return s ? xstrdup(s) : NULL;
}

static DataSource source_copy(const DataSource *from)
{
    DataSource s = *from;
    s.path = copy_text(from->path);
    s.prompt = copy_text(from->prompt);
    s.system = copy_text(from->system);
    s.fields = xcalloc((size_t)from->n_fields, sizeof *s.fields);
    for (int i = 0; i < from->n_fields; i++)
        s.fields[i] = (FieldMap){xstrdup(from->fields[i].from), xstrdup(from->fields[i].to)};
    return s;
}

static void source_clear(DataSource *s)
{
    free(s->path);
    free(s->prompt);
    free(s->system);
    config_free_field_map(s->fields, s->n_fields);
}

void config_free_sources(DataSource *s, int n)
{
    for (int i = 0; i < n; i++)
        source_clear(&s[i]);
    free(s);
}

static void read_source_key(ConfigReader *r, const char *prefix, const char *name, int line,
                            const YamlNode *value, DataSource *s)
{
    const char *names[16];
    char key[2 * CONFIG_MAX_KEY];
    snprintf(key, sizeof key, "%s.%.100s", prefix, name);
    for (int i = 0; i < n_source_fields; i++) {
        names[i] = source_fields[i].key;
        if (str_eq(names[i], name)) {
            if (!yaml_is_null(value)) reader_value(r, &source_fields[i], key, value, s);
            return;
        }
    }
    const char *near = str_nearest(name, names, n_source_fields);
    if (near)
        reader_problem(r, line, key, "unknown key of a source; did you mean '%s'?", near);
    else
        reader_problem(r, line, key,
                       "unknown key of a source; there are path, weight, format, template, "
                       "prompt, system, fields");
}

static void read_source(ConfigReader *r, const char *key, const YamlNode *n, DataSource *s)
{
    s->line = n->line;
    if (n->kind != YAML_MAP) {
        reader_value(r, &source_fields[0], key, n, s);
        return;
    }
    size_t before = (size_t)r->problems->n;
    for (int i = 0; i < n->n; i++)
        read_source_key(r, key, n->keys[i], n->key_lines[i], n->items[i], s);
    if (yaml_get(n, "template") && s->chat != TEMPLATE_PROMPT && !yaml_get(n, "prompt")) {
        free(s->prompt); /* the shared prompt goes with the shared template */
        s->prompt = NULL;
    }
    if (!s->path && (size_t)r->problems->n == before)
        reader_problem(r, n->line, key, "a source needs a path");
}

void reader_sources(ConfigReader *r, const ConfigField *f, const DataSource *defaults,
                    const YamlNode *n, DataSource **out, int *count)
{
    int size = n->kind == YAML_LIST ? n->n : 1;
    DataSource *items = xcalloc((size_t)size, sizeof *items);
    for (int i = 0; i < size; i++) {
        char key[CONFIG_MAX_KEY];
        items[i] = source_copy(defaults);
        items[i].weight = 1;
        if (n->kind == YAML_LIST)
            snprintf(key, sizeof key, "%s.%d", f->key, i);
        else
            snprintf(key, sizeof key, "%s", f->key);
        read_source(r, key, (n->kind == YAML_LIST ? n->items[i] : n), &items[i]);
    }
    if (size == 0) reader_problem(r, n->line, f->key, "the list is empty");
    config_free_sources(*out, *count);
    *out = items, *count = size;
}
