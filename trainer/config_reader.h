/* What the config_*.c readers share: the nodes that set each key, and where to tell problems. */
#pragma once

#include "base/yaml.h"
#include "trainer/config_schema.h"

enum { CONFIG_MAX_KEY = 128, CONFIG_MAX_FIELDS = 96 };

typedef struct ConfigReader {
    const char *name; /* of the file */
    Problems *problems;
    YamlNode *set[CONFIG_MAX_FIELDS]; /* by index of the schema; borrowed from the trees */
    YamlNode *file;
    YamlNode *overrides; /* a list; line 0 marks its nodes */
} ConfigReader;

/* "file:line: key: ..."; line 0: "command line: key: ...". */
void reader_problem(ConfigReader *r, int line, const char *key, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* First pass: notes which node sets each key; unknown keys are told. */
void reader_collect(ConfigReader *r, const char *prefix, YamlNode *map);
void reader_override(ConfigReader *r, const char *text); /* "key=value" */

/* Second pass: writes the value of a key into the struct at `base`. */
void reader_value(ConfigReader *r, const ConfigField *f, const char *key, const YamlNode *n,
                  void *base);
void reader_sources(ConfigReader *r, const ConfigField *f, const DataSource *defaults,
                    const YamlNode *n, DataSource **out, int *count);
void config_free_strings(char **items, int n);
void config_free_field_map(FieldMap *m, int n);
void config_free_patterns(LoraPattern *p, int n);
void config_free_sources(DataSource *s, int n);
