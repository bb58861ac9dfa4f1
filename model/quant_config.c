/* quantization_config of bitsandbytes, GPTQ and AWQ, as transformers reads it.  What tensors a folder has is quant_file.c's. */
#include "model/quant_file.h"

#include "base/str.h"
#include "model/json_fields.h"

#include <string.h>

const char *quant_method_name(QuantMethod m)
{
    static const char *const names[] = {"none", "bitsandbytes", "gptq", "awq"};
    return names[m];
}

static void refuse(const JsonFields *r, const char *key, const char *found, const char *known)
{
    problems_add(r->faults, "%s: %s%s: '%s' is not supported; %s", r->file, r->where, key, found,
                 known);
}

static void read_bnb(QuantFile *out, const JsonFields *r)
{
    bool four = false, eight = false;
    const char *kind = "fp4";
    int before = r->faults->n;
    fields_bool(r, "_load_in_4bit", &four);
    fields_bool(r, "load_in_4bit", &four);
    fields_bool(r, "_load_in_8bit", &eight);
    fields_bool(r, "load_in_8bit", &eight);
    if (four == eight && r->faults->n == before)
        problems_add(r->faults,
                     "%s: quantization_config: neither load_in_4bit nor load_in_8bit, or both",
                     r->file);
    out->type = QUANT_INT8;
    if (eight) return;
    if (fields_text(r, "bnb_4bit_quant_type", &kind) && !str_eq(kind, "nf4") &&
        !str_eq(kind, "fp4"))
        refuse(r, "bnb_4bit_quant_type", kind, "nf4 and fp4 are");
    out->type = str_eq(kind, "nf4") ? QUANT_NF4 : QUANT_FP4;
    out->block = QUANT_BLOCK;
    fields_bool(r, "bnb_4bit_use_double_quant", &out->nested);
}

static void check_override(const JsonFields *r, const char *pattern, const Json *settings,
                           const char *key, int64_t common)
{
    int64_t own = common;
    json_int(json_get(settings, key), &own);
    if (own == common) return;
    problems_add(r->faults,
                 "%s: quantization_config.dynamic.%s: %s %lld where others have %lld; one setting "
                 "for all quantised modules is supported",
                 r->file, pattern, key, (long long)own, (long long)common);
}

/* GPTQModel's patterns: those that begin with "-:" leave modules out, which the files tell; others set them apart. */
static void check_dynamic(const QuantFile *f, const JsonFields *r)
{
    const Json *dynamic = fields_value(r, "dynamic");
    if (!dynamic) return;
    if (json_kind(dynamic) != JK_OBJECT) fields_bad_kind(r, "dynamic", "an object", dynamic);
    for (void *it = json_first(dynamic); it; it = json_next(dynamic, it)) {
        const char *pattern = json_iter_key(it);
        const Json *settings = json_iter_value(it);
        if (str_starts(pattern, "-:")) continue;
        check_override(r, pattern, settings, "bits", f->bits);
        check_override(r, pattern, settings, "group_size", f->group);
    }
}

static void read_gptq(QuantFile *out, const JsonFields *r)
{
    const char *format = "gptq";
    fields_bool(r, "desc_act", &out->ordered);
    if (fields_text(r, "checkpoint_format", &format) && !str_eq(format, "gptq") &&
        !str_eq(format, "gptq_v2"))
        refuse(r, "checkpoint_format", format, "gptq and gptq_v2 are");
    out->less_one = str_eq(format, "gptq");
}

static void read_awq(const JsonFields *r)
{
    const char *version = "gemm";
    if (fields_text(r, "version", &version) && strcasecmp(version, "gemm") != 0)
        refuse(r, "version", version, "gemm is");
}

static void read_groups(QuantFile *out, const JsonFields *r)
{
    int64_t bits = 0, group = 128;
    int before = r->faults->n;
    bool gptq = out->method == QUANT_METHOD_GPTQ, is_int = fields_int(r, "bits", &bits),
         known = bits == 4 || (gptq && (bits == 2 || bits == 3 || bits == 8));
    if (is_int && !known)
        problems_add(r->faults, "%s: quantization_config.bits: must be %s, found %lld", r->file,
                     gptq ? "2, 3, 4 or 8" : "4", (long long)bits);
    if (fields_int(r, "group_size", &group) && group != -1 && (group < 8 || group > 1 << 20))
        problems_add(r->faults,
                     "%s: quantization_config.group_size: must be -1 or 8 to 1048576, found %lld",
                     r->file, (long long)group);
    out->bits = (int)bits;
    out->group = group;
    out->type = bits == 8 ? QUANT_GROUP8 : QUANT_GROUP4;
    out->symmetric = true;
    if (gptq && r->faults->n == before) check_dynamic(out, r); /* against what is right */
    fields_bool(r, "sym", &out->symmetric);
    if (gptq)
        read_gptq(out, r);
    else
        read_awq(r);
}

Status quant_file_read(QuantFile *out, const Json *q, const char *name, Err *err)
{
    QuantFile f = {0};
    Problems faults = {0};
    const JsonFields r = {q, name, "quantization_config.", &faults};
    if (json_kind(q) != JK_OBJECT)
        return err_set(err, E_INPUT, "%s: quantization_config: must be an object, found %s", name,
                       json_kind_name(q));
    const char *method = fields_value(&r, "load_in_4bit") ? "bitsandbytes" : "gptq";
    bool is_text = fields_text(&r, "quant_method", &method);
    for (int m = QUANT_METHOD_BNB; m <= QUANT_METHOD_AWQ; m++)
        if (str_eq(method, quant_method_name(m))) f.method = (QuantMethod)m;
    if (f.method == QUANT_METHOD_NONE)
        refuse(&r, "quant_method", method,
               "bitsandbytes, gptq and awq are; take the unquantised model");
    else if (is_text && f.method == QUANT_METHOD_BNB)
        read_bnb(&f, &r);
    else if (is_text)
        read_groups(&f, &r);
    if (faults.n == 0) *out = f;
    return err_of_problems(err, &faults);
}
