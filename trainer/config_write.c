/* A config as text: the resolved YAML, the reference for people, the values that a resumed run must
 * share. */
#include "base/json.h"
#include "base/str.h"
#include "trainer/config_schema.h"

#include <stdlib.h>
#include <string.h>

/* JSON's quoted strings are YAML's. */
static void write_text(StrBuf *out, const char *s)
{
    if (s)
        json_write_string(out, s, strlen(s));
    else
        strbuf_puts(out, "null");
}

static void write_fields(StrBuf *out, const FieldMap *m, int n)
{
    strbuf_putc(out, '{');
    for (int i = 0; i < n; i++) {
        if (i) strbuf_puts(out, ", ");
        write_text(out, m[i].from);
        strbuf_puts(out, ": ");
        write_text(out, m[i].to);
    }
    strbuf_putc(out, '}');
}

static void write_patterns(StrBuf *out, const LoraPattern *p, int n)
{
    strbuf_putc(out, '{');
    for (int i = 0; i < n; i++) {
        if (i) strbuf_puts(out, ", ");
        write_text(out, p[i].key);
        strbuf_puts(out, ": ");
        json_write_number(out, p[i].value);
    }
    strbuf_putc(out, '}');
}

static void write_sources(StrBuf *out, const DataSource *s, int n)
{
    if (n == 0) {
        strbuf_puts(out, "null");
        return;
    }
    strbuf_putc(out, '[');
    for (int i = 0; i < n; i++) {
        strbuf_puts(out, i ? ", {" : "{");
        for (int k = 0; k < n_source_fields; k++) {
            strbuf_printf(out, "%s%s: ", k ? ", " : "", source_fields[k].key);
            config_write_value(out, &source_fields[k], &s[i]);
        }
        strbuf_putc(out, '}');
    }
    strbuf_putc(out, ']');
}

void config_write_value(StrBuf *out, const ConfigField *f, const void *base)
{
    const char *at = (const char *)base + f->offset;
    int count = *(const int *)((const char *)base + f->count_offset);
    switch (f->type) {
    case FIELD_STRING:
        write_text(out, *(char *const *)at);
        break;
    case FIELD_BOOL:
        strbuf_puts(out, *(const bool *)at ? "true" : "false");
        break;
    case FIELD_INT:
        strbuf_printf(out, "%lld", (long long)*(const int64_t *)at);
        break;
    case FIELD_NUMBER:
        json_write_number(out, *(const double *)at);
        break;
    case FIELD_ENUM: {
        int v = *(const int *)at;
        strbuf_puts(out, v >= 0 ? f->choices[v] : "null");
        break;
    }
    case FIELD_STRINGS:
        strbuf_putc(out, '[');
        for (int i = 0; i < count; i++) {
            if (i) strbuf_puts(out, ", ");
            write_text(out, (*(char **const *)at)[i]);
        }
        strbuf_putc(out, ']');
        break;
    case FIELD_INTS:
        strbuf_putc(out, '[');
        for (int i = 0; i < count; i++)
            strbuf_printf(out, "%s%lld", i ? ", " : "", (long long)(*(int64_t *const *)at)[i]);
        strbuf_putc(out, ']');
        break;
    case FIELD_FIELDS:
        write_fields(out, *(FieldMap *const *)at, count);
        break;
    case FIELD_PATTERNS:
        write_patterns(out, *(LoraPattern *const *)at, count);
        break;
    case FIELD_SOURCES:
        write_sources(out, *(DataSource *const *)at, count);
        break;
    }
}

/* Keys that another choice makes meaningless would be refused when the resolved file is read again. */
static bool is_idle(const TrainConfig *c, const char *key)
{
    if (str_eq(key, "lora.pissa_iterations")) return !c->lora.pissa;
    if (str_starts(key, "lora."))
        return c->method == METHOD_FULL ||
               (c->lora_adapter && !str_eq(key, "lora.adapter") && !str_eq(key, "lora.dropout") &&
                !str_eq(key, "lora.b_lr_ratio"));
    if (str_eq(key, "runtime.scratches") || str_eq(key, "runtime.decode_ahead"))
        return c->method != METHOD_QLORA;
    if (str_eq(key, "model.quantize")) return c->coded || c->method != METHOD_QLORA;
    if (str_eq(key, "model.double_quant") || str_eq(key, "model.quant_block"))
        return c->coded || !quant_is_4bit(config_quant(c).type);
    if (str_eq(key, "optim.min_lr_ratio")) return c->schedule == SCHEDULE_CONSTANT;
    if (str_eq(key, "optim.gamma")) return c->schedule != SCHEDULE_STEP;
    if (str_starts(key, "optim.decay_")) return c->schedule != SCHEDULE_WSD;
    if (str_eq(key, "train.recompute_layers"))
        return c->recompute == RECOMPUTE_NONE || c->recompute == RECOMPUTE_AUTO;
    if (str_eq(key, "train.epochs")) return c->max_steps > 0;
    /* each source has its own */
    static const char *const of_sources[] = {"data.format", "data.template", "data.prompt",
                                             "data.system", "data.fields"};
    for (size_t i = 0; i < sizeof of_sources / sizeof *of_sources; i++)
        if (str_eq(key, of_sources[i])) return true;
    return false;
}

/* The parts of `key` that differ from the sections already open in `last`, each on a line of its own. */
static int open_sections(StrBuf *out, const char *last, const char *key)
{
    int depth = 0;
    size_t at = 0, same = 0;
    while (last[same] && last[same] == key[same])
        same++;
    for (const char *dot; (dot = strchr(key + at, '.')); depth++) {
        size_t end = (size_t)(dot - key);
        if (end >= same) strbuf_printf(out, "%*s%.*s:\n", 2 * depth, "", (int)(end - at), key + at);
        at = end + 1;
    }
    return depth;
}

