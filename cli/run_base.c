/* Few keys of a run's config and no more: what else stands there may be of another version, or the file of another program. */
#include "cli/run_base.h"

#include "base/fs.h"
#include "base/str.h"
#include "base/yaml.h"

#include <stdlib.h>

/* NULL: there is none.  The caller frees. */
static char *config_beside(const char *adapter)
{
    char *place = path_trim(adapter), *path = path_join(place, "config.yaml");
    if (!path_exists(path) && str_starts(path_base(place), "checkpoint-")) {
        free(path);
        path = path_join(place, "../config.yaml");
    }
    free(place);
    if (path_exists(path)) return path;
    free(path);
    return NULL;
}

static bool is_text(const YamlNode *n, const char *text)
{
    return n && n->kind == YAML_SCALAR && str_eq(n->text, text);
}

static Status bad_value(const char *path, const YamlNode *n, const char *key, const char *want,
                        Err *err)
{
    return err_set(err, E_INPUT, "%s:%d: model.%s: must be %s, is '%s'; or give --quantize", path,
                   n->line, key, want, n->kind == YAML_SCALAR ? n->text : "a list or a map");
}

/* The keys of a qlora run; absent ones have the defaults of training. */
static Status read_base(QuantOpts *out, const YamlNode *model, const char *path, Err *err)
{
    const YamlNode *type = yaml_get(model, "quantize"), *nested = yaml_get(model, "double_quant"),
                   *block = yaml_get(model, "quant_block");
    *out = (QuantOpts){.type = QUANT_NF4};
    if (type->kind != YAML_SCALAR || !quant_type_find(&out->type, type->text))
        return bad_value(path, type, "quantize", "nf4, fp4, int8 or fp8", err);
    if (!quant_is_4bit(out->type)) return OK;
    out->nested = true;
    out->block = QUANT_BLOCK;
    if (nested && !yaml_bool(nested, &out->nested))
        return bad_value(path, nested, "double_quant", "true or false", err);
    if (block && (!yaml_int(block, &out->block) || !quant_block_is_known(out->block)))
        return bad_value(path, block, "quant_block", "a power of two from 32 to 4096", err);
    return OK;
}

static Status read_run(QuantOpts *out, const YamlNode *run, const char *path, Log *log, Err *err)
{
    const YamlNode *model = yaml_get(run, "model");
    if (!is_text(yaml_get(run, "method"), "qlora") || !yaml_get(model, "quantize")) return OK;
    if (is_text(yaml_get(yaml_get(run, "lora"), "init"), "pissa")) {
        log_info(log,
                 "%s: the run took PiSSA's part out of its base before it quantised that; it "
                 "is kept as the model's files have it",
                 path);
        return OK;
    }
    TRY(read_base(out, model, path, err));
    char text[QUANT_TEXT];
    log_info(log,
             "the base is kept as %s, as in the run of %s; --quantize none: as its files have it",
             quant_opts_text(text, out), path);
    return OK;
}

Status run_base_read(QuantOpts *out, const char *adapter, Log *log, Err *err)
{
    *out = (QuantOpts){0};
    char *path = config_beside(adapter);
    if (!path) return OK;
    YamlNode *run = NULL;
    Status s = yaml_parse_file(&run, path, err);
    if (s == OK) s = read_run(out, run, path, log, err);
    yaml_node_free(run);
    free(path);
    return s;
}
