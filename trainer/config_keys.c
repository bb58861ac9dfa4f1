/* First pass over a config: which node sets each key.  Unknown keys are told here; overrides replace what
 * the file says. */
#include "base/str.h"
#include "trainer/config_reader.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void reader_problem(ConfigReader *r, int line, const char *key, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (line > 0)
        problems_add(r->problems, "%s:%d: %s: %s", r->name, line, key, text);
    else
        problems_add(r->problems, "command line: %s: %s", key, text);
}

static bool is_section(const char *key)
{
    size_t n = strlen(key);
    for (int i = 0; i < n_config_fields; i++)
        if (str_starts(config_fields[i].key, key) && config_fields[i].key[n] == '.') return true;
    return false;
}

static const char *last_part(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

/* What transformers, PEFT and the trainers around them call our keys, where no spelling leads there. */
static const char *const elsewhere[][2] = {
    {"r", "lora.rank"},
    {"lora_r", "lora.rank"},
    {"lora_alpha", "lora.alpha"},
    {"lora_dropout", "lora.dropout"},
    {"target_modules", "lora.targets"},
    {"lora_target_modules", "lora.targets"},
    {"lora_target", "lora.targets"},
    {"modules_to_save", "lora.save_modules"},
    {"layers_to_transform", "lora.layers"},
    {"use_dora", "lora.dora"},
    {"use_rslora", "lora.rslora"},
    {"init_lora_weights", "lora.init"},
    {"learning_rate", "optim.lr"},
    {"lr_scheduler_type", "optim.schedule"},
    {"lr_scheduler", "optim.schedule"},
    {"max_grad_norm", "optim.clip"},
    {"adam_epsilon", "optim.eps"},
    {"num_train_epochs", "train.epochs"},
    {"num_epochs", "train.epochs"},
    {"gradient_checkpointing", "train.recompute"},
    {"per_device_train_batch_size", "batch.micro"},
    {"micro_batch_size", "batch.micro"},
    {"gradient_accumulation_steps", "batch.global"},
    {"max_seq_length", "data.max_length"},
    {"sequence_len", "data.max_length"},
    {"cutoff_len", "data.max_length"},
    {"chat_template", "data.template"},
    {"val_set_size", "data.eval.share"},
    {"model_name_or_path", "model.path"},
    {"base_model", "model.path"},
    {"load_in_4bit", "model.quantize"},
    {"load_in_8bit", "model.quantize"},
    {"output_dir", "output"},
    {"save_steps", "save.every"},
    {"save_total_limit", "save.keep"},
    {"eval_steps", "eval.every"},
    {"early_stopping_patience", "eval.patience"},
    {"logging_steps", "log.every"},
    {"resume_from_checkpoint", "resume"},
};

static const char *known_elsewhere(const char *name)
{
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
        if (str_eq(elsewhere[i][0], name)) return elsewhere[i][1];
    return NULL;
}

/* A key of the same last part in another section is the likeliest slip, then another trainer's name, then a near spelling. */
static const char *suggest(const char *key)
{
    const char *names[CONFIG_MAX_FIELDS];
    const char *twin = NULL;
    for (int i = 0; i < n_config_fields; i++) {
        names[i] = config_fields[i].key;
        if (!twin && str_eq(last_part(names[i]), last_part(key))) twin = names[i];
    }
    if (!twin) twin = known_elsewhere(last_part(key));
    return twin ? twin : str_nearest(key, names, n_config_fields);
}

static void unknown_key(ConfigReader *r, int line, const char *key)
{
    const char *near = suggest(key);
    if (near)
        reader_problem(r, line, key, "unknown key; did you mean '%s'?", near);
    else
        reader_problem(r, line, key, "unknown key; `lorac check --explain` lists all");
}

/* lora=null: as if the file did not have that section. */
static void forget_section(ConfigReader *r, const char *key)
{
    size_t n = strlen(key);
    for (int i = 0; i < n_config_fields; i++)
        if (str_starts(config_fields[i].key, key) && config_fields[i].key[n] == '.')
            r->set[i] = NULL;
}

/* data.eval: FILE is short for data.eval: {path: FILE}. */
static int default_member(const char *key)
{
    return str_eq(key, "data.eval") ? config_field_index("data.eval.path") : -1;
}

/* A key may be written nested or with dots; what the command line says stands whatever the file has. */
static void set_key(ConfigReader *r, int i, const char *key, int line, YamlNode *value)
{
    const YamlNode *before = r->set[i];
    if (before && before->line > 0 && line > 0)
        reader_problem(r, line, key, "the key stands here a second time, first in line %d",
                       before->line);
    else if (!before || before->line > 0 || line == 0)
        r->set[i] = value;
}

static void collect_one(ConfigReader *r, const char *key, int line, YamlNode *value)
{
    int i = config_field_index(key);
    if (i < 0 && value->kind != YAML_MAP) {
        int member = default_member(key);
        if (member >= 0) i = member;
    }
    if (i >= 0) {
        set_key(r, i, key, line, value);
    } else if (is_section(key)) {
        if (value->kind == YAML_MAP)
            reader_collect(r, key, value);
        else if (yaml_is_null(value))
            forget_section(r, key);
        else
            reader_problem(r, line, key, "is a section; put its keys below it, indented");
    } else {
        unknown_key(r, line, key);
    }
}

void reader_collect(ConfigReader *r, const char *prefix, YamlNode *map)
{
    for (int i = 0; i < map->n; i++) {
        char key[CONFIG_MAX_KEY];
        int n = snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "." : "", map->keys[i]);
        if (n < (int)sizeof key)
            collect_one(r, key, map->key_lines[i], map->items[i]);
        else
            reader_problem(r, map->key_lines[i], key, "unknown key; no key is so long");
    }
}

