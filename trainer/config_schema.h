/* The table behind trainer/config.h: one line a key.  Only the config_*.c files know it. */
#pragma once

#include "trainer/config.h"

typedef enum FieldType {
    FIELD_STRING,  /* char * */
    FIELD_BOOL,    /* bool */
    FIELD_INT,     /* int64_t in [min, max] */
    FIELD_NUMBER,  /* double in [min, max], or (min, max] with open_min, [min, max) with open_max */
    FIELD_ENUM,    /* int: index into choices; -1 where there is no default */
    FIELD_STRINGS, /* char **, one or a list; int count at count_offset */
    FIELD_INTS,    /* int64_t *, the same */
    FIELD_FIELDS,  /* FieldMap *, a map of text to text */
    FIELD_PATTERNS, /* LoraPattern *, a map of text to numbers in [min, max] or as NUMBER */
    FIELD_SOURCES,  /* DataSource *, a path, or a list of paths and maps */
} FieldType;

enum { FIELD_MAX_CHOICES = 8 };

typedef struct ConfigField {
    const char *key; /* dotted */
    FieldType type;
    size_t offset, count_offset;
    const char *fallback; /* the default as YAML; NULL: none */
    bool required;
    bool math; /* a run may not be resumed under another value */
    bool open_min, open_max;
    double min, max;
    const char *choices[FIELD_MAX_CHOICES]; /* in the order of the enum's values */
    const char *doc;
} ConfigField;

/* Offsets in TrainConfig, and in DataSource for a source of a list. */
extern const ConfigField config_fields[], source_fields[];
extern const int n_config_fields, n_source_fields;

int config_field_index(const char *key); /* -1: no such key */

/* Cross-key rules; sets what follows from other keys. */
void config_cross_check(TrainConfig *c, Problems *p);
/* Of it, what follows from batch.micro: train.gradients and train.update where they are auto. */
void config_settle_update(TrainConfig *c, Problems *p);
/* Paths that are not there. */
void config_check_files(const TrainConfig *c, Problems *p);

/* A value as YAML text ("null" where it is unset). */
void config_write_value(StrBuf *out, const ConfigField *f, const void *base);
