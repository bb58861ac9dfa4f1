/* Second pass over a config: nodes become values, checked against type and range. */
#include "base/str.h"
#include "trainer/config_reader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *found(const YamlNode *n, char *buf, size_t size)
{
    if (n->kind == YAML_SCALAR)
        snprintf(buf, size, "%s%.200s%s", n->quoted ? "the text '" : "'", n->text, "'");
    else
        snprintf(buf, size, "%s", n->kind == YAML_MAP ? "a map" : "a list");
    return buf;
}

static void wrong_value(ConfigReader *r, const char *key, const YamlNode *n, const char *must)
{
    char got[256];
    reader_problem(r, n->line, key, "must be %s, is %s", must, found(n, got, sizeof got));
}

/* Of what has to be refused: a bound that nobody reaches is told to who does. */
static const char *range_text(const ConfigField *f, double v, char *buf, size_t n)
{
    bool endless = f->max >= 1e9 && !(v > f->max);
    const char *low = f->open_min ? "above" : endless ? "at least" : "from";
    if (endless)
        snprintf(buf, n, "%s %.10g", low, f->min);
    else if (f->open_min)
        snprintf(buf, n, "above %.10g and at most %.10g", f->min, f->max);
    else
        snprintf(buf, n, "from %.10g to %s%.10g", f->min, f->open_max ? "below " : "", f->max);
    return buf;
}

static bool in_range(const ConfigField *f, double v)
{
    if (f->open_min ? v <= f->min : v < f->min) return false;
    return f->open_max ? v < f->max : v <= f->max;
}

static bool read_int(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                     int64_t *out)
{
    char must[128], range[96];
    int64_t v = 0;
    double d;
    /* 1e6 is what people write for a million */
    bool ok = yaml_int(n, &v);
    if (!ok && yaml_number(n, &d) && d == floor(d) && fabs(d) < 9e15) v = (int64_t)d, ok = true;
    if (!ok || !in_range(f, (double)v)) {
        snprintf(must, sizeof must, "an integer %s", range_text(f, (double)v, range, sizeof range));
        wrong_value(r, key, n, must);
        return false;
    }
    *out = v;
    return true;
}

static void read_number(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                        double *out)
{
    char must[128], range[96];
    double v = 0;
    if (yaml_number(n, &v) && in_range(f, v)) {
        *out = v;
        return;
    }
    if (yaml_is_tiny(n)) {
        wrong_value(r, key, n, "0 or a number of at least 2.3e-308 in size");
        return;
    }
    snprintf(must, sizeof must, "a number %s", range_text(f, v, range, sizeof range));
    wrong_value(r, key, n, must);
}

static void read_enum(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                      int *out)
{
    int n_choices = 0;
    StrBuf all = {0};
    for (const char *const *c = f->choices; n_choices < FIELD_MAX_CHOICES && *c; c++, n_choices++) {
        if (n->kind == YAML_SCALAR && str_eq(n->text, *c)) {
            *out = n_choices;
            strbuf_clear(&all);
            return;
        }
        strbuf_printf(&all, "%s%s", n_choices ? ", " : "", *c);
    }
    char got[256];
    const char *near = n->kind == YAML_SCALAR ? str_nearest(n->text, f->choices, n_choices) : NULL;
    if (near)
        reader_problem(r, n->line, key, "must be one of %s, is %s; did you mean '%s'?", all.data,
                       found(n, got, sizeof got), near);
    else
        reader_problem(r, n->line, key, "must be one of %s, is %s", all.data,
                       found(n, got, sizeof got));
    strbuf_clear(&all);
}

static bool is_text(const YamlNode *n)
{
    return n->kind == YAML_SCALAR && n->text[0] && !yaml_is_null(n);
}

static void read_string(ConfigReader *r, const char *key, const YamlNode *n, char **out)
{
    if (!is_text(n)) {
        wrong_value(r, key, n, "text that is not empty");
        return;
    }
    free(*out);
    *out = xstrdup(n->text);
}

/* One value is a list of one. */
static const YamlNode *list_item(const YamlNode *n, int i)
{
    return n->kind == YAML_LIST ? n->items[i] : n;
}

