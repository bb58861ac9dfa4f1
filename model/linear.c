/* A fused matrix and its product, through the adapters of its slices. */
#include "model/linear.h"

#include "autograd/operand.h"
#include "base/str.h"
#include "model/llama.h"
#include "model/lora.h"

#include <stdlib.h>
#include <string.h>

/* "self_attn" + q_proj, k_proj, v_proj -> "self_attn.qkv"; gate_proj, up_proj -> "mlp.gate_up". */
static char *fused_name(const char *prefix, int n, const char *const *names)
{
    StrBuf b = {0};
    strbuf_printf(&b, "%s.", prefix);
    if (n == 1) strbuf_puts(&b, names[0]);
    for (int i = 0; i < n && n > 1; i++) {
        size_t len = strlen(names[i]);
        if (str_ends(names[i], "_proj")) len -= strlen("_proj");
        if (i > 0 && len > 1) strbuf_putc(&b, '_');
        strbuf_append(&b, names[i], len);
    }
    return strbuf_take(&b);
}

static void init_param(Param *p, const FusedLinear *l, const char *name, const char *what,
                       DType dtype, int64_t rows, int64_t cols, int unit)
{
    char *full = str_format("%s.%s", name, what);
    param_init(p, full, dtype, rows, cols, unit);
    free(full);
    char *slices[PARAM_MAX_SLICES];
    for (int i = 0; i < l->n_slices; i++)
        slices[i] = str_format("%s.%s", l->modules[i], what);
    param_set_slices(p, l->n_slices, (const char *const *)slices, l->rows);
    for (int i = 0; i < l->n_slices; i++)
        free(slices[i]);
}

void fused_linear_init(FusedLinear *l, const char *prefix, int n, const char *const *names,
                       const int64_t *rows, int64_t in, bool bias, DType dtype, int unit,
                       uint64_t site)
{
    ASSERT(n >= 1 && n <= PARAM_MAX_SLICES, "%s: %d slices", prefix, n);
    *l = (FusedLinear){.has_bias = bias, .n_slices = n, .in = in, .site = site};
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        l->modules[i] = str_format("%s.%s", prefix, names[i]);
        l->row0[i] = total;
        l->rows[i] = rows[i];
        total += rows[i];
    }
    char *name = fused_name(prefix, n, names);
    init_param(&l->w, l, name, "weight", dtype, total, in, unit);
    if (bias) init_param(&l->bias, l, name, "bias", dtype, total, 0, unit);
    free(name);
}

void fused_linear_clear(FusedLinear *l)
{
    param_clear(&l->w);
    if (l->has_bias) param_clear(&l->bias);
    for (int i = 0; i < l->n_slices; i++)
        free(l->modules[i]);
    *l = (FusedLinear){0};
}

void fused_linear_params(FusedLinear *l, ParamSet *set)
{
    paramset_add(set, &l->w);
    if (l->has_bias) paramset_add(set, &l->bias);
    for (int i = 0; i < l->n_slices; i++) {
        if (!l->lora[i]) continue;
        paramset_add(set, &l->lora[i]->a);
        paramset_add(set, &l->lora[i]->b);
        if (l->lora[i]->has_m) paramset_add(set, &l->lora[i]->m);
    }
}

static int64_t total_rank(const FusedLinear *l)
{
    int64_t rank = 0;
    for (int i = 0; i < l->n_slices; i++)
        if (l->lora[i]) rank += l->lora[i]->rank;
    return rank;
}

void fused_linear_choose_form(FusedLinear *l)
{
    bool drops = false;
    for (int i = 0; i < l->n_slices; i++)
        drops |= l->lora[i] && l->lora[i]->dropout > 0;
    int64_t rank = total_rank(l);
    l->augmented = rank > 0 && !drops && !l->w.trained;
    l->w.room_version = l->norms_of = l->base_norms_of = 0;
    if (!param_is_there(&l->w))
        param_set_room(&l->w, l->augmented ? rank : 0, fused_linear_pad(l));
    else
        l->augmented = false; /* no room */
}

int64_t fused_linear_pad(const FusedLinear *l)
{
    return l->augmented ? lora_pad(total_rank(l)) : 0;
}

static bool has_magnitudes(const FusedLinear *l)
{
    for (int i = 0; i < l->n_slices; i++)
        if (l->lora[i] && l->lora[i]->has_m) return true;
    return false;
}