void config_visit(const TrainConfig *c, ConfigVisit *fn, void *ud)
{
    StrBuf value = {0};
    for (int i = 0; i < n_config_fields; i++) {
        const ConfigField *f = &config_fields[i];
        if (is_idle(c, f->key)) continue;
        strbuf_reset(&value);
        if (str_eq(f->key, "data.cache") && !c->data.cache_dir)
            strbuf_puts(&value, "off");
        else
            config_write_value(&value, f, c);
        fn(ud, f->key, value.data);
    }
    strbuf_clear(&value);
}

typedef struct YamlText {
    StrBuf *out;
    const char *last; /* key */
} YamlText;

static void write_key(void *ud, const char *key, const char *value)
{
    YamlText *t = ud;
    int depth = open_sections(t->out, t->last, key);
    const char *dot = strrchr(key, '.');
    strbuf_printf(t->out, "%*s%s: %s\n", 2 * depth, "", dot ? dot + 1 : key, value);
    t->last = key;
}

void config_write(StrBuf *out, const TrainConfig *c)
{
    YamlText t = {.out = out, .last = ""};
    config_visit(c, write_key, &t);
}

/* More steps change no step before them when the rate does not look at the end. */
static bool sees_end(const TrainConfig *c)
{
    return c->warmup_ratio > 0 ||
           (c->schedule != SCHEDULE_CONSTANT && c->schedule != SCHEDULE_INVERSE_SQRT &&
            c->schedule != SCHEDULE_STEP);
}

void config_visit_math(const TrainConfig *c, ConfigVisit *fn, void *ud)
{
    StrBuf value = {0};
    for (int i = 0; i < n_config_fields; i++) {
        const ConfigField *f = &config_fields[i];
        if (!f->math || is_idle(c, f->key)) continue;
        bool length = str_eq(f->key, "train.epochs") || str_eq(f->key, "train.max_steps");
        if (length && !sees_end(c)) continue;
        strbuf_reset(&value);
        config_write_value(&value, f, c);
        fn(ud, f->key, value.data);
    }
    for (int i = 0; i < c->data.n_train; i++) { /* how often each document comes */
        char key[48];
        snprintf(key, sizeof key, "data.train.%d.weight", i);
        strbuf_reset(&value);
        strbuf_printf(&value, "%g", c->data.train[i].weight);
        fn(ud, key, value.data);
    }
    strbuf_clear(&value);
}

static void explain_type(StrBuf *out, const ConfigField *f)
{
    switch (f->type) {
    case FIELD_STRING:
        strbuf_puts(out, "text");
        break;
    case FIELD_BOOL:
        strbuf_puts(out, "true, false");
        break;
    case FIELD_INT:
        strbuf_puts(out, "integer");
        break;
    case FIELD_NUMBER:
        strbuf_puts(out, "number");
        break;
    case FIELD_ENUM:
        for (int i = 0; i < FIELD_MAX_CHOICES && f->choices[i]; i++)
            strbuf_printf(out, "%s%s", i ? ", " : "", f->choices[i]);
        break;
    case FIELD_STRINGS:
        strbuf_puts(out, "text or list");
        break;
    case FIELD_INTS:
        strbuf_puts(out, "list of integers");
        break;
    case FIELD_FIELDS:
        strbuf_puts(out, "map");
        break;
    case FIELD_PATTERNS:
        strbuf_puts(out, "map of numbers");
        break;
    case FIELD_SOURCES:
        strbuf_puts(out, "path or list of sources");
        break;
    }
    bool number = f->type == FIELD_INT || f->type == FIELD_NUMBER || f->type == FIELD_INTS ||
                  f->type == FIELD_PATTERNS;
    if (!number) return;
    strbuf_printf(out, "%s%.10g", f->open_min ? " > " : " >= ", f->min);
    if (f->max < 1e6) strbuf_printf(out, ", %s%.10g", f->open_max ? "< " : "<= ", f->max);
}

static void explain_fields(StrBuf *out, const ConfigField *fields, int n)
{
    strbuf_puts(out, "| key | value | default | meaning |\n|---|---|---|---|\n");
    for (int i = 0; i < n; i++) {
        const ConfigField *f = &fields[i];
        strbuf_printf(out, "| `%s` | ", f->key);
        explain_type(out, f);
        strbuf_printf(out, " | %s | %s |\n",
                      f->required   ? "must be given"
                      : f->fallback ? f->fallback
                                    : "",
                      f->doc);
    }
}

void config_explain(StrBuf *out)
{
    strbuf_puts(
        out,
        "# Keys of a training config\n"
        "\n"
        "Written by `lorac check --explain`.  A dot is a level of the YAML file: `lora.rank` is "
        "`rank` "
        "below `lora:`.\n"
        "Any key can be overridden behind the file: `lorac train run.yaml lora.rank=16 "
        "data.train.0.weight=2` (the latter where data.train is a list).\n"
        "Paths are relative to the working directory.  Numbers may be written `1e-4`.  A key set "
        "to `null` takes its default.\n"
        "\n");
    explain_fields(out, config_fields, n_config_fields);
    strbuf_puts(
        out,
        "\nA source in the list of `data.train` or `data.eval.path` (`data.eval: FILE` is short "
        "for the latter):\n\n");
    explain_fields(out, source_fields, n_source_fields);
}
