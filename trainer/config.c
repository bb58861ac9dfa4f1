/* From YAML and overrides to a TrainConfig.  Two passes: the first (config_keys.c) finds the node that sets
 * each key, the second (config_values.c) turns nodes into values, sources last because they begin as copies
 * of the defaults for sources; then the rules between keys (config_check.c). */
#include "trainer/config.h"

#include "base/fs.h"
#include "base/str.h"
#include "trainer/config_reader.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void apply_default(ConfigReader *r, const ConfigField *f, TrainConfig *c)
{
    if (!f->fallback) {
        if (f->type == FIELD_ENUM) *(int *)((char *)c + f->offset) = -1;
        return;
    }
    YamlNode *n = NULL;
    Err err = {0};
    Status s = yaml_parse(&n, f->fallback, strlen(f->fallback), "default", &err);
    ASSERT(s == OK, "default of %s: %s", f->key, err.line);
    reader_value(r, f, f->key, n, c);
    yaml_node_free(n);
}

static void read_field(ConfigReader *r, int i, TrainConfig *c)
{
    const ConfigField *f = &config_fields[i];
    const YamlNode *n = r->set[i];
    if (!n || yaml_is_null(n)) {
        if (f->required) {
            if (n)
                reader_problem(r, n->line, f->key, "has no value; it must be given: %s", f->doc);
            else
                problems_add(r->problems, "%s: %s: missing; it must be given: %s", r->name, f->key,
                             f->doc);
        }
        return;
    }
    reader_value(r, f, f->key, n, c);
    c->lines[i] = n->line > 0 ? n->line : -1;
}

static void read_all(ConfigReader *r, TrainConfig *c)
{
    ASSERT(n_config_fields <= CONFIG_MAX_FIELDS, "%d keys", n_config_fields);
    c->file = xstrdup(r->name);
    c->lines = xcalloc((size_t)n_config_fields, sizeof *c->lines);
    c->source_defaults.weight = 1;
    for (int i = 0; i < n_config_fields; i++)
        apply_default(r, &config_fields[i], c);
    for (int i = 0; i < n_config_fields; i++)
        if (config_fields[i].type != FIELD_SOURCES) read_field(r, i, c);
    for (int i = 0; i < n_config_fields; i++)
        if (config_fields[i].type == FIELD_SOURCES) read_field(r, i, c);
    config_cross_check(c, r->problems);
}

static Status parse(TrainConfig *out, const char *text, size_t len, const char *name,
                    const char *const *overrides, int n_overrides, bool need_files,
                    Problems *problems)
{
    ConfigReader r = {.name = name, .problems = problems};
    int before = problems->n;
    Err err = {0};
    *out = (TrainConfig){0};
    if (yaml_parse(&r.file, text, len, name, &err) != OK) {
        problems_add(problems, "%s", err.line);
        return E_INPUT;
    }
    r.overrides = xcalloc(1, sizeof *r.overrides);
    r.overrides->kind = YAML_LIST;
    if (r.file->kind == YAML_MAP)
        reader_collect(&r, "", r.file);
    else
        problems_add(problems, "%s:%d: a config is a map of keys, this is a %s", name, r.file->line,
                     r.file->kind == YAML_LIST ? "list" : "text");
    for (int i = 0; i < n_overrides; i++)
        reader_override(&r, overrides[i]);
    if (r.file->kind == YAML_MAP) { /* else every key would be missing, too */
        read_all(&r, out);
        if (need_files) config_check_files(out, problems);
    }
    yaml_node_free(r.file);
    yaml_node_free(r.overrides);
    if (problems->n == before) return OK;
    config_clear(out);
    return E_INPUT;
}

Status config_parse(TrainConfig *out, const char *text, size_t len, const char *name,
                    const char *const *overrides, int n_overrides, Problems *problems)
{
    return parse(out, text, len, name, overrides, n_overrides, false, problems);
}

Status config_load(TrainConfig *out, const char *path, const char *const *overrides,
                   int n_overrides, bool need_files, Problems *problems)
{
    FileMap m;
    Err err = {0};
    *out = (TrainConfig){0};
    if (file_map(&m, path, &err) != OK) {
        problems_add(problems, "%s", err.line);
        return E_INPUT;
    }
    Status s =
        parse(out, (const char *)m.data, m.len, path, overrides, n_overrides, need_files, problems);
    file_unmap(&m);
    return s;
}

static void clear_value(const ConfigField *f, TrainConfig *c)
{
    char *at = (char *)c + f->offset;
    int count = *(int *)((char *)c + f->count_offset);
    switch (f->type) {
    case FIELD_STRING:
        free(*(char **)at);
        break;
    case FIELD_STRINGS:
        config_free_strings(*(char ***)at, count);
        break;
    case FIELD_INTS:
        free(*(int64_t **)at);
        break;
    case FIELD_FIELDS:
        config_free_field_map(*(FieldMap **)at, count);
        break;
    case FIELD_PATTERNS:
        config_free_patterns(*(LoraPattern **)at, count);
        break;
    case FIELD_SOURCES:
        config_free_sources(*(DataSource **)at, count);
        break;
    default:
        break;
    }
}

void config_clear(TrainConfig *c)
{
    for (int i = 0; i < n_config_fields; i++)
        clear_value(&config_fields[i], c);
    free(c->file);
    free(c->lines);
    *c = (TrainConfig){0};
}

bool config_is_set(const TrainConfig *c, const char *key)
{
    int i = config_field_index(key);
    ASSERT(i >= 0, "no key %s", key);
    return c->lines[i] != 0;
}

char *config_where(const TrainConfig *c, const char *key)
{
    int i = config_field_index(key);
    int line = i >= 0 ? c->lines[i] : 0;
    return line > 0 ? str_format("%s:%d", c->file, line)
                    : xstrdup(line < 0 ? "command line" : c->file);
}

void config_problem(const TrainConfig *c, Problems *p, const char *key, const char *fmt, ...)
{
    char text[sizeof((Err *)0)->line], *at = config_where(c, key);
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    problems_add(p, "%s: %s: %s", at, key, text);
    free(at);
}

size_t config_memory_bytes(const TrainConfig *c)
{
    return (size_t)(c->memory_gib * 1024 * 1024 * 1024);
}

QuantOpts config_quant(const TrainConfig *c)
{
    QuantOpts o = {0};
    if (c->method != METHOD_QLORA) return o;
    o.type = (QuantType)(QUANT_NF4 + c->quantize);
    o.nested = quant_is_4bit(o.type) && c->double_quant;
    o.block = quant_is_4bit(o.type) ? (int64_t)QUANT_LEAST_BLOCK << c->quant_block : 0;
    return o;
}

DType config_save_dtype(const TrainConfig *c)
{
    static const DType types[] = {DT_N, DT_F32, DT_BF16, DT_F16};
    return types[c->save_dtype];
}

DType config_compute_dtype(const TrainConfig *c)
{
    return c->precision == PRECISION_BF16 ? DT_BF16 : DT_F32;
}
