/* How positions turn heads, as config.json says it: rope_theta, rope_scaling, rope_parameters. */
#include "model/llama_config_rope.h"

#include "base/str.h"

#include <string.h>

static bool is_truthy(const Json *j)
{
    return j && json_kind(j) != JK_NULL && (json_kind(j) != JK_OBJECT || json_size(j) > 0);
}

/* What the two scaled types have beside theta. */
static void read_scaling(const JsonFields *o, const char *type, LlamaConfig *c)
{
    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor"};
    bool llama3 = c->rope_type == ROPE_LLAMA3;
    for (int i = 0; i < (llama3 ? 3 : 1); i++)
        if (!fields_value(o, needed[i]))
            problems_add(o->faults, "%s: %s%s: is missing, rope type '%s' needs it", o->file,
                         o->where, needed[i], type);
    c->rope_factor = 1;
    fields_positive(o, "factor", 1e30, &c->rope_factor);
    if (!llama3) return;
    c->rope_low_freq = 1;
    c->rope_high_freq = 4;
    bool both = fields_value(o, "low_freq_factor") && fields_value(o, "high_freq_factor");
    both &= fields_positive(o, "low_freq_factor", 1e30, &c->rope_low_freq);
    both &= fields_positive(o, "high_freq_factor", 1e30, &c->rope_high_freq);
    if (both && c->rope_high_freq <= c->rope_low_freq)
        problems_add(o->faults,
                     "%s: %shigh_freq_factor: must be above low_freq_factor %g, found %g", o->file,
                     o->where, c->rope_low_freq, c->rope_high_freq);
    double original = (double)c->max_position_embeddings;
    fields_positive(o, "original_max_position_embeddings", LLAMA_MAX_CONTEXT, &original);
    c->rope_original_max = (int64_t)original;
    if ((double)c->rope_original_max != original)
        problems_add(o->faults,
                     "%s: %soriginal_max_position_embeddings: must be an integer, found %g",
                     o->file, o->where, original);
}

/* Transformers 4 has rope_theta beside rope_scaling, 5 has all in rope_parameters; a rope_scaling in the file
 * replaces rope_parameters whole, and only its theta then comes from the top level. */
static JsonFields parameters_of(const JsonFields *root)
{
    JsonFields o = *root;
    o.where = "rope_scaling.";
    o.object = json_get(root->object, "rope_scaling");
    if (!is_truthy(o.object)) {
        o.where = "rope_parameters.";
        o.object = json_get(root->object, "rope_parameters");
    }
    if (!is_truthy(o.object)) o.object = NULL;
    if (o.object && json_kind(o.object) != JK_OBJECT) {
        problems_add(o.faults, "%s: %.*s: must be an object or null, found %s", o.file,
                     (int)strlen(o.where) - 1, o.where, json_kind_name(o.object));
        o.object = NULL;
    }
    for (void *it = o.object ? json_first(o.object) : NULL; it; it = json_next(o.object, it)) {
        if (json_kind(json_iter_value(it)) != JK_OBJECT) continue;
        problems_add(o.faults, "%s: %s%s: RoPE parameters by kind of layer are not supported",
                     o.file, o.where, json_iter_key(it));
        o.object = NULL; /* its other keys are such objects, too */
        break;
    }
    return o;
}

void llama_rope_read(const JsonFields *root, LlamaConfig *c)
{
    const JsonFields o = parameters_of(root);
    double partial = 1;
    c->rope_theta = 10000;
    fields_positive(root, "rope_theta", 1e30, &c->rope_theta);
    fields_positive(&o, "rope_theta", 1e30, &c->rope_theta);
    fields_positive(root, "partial_rotary_factor", 1e30, &partial);
    fields_positive(&o, "partial_rotary_factor", 1e30, &partial);
    if (partial != 1)
        problems_add(o.faults, "%s: partial_rotary_factor: %g is not supported, only 1", o.file,
                     partial);

    const char *type = "default", *key = fields_value(&o, "rope_type") ? "rope_type" : "type";
    fields_text(&o, key, &type);
    if (!fields_value(&o, key) && fields_value(&o, "factor"))
        problems_add(o.faults,
                     "%s: %srope_type: is missing, and there is a factor; name it (linear, "
                     "llama3), or take the factor out",
                     o.file, o.where);
    c->rope_type = str_eq(type, "linear")   ? ROPE_LINEAR
                   : str_eq(type, "llama3") ? ROPE_LLAMA3
                                            : ROPE_DEFAULT;
    if (c->rope_type != ROPE_DEFAULT)
        read_scaling(&o, type, c);
    else if (!str_eq(type, "default"))
        problems_add(o.faults, "%s: %s%s: '%s' is not supported; one of default, linear, llama3",
                     o.file, o.where, key, type);
}
