/* Quantised bases and the report on them. */
#include "model/quant.h"

#include "base/str.h"
#include "model/llama.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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

static QuantPart part_of(const QuantOpts *o, int64_t rows, int64_t cols)
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
    QuantPart part = part_of(o, rows, cols);
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
    Quant *q = &l->quant;
    *q = (Quant){.n_parts = l->n_slices};
    for (int i = 0; i < l->n_slices; i++)
        q->parts[i] = part_of(o, l->rows[i], l->in);
    param_set_quant(&l->w, q);
}

void llama_quantize(Llama *m, const QuantOpts *o)
{
    if (o->type == QUANT_NONE) return;
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++)
        quantize_linear(l, o);
}

void llama_set_outliers(Llama *m, float threshold)
{
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear(m, i)) != NULL; i++) {
        ASSERT(l->w.t.quant && l->quant.parts[0].type == QUANT_INT8, "%s is not int8", l->w.name);
        l->quant.outliers = threshold;
    }
}

/* ---- the report --------------------------------------------------------------------------------- */

typedef struct Sums {
    double bits, square, lost;
    bool known;
} Sums;

static int class_of(QuantReport *r, const char *module)
{
    const char *dot = strrchr(module, '.'), *name = dot ? dot + 1 : module;
    int i = 0;
    while (i < r->n_classes && !str_eq(r->classes[i].name, name))
        i++;
    ASSERT(i < QUANT_MAX_CLASSES, "more than %d kinds of matrices", QUANT_MAX_CLASSES);
    if (i == r->n_classes)
        snprintf(r->classes[r->n_classes++].name, sizeof r->classes[0].name, "%s", name);
    return i;
}

static void add_part(QuantReport *r, Sums *sums, const Llama *m, const FusedLinear *l, int part)
{
    int k = class_of(r, l->modules[part]);
    const Quant *q = l->w.t.quant;
    const QuantPart *p = &q->parts[part];
    float pair
        [2]; /* what quantising has left: sums of squares, of the values and of what they lost */
    int64_t two = 2;
    Tensor view = tensor_shape(DT_F32, 1, &two);
    view.storage = q->packed.storage;
    view.offset = q->packed.offset + p->sums;
    tensor_read(m->dev, &view, pair);
    if (!isfinite(pair[0]) && !r->not_finite) r->not_finite = l->w.slices[part].name;
    r->classes[k].n++;
    r->classes[k].numel += quant_numel(p);
    sums[k].bits += quant_bits(p) * (double)quant_numel(p);
    sums[k].square += (double)pair[0];
    sums[k].lost += (double)pair[1];
    sums[k].known |= pair[0] != 0;
}

void quant_report(QuantReport *out, const Llama *m)
{
    *out = (QuantReport){0};
    Sums sums[QUANT_MAX_CLASSES] = {0};
    FusedLinear *l;
    for (int64_t i = 0; (l = llama_linear((Llama *)(uintptr_t)m, i)) != NULL && l->w.t.quant; i++) {
        param_open(&l->w);
        for (int k = 0; k < l->n_slices; k++)
            add_part(out, sums, m, l, k);
        param_close(&l->w, false);
    }
    for (int i = 0; i < out->n_classes; i++) {
        QuantClass *c = &out->classes[i];
        c->bits = sums[i].bits / (double)c->numel;
        c->error = sums[i].known ? sqrt(sums[i].lost / sums[i].square) : -1;
        out->numel += c->numel;
        out->n_matrices += c->n;
        out->bits += sums[i].bits;
    }
    if (out->numel > 0) out->bits /= (double)out->numel;
    for (int i = 0; i < m->params.n; i++) {
        const Param *p = m->params.items[i];
        if (!p->adapter && !p->t.quant) out->plain_numel += tensor_numel(&p->t);
    }
}

Status quant_not_finite(const char *from, const char *tensor, Err *err)
{
    return err_set(err, E_INPUT,
                   "%s: %s has values that are not finite, which quantising would hide; the file "
                   "is damaged or "
                   "its training went wrong: take an earlier one",
                   from, tensor);
}

void quant_report_log(const QuantReport *report, const Llama *m, Log *log)
{
    const QuantReport r = *report;
    if (r.n_classes == 0) return;
    const QuantPart *p = &m->blocks[0].qkv.quant.parts[0];
    const double gib = 8.0 * (1 << 30);
    log_info(log, "base: %s%s: %lld matrices of the blocks, %.2f M weights at %.2f bits (%.2f GiB)",
             quant_type_name(p->type), p->nested ? " with double quantisation" : "",
             (long long)r.n_matrices, (double)r.numel / 1e6, r.bits,
             r.bits * (double)r.numel / gib);
    size_t width = dtype_bytes(m->embed.t.dtype);
    log_info(log, "      %s: embedding, head, norms and biases, %.2f M weights (%.2f GiB)",
             dtype_name(m->embed.t.dtype), (double)r.plain_numel / 1e6,
             8 * (double)width * (double)r.plain_numel / gib);
    StrBuf b = {0};
    for (int i = 0; i < r.n_classes; i++)
        if (r.classes[i].error >= 0)
            strbuf_printf(&b, "%s%s %.2f %%", b.len ? ", " : "", r.classes[i].name,
                          100 * r.classes[i].error);
    if (b.len) log_info(log, "      error of quantising (rms, relative): %s", b.data);
    strbuf_clear(&b);
}
