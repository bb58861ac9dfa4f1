/* Bits and errors of a quantised base, and which of its matrices are plain. */
#include "model/quant.h"

#include "base/str.h"
#include "model/llama.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Sums {
    double bits, square, lost;
    bool known;
} Sums;

static const char *last_name(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

static int class_of(QuantReport *r, const char *module)
{
    const char *name = last_name(module);
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
    for (int64_t i = 0; (l = llama_linear((Llama *)(uintptr_t)m, i)) != NULL; i++) {
        if (!l->w.t.quant) continue;
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

/* "down_proj of layers 0, 3-5": where a slice is in a plain matrix, decoded or not. */
static void list_layers(StrBuf *b, const Llama *m, int linear, int slice, bool decoded)
{
    int64_t n = m->cfg.n_layers, first = n, last = -1;
    StrBuf layers = {0};
    int n_listed = 0;
    for (int64_t i = 0; i <= n; i++) {
        const FusedLinear *l = i < n ? llama_linear((Llama *)(uintptr_t)m, 4 * i + linear) : NULL;
        bool listed = l && !l->w.t.quant && (l->quant.parts[slice].type != QUANT_NONE) == decoded;
        if (listed) {
            n_listed++;
            first = first < i ? first : i;
            last = i;
        } else if (first < n) {
            strbuf_printf(&layers, "%s%lld", layers.len ? ", " : "", (long long)first);
            if (last > first) strbuf_printf(&layers, "-%lld", (long long)last);
            first = n;
        }
    }
    const FusedLinear *l = llama_linear((Llama *)(uintptr_t)m, linear);
    if (n_listed)
        strbuf_printf(b, "%s%s of layer%s %s", b->len ? "; " : "", last_name(l->modules[slice]),
                      n_listed > 1 ? "s" : "", layers.data);
    strbuf_clear(&layers);
}

/* Whether there was something to say. */
static bool log_plain(const Llama *m, Log *log, bool decoded, const char *what)
{
    StrBuf b = {0};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < llama_linear((Llama *)(uintptr_t)m, k)->n_slices; i++)
            list_layers(&b, m, k, i, decoded);
    bool any = b.len > 0;
    if (any) log_info(log, "      %s: %s", what, b.data);
    strbuf_clear(&b);
    return any;
}

/* Groups by the name that people know, and the bits that theirs became. */
static void kind_text(StrBuf *b, const QuantFile *f, const QuantPart *p)
{
    if (!quant_is_group(p->type)) {
        char text[QUANT_TEXT];
        const QuantOpts o = {.type = p->type, .nested = p->nested, .block = p->block};
        strbuf_puts(b, quant_opts_text(text, &o));
        return;
    }
    const int kept = p->type == QUANT_GROUP4 ? 4 : 8;
    strbuf_printf(b, "%s of %d bits", quant_method_name(f->method), f->bits ? f->bits : kept);
    if (f->bits && f->bits != kept) strbuf_printf(b, " kept in %d", kept);
    if (p->block < p->cols) strbuf_printf(b, " in groups of %lld", (long long)p->block);
}

void quant_base_text(StrBuf *b, const Llama *m)
{
    const QuantPart *first = llama_quant_part(m);
    const double gib = 8.0 * (1 << 30);
    double bits = 0, numel = 0;
    int64_t n = 0;
    const FusedLinear *l;
    if (!first) return;
    for (int64_t i = 0; (l = llama_linear((Llama *)(uintptr_t)m, i)) != NULL; i++)
        for (int k = 0; l->w.t.quant && k < l->n_slices; k++, n++) {
            const QuantPart *p = &l->quant.parts[k];
            numel += (double)quant_numel(p);
            bits += quant_bits(p) * (double)quant_numel(p);
        }
    kind_text(b, &m->cfg.quant, first);
    strbuf_printf(b, ": %lld matrices of the blocks, %.2f M weights at %.2f bits (%.2f GiB)",
                  (long long)n, numel / 1e6, bits / numel, bits / gib);
}

void quant_report_log(const QuantReport *report, const Llama *m, Log *log)
{
    const QuantReport r = *report;
    const double gib = 8.0 * (1 << 30);
    StrBuf b = {0};
    quant_base_text(&b, m);
    if (b.len == 0) return;
    log_info(log, "base: %s", b.data);
    strbuf_reset(&b);
    bool some = log_plain(m, log, false, "not quantised in the files");
    log_plain(m, log, true, "decoded, as one matrix with some of those");
    size_t width = dtype_bytes(m->embed.t.dtype);
    log_info(log, "      %s: %sembedding, head, norms and biases, %.2f M weights (%.2f GiB)",
             dtype_name(m->embed.t.dtype), some ? "these, " : "", (double)r.plain_numel / 1e6,
             8 * (double)width * (double)r.plain_numel / gib);
    for (int i = 0; i < r.n_classes; i++)
        if (r.classes[i].error >= 0)
            strbuf_printf(&b, "%s%s %.2f %%", b.len ? ", " : "", r.classes[i].name,
                          100 * r.classes[i].error);
    if (b.len) log_info(log, "      error of quantising (rms, relative): %s", b.data);
    strbuf_clear(&b);
}