/* Those of the adapters' slices, unless they are of A, B and W as they are: made again, or for the next micro-batch, a pass
 * has the same. */
static void refresh_norms(Ctx *c, FusedLinear *l, const LoraSlice *slices, uint64_t version)
{
    uint64_t base = l->w.version + 1, all = base + version;
    if (l->norms_of == all) return;
    DoraNorms norms[LORA_MAX_SLICES];
    int n = 0;
    for (int i = 0; i < l->n_slices; i++)
        if (l->lora[i])
            norms[n++] = (DoraNorms){&l->lora[i]->norm, &l->lora[i]->base_norm,
                                     .measure_base = l->base_norms_of != base};
    dora_norms(c, &l->w.t, slices, norms, n);
    l->norms_of = all;
    l->base_norms_of = base;
}

static Tensor *with_magnitudes(Ctx *c, FusedLinear *l, Tensor *x, Tensor *residual,
                               const Batch *batch, const LoraSlice *slices, int n, uint64_t version)
{
    Tensor *z, *rest, *bias = l->has_bias ? &l->bias.t : NULL;
    bool drops = false, last = c->last;
    c->last = false; /* of the ops here the one that scales is */
    DoraSlice dora[LORA_MAX_SLICES] = {0};
    for (int i = 0, k = 0; i < l->n_slices; i++) {
        if (!l->lora[i]) continue;
        dora[k] = (DoraSlice){&l->lora[i]->m.t, &l->lora[i]->norm, l->row0[i]};
        drops |= slices[k++].dropout > 0;
    }
    refresh_norms(c, l, slices, version);
    if (drops) {
        op_linear_dora(c, x, &l->w.t, bias, residual, slices, n, batch->samples, batch->positions,
                       &z, &rest);
        c->last = last;
        return op_dora(c, z, NULL, rest, dora, n);
    }
    bool direct = operand_is_direct(c, &l->w.t, tensor_rows(x));
    z = l->augmented && !direct ? op_linear_augmented(c, x, &l->w.t, NULL, NULL, slices, n, version)
                                : op_linear_lora(c, x, &l->w.t, NULL, NULL, slices, n, NULL, NULL);
    c->last = last;
    return op_dora(c, z, bias, residual, dora, n);
}

bool fused_linear_can_norm(const Ctx *c, const FusedLinear *l, int64_t n_rows)
{
    for (int i = 0; i < l->n_slices; i++)
        if (l->lora[i]) return false; /* adapters want the normed x, too */
    return operand_is_direct(c, &l->w.t, n_rows);
}

Tensor *fused_linear_normed(Ctx *c, FusedLinear *l, Tensor *x, Param *norm, float eps)
{
    return op_linear_normed(c, x, &norm->t, eps, &l->w.t, l->has_bias ? &l->bias.t : NULL);
}

Tensor *fused_linear(Ctx *c, FusedLinear *l, Tensor *x, Tensor *residual, const Batch *batch)
{
    Tensor *bias = l->has_bias ? &l->bias.t : NULL;
    LoraSlice slices[LORA_MAX_SLICES];
    int n = 0;
    uint64_t version = 1;
    for (int i = 0; i < l->n_slices; i++) {
        Lora *lora = l->lora[i];
        if (!lora) continue;
        version += lora->a.version + lora->b.version;
        slices[n++] = (LoraSlice){.a = &lora->a.t,
                                  .b = &lora->b.t,
                                  .row0 = l->row0[i],
                                  .scale = lora->scale,
                                  .dropout = batch->dropout ? lora->dropout : 0,
                                  .site = l->site + (uint64_t)i};
    }
    if (n == 0) return op_linear(c, x, &l->w.t, bias, residual);
    if (has_magnitudes(l)) return with_magnitudes(c, l, x, residual, batch, slices, n, version);
    if (operand_is_direct(c, &l->w.t, tensor_rows(x)))
        return op_linear_lora(c, x, &l->w.t, bias, residual, slices, n, NULL, NULL);
    if (l->augmented) return op_linear_augmented(c, x, &l->w.t, bias, residual, slices, n, version);
    return op_linear_lora(c, x, &l->w.t, bias, residual, slices, n, batch->samples,
                          batch->positions);
}