static int list_size(const YamlNode *n)
{
    return n->kind == YAML_LIST ? n->n : 1;
}

void config_free_strings(char **items, int n)
{
    for (int i = 0; i < n; i++)
        free(items[i]);
    free(items);
}

static void read_strings(ConfigReader *r, const char *key, const YamlNode *n, char ***out,
                         int *count)
{
    int size = list_size(n);
    char **items = xcalloc((size_t)size, sizeof *items);
    int got = 0;
    for (int i = 0; i < size; i++) {
        const YamlNode *item = list_item(n, i);
        if (is_text(item))
            items[got++] = xstrdup(item->text);
        else
            wrong_value(r, key, item, "text that is not empty, or a list of such");
    }
    if (got < size) { /* told; an empty list would be told once more */
        config_free_strings(items, got);
        return;
    }
    config_free_strings(*out, *count);
    *out = items, *count = got;
}

static void read_ints(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                      int64_t **out, int *count)
{
    int size = list_size(n);
    int64_t *items = xcalloc((size_t)size, sizeof *items);
    int got = 0;
    for (int i = 0; i < size; i++)
        if (read_int(r, f, key, list_item(n, i), &items[got])) got++;
    free(*out);
    *out = items, *count = got;
}

void config_free_field_map(FieldMap *m, int n)
{
    for (int i = 0; i < n; i++) {
        free(m[i].from);
        free(m[i].to);
    }
    free(m);
}

static void read_field_map(ConfigReader *r, const char *key, const YamlNode *n, FieldMap **out,
                           int *count)
{
    if (n->kind != YAML_MAP) {
        wrong_value(r, key, n, "a map from the format's field names to the file's");
        return;
    }
    FieldMap *m = xcalloc((size_t)n->n, sizeof *m);
    int got = 0;
    for (int i = 0; i < n->n; i++) {
        if (!is_text(n->items[i])) {
            wrong_value(r, key, n->items[i], "a field's name");
            continue;
        }
        m[got++] = (FieldMap){xstrdup(n->keys[i]), xstrdup(n->items[i]->text)};
    }
    config_free_field_map(*out, *count);
    *out = m, *count = got;
}

void config_free_patterns(LoraPattern *p, int n)
{
    for (int i = 0; i < n; i++)
        free(p[i].key);
    free(p);
}

/* In the file's order: the first pattern that matches counts. */
static void read_patterns(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                          LoraPattern **out, int *count)
{
    if (n->kind != YAML_MAP) {
        wrong_value(r, key, n, "a map from patterns of module names to numbers");
        return;
    }
    LoraPattern *p = n->n ? xcalloc((size_t)n->n, sizeof *p) : NULL;
    for (int i = 0; i < n->n; i++) {
        p[i].key = xstrdup(n->keys[i]);
        read_number(r, f, key, n->items[i], &p[i].value);
    }
    config_free_patterns(*out, *count);
    *out = p, *count = n->n;
}

void reader_value(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                  void *base)
{
    char *at = (char *)base + f->offset;
    int *count = (int *)((char *)base + f->count_offset);
    switch (f->type) {
    case FIELD_STRING:
        read_string(r, key, n, (char **)at);
        break;
    case FIELD_BOOL:
        if (!yaml_bool(n, (bool *)at)) wrong_value(r, key, n, "true or false");
        break;
    case FIELD_INT:
        read_int(r, f, key, n, (int64_t *)at);
        break;
    case FIELD_NUMBER:
        read_number(r, f, key, n, (double *)at);
        break;
    case FIELD_ENUM:
        read_enum(r, f, key, n, (int *)at);
        break;
    case FIELD_STRINGS:
        read_strings(r, key, n, (char ***)at, count);
        break;
    case FIELD_INTS:
        read_ints(r, f, key, n, (int64_t **)at, count);
        break;
    case FIELD_FIELDS:
        read_field_map(r, key, n, (FieldMap **)at, count);
        break;
    case FIELD_PATTERNS:
        read_patterns(r, f, key, n, (LoraPattern **)at, count);
        break;
    case FIELD_SOURCES:
        reader_sources(r, f, &((TrainConfig *)base)->source_defaults, n, (DataSource **)at, count);
        break;
    }
}
