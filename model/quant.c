/* Which matrices of a model are quantised, and how.  What that cost is quant_report.c's. */
#include "model/quant.h"

#include "model/llama.h"

#include <stdio.h>

QuantOpts quant_opts_of(const QuantFile *f)
{
    return (QuantOpts){.type = f->type,
                       .nested = f->nested,
                       .block = f->block,
                       .group = f->group,
                       .ordered = f->ordered};
}

static int64_t block_of(const QuantOpts *o, int64_t cols)
{
    if (quant_is_4bit(o->type)) return o->block ? o->block : QUANT_BLOCK;
    return quant_is_group(o->type) && o->group > 0 ? o->group : cols;
}

QuantOpts quant_opts_to_write(const QuantFile *f)
{
    if (f->type == QUANT_GROUP8) return (QuantOpts){.type = QUANT_INT8};
    if (f->type == QUANT_GROUP4) return (QuantOpts){.type = QUANT_NF4, .nested = true};
    return quant_opts_of(f);
}

const char *quant_opts_text(char buf[QUANT_TEXT], const QuantOpts *o)
{
    const char *name = quant_type_name(o->type);
    if (quant_is_4bit(o->type))
        snprintf(buf, QUANT_TEXT, "%s in blocks of %lld%s", name, (long long)block_of(o, 0),
                 o->nested ? " with double quantisation" : "");
    else
        snprintf(buf, QUANT_TEXT, "%s", name);
    return buf;
}

static const FusedLinear *linear_at(const Llama *m, int64_t i)
{
    return llama_linear((Llama *)(uintptr_t)m, i);
}

QuantPart quant_part(const QuantOpts *o, int64_t rows, int64_t cols)
{
    return (QuantPart){.type = o->type,
                       .rows = rows,
                       .cols = cols,
                       .block = block_of(o, cols),
                       .nested = quant_is_4bit(o->type) && o->nested,
                       .ordered = quant_is_group(o->type) && o->ordered};
}

void quant_round(Device *d, const QuantOpts *o, float *x, int64_t rows, int64_t cols)
{
    QuantPart part = quant_part(o, rows, cols);
    size_t bytes = 0;
    quant_place(&part, &bytes);
    int64_t n = (int64_t)bytes, shape[2] = {rows, cols};
    Tensor values = tensor_alloc(d, DT_F32, 2, shape, MEM_WORKSPACE);
    Tensor packed = tensor_alloc(d, DT_U8, 1, &n, MEM_WORKSPACE);
    tensor_zero(d, &packed);
    tensor_write(d, &values, x);
    d->k->quantize(d, &packed, &part, &values);
    d->k->dequantize(d, &values, &packed, &part, 1);
    tensor_read(d, &values, x);
    tensor_clear(&values);
    tensor_clear(&packed);
}

static void quantize_linear(FusedLinear *l, const QuantOpts *o)
{
    l->quant = (Quant){.n_parts = l->n_slices};
    for (int i = 0; i < l->n_slices; i++)
        l->quant.parts[i] = quant_part(o, l->rows[i], l->in);
    param_set_quant(&l->w, &l->quant);
}

void llama_quantize(Llama *m, const QuantOpts *o)
{
    if (o->type == QUANT_NONE) return;
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++)
        quantize_linear(l, o);
}

/* How many slices the file has in codes.  The matrix is quantised if it has all of them so. */
static int quantize_linear_as(FusedLinear *l, const QuantOpts *o, const QuantFile *f,
                              const SafeTensors *from)
{
    int n = 0;
    l->quant = (Quant){.n_parts = l->n_slices};
    for (int i = 0; i < l->n_slices; i++) {
        if (!quant_file_has(f, from, l->modules[i])) continue;
        l->quant.parts[i] = quant_part(o, l->rows[i], l->in);
        n++;
    }
    if (n == l->n_slices) param_set_quant(&l->w, &l->quant);
    return n;
}

Status llama_quantize_as(Llama *m, const char *dir, Err *err)
{
    const QuantFile *f = &m->cfg.quant;
    const QuantOpts o = quant_opts_of(f);
    SafeTensors *from;
    Err none = {0};
    if (o.type == QUANT_NONE) return OK;
    if (safetensors_open(&from, dir, &none) != OK) {
        llama_quantize(m, &o);
        return OK;
    }
    int64_t n = 0;
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++)
        n += quantize_linear_as(l, &o, f, from);
    safetensors_close(from);
    return n > 0 ? OK
                 : err_set(err, E_INPUT,
                           "%s: the model is said to be quantised by %s, but not one matrix of its "
                           "files is; remove quantization_config from config.json, or "
                           "quantize_config.json",
                           dir, quant_method_name(f->method));
}

const QuantPart *llama_quant_part(const Llama *m)
{
    const FusedLinear *l;
    for (int64_t i = 0; (l = linear_at(m, i)) != NULL; i++)
        if (l->w.t.quant) return &l->quant.parts[0];
    return NULL;
}

const QuantPart *llama_decoded_part(const Llama *m, const Param *p, int slice)
{
    if (p->t.quant || p->unit < 1 || p->unit > m->cfg.n_layers) return NULL;
    for (int k = 0; k < 4; k++) {
        const FusedLinear *l = linear_at(m, 4 * (int64_t)(p->unit - 1) + k);
        if (&l->w == p) return l->quant.parts[slice].type ? &l->quant.parts[slice] : NULL;
    }
    return NULL;
}

const char *llama_decoded_module(const Llama *m)
{
    const FusedLinear *l;
    for (int64_t i = 0; (l = linear_at(m, i)) != NULL; i++)
        for (int k = 0; k < l->n_slices; k++)
            if (llama_decoded_part(m, &l->w, k)) return l->modules[k];
    return NULL;
}

void llama_set_outliers(Llama *m, float threshold)
{
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++) {
        if (!l->w.t.quant) continue;
        ASSERT(l->quant.parts[0].type == QUANT_INT8, "%s is not int8", l->w.name);
        l->quant.outliers = threshold;
    }
}