static void relocate(YamlNode *n)
{
    n->line = 0;
    for (int i = 0; i < n->n; i++) {
        if (n->key_lines) n->key_lines[i] = 0;
        relocate(n->items[i]);
    }
}

/* Appends; the tree keeps the node. */
static void list_push(YamlNode *list, YamlNode *item)
{
    list->items = xrealloc(list->items, ((size_t)list->n + 1) * sizeof *list->items);
    list->items[list->n++] = item;
}

static void map_put(YamlNode *map, const char *key, YamlNode *item)
{
    for (int i = 0; i < map->n; i++)
        if (str_eq(map->keys[i], key)) {
            yaml_node_free(map->items[i]);
            map->items[i] = item;
            map->key_lines[i] = 0;
            return;
        }
    size_t n = (size_t)map->n + 1;
    map->keys = xrealloc(map->keys, n * sizeof *map->keys);
    map->key_lines = xrealloc(map->key_lines, n * sizeof *map->key_lines);
    map->keys[map->n] = xstrdup(key);
    map->key_lines[map->n] = 0;
    list_push(map, item);
}

/* data.train.0.weight=2: a key of one source of a list.  False: key does not have that form.  Takes
 * value when true. */
static bool override_source(ConfigReader *r, const char *key, YamlNode *value)
{
    for (int i = 0; i < n_config_fields; i++) {
        const ConfigField *f = &config_fields[i];
        size_t n = strlen(f->key);
        if (f->type != FIELD_SOURCES || !str_starts(key, f->key) || key[n] != '.') continue;
        char *end;
        long at = strtol(key + n + 1, &end, 10);
        if (end == key + n + 1 || (*end && *end != '.')) continue;
        YamlNode *list = r->set[i];
        int n_items = list && list->kind == YAML_LIST ? list->n : 0;
        if (at < 0 || at >= n_items) {
            reader_problem(r, 0, key, "%s has %d sources in a list, counted from 0", f->key,
                           n_items);
            yaml_node_free(value);
        } else if (!*end) {
            yaml_node_free(list->items[at]);
            list->items[at] = value;
        } else if (list->items[at]->kind != YAML_MAP) {
            reader_problem(r, 0, key, "source %ld is written as a path, not as a map of keys", at);
            yaml_node_free(value);
        } else {
            map_put(list->items[at], end + 1, value);
        }
        return true;
    }
    return false;
}

void reader_override(ConfigReader *r, const char *text)
{
    const char *eq = strchr(text, '=');
    if (!eq || eq == text) {
        reader_problem(r, 0, text, "is no key=value");
        return;
    }
    char *key = xstrndup(text, (size_t)(eq - text));
    YamlNode *value = NULL;
    Err err = {0};
    if (yaml_parse(&value, eq + 1, strlen(eq + 1), "command line", &err) != OK) {
        problems_add(r->problems, "command line: %s: not YAML: %s", key, err.line);
        free(key);
        return;
    }
    if (!eq[1]) value->kind = YAML_SCALAR, value->text = xstrdup(""); /* key= unsets */
    relocate(value);
    if (!override_source(r, key, value)) {
        list_push(r->overrides, value);
        collect_one(r, key, 0, value);
    }
    free(key);
}
