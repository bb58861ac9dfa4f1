/* Mixes of levels in the order of their time, and the first that fits. */
#include "trainer/recompute.h"

const char *recompute_name(int level)
{
    static const char *const names[] = {"none", "selective", "attention", "full", "auto"};
    return level >= 0 && level <= RECOMPUTE_AUTO ? names[level] : NULL;
}

void recompute_apply(Llama *m, RecomputeMix mix)
{
    int64_t last = m->cfg.n_layers - 1;
    for (int64_t i = 0; i <= last; i++)
        m->segments[i].recompute = i < mix.n_more ? mix.level + 1 : mix.level;
    /* its backward comes next, and would have to make everything again beside what the head took */
    if (m->segments[last].recompute > RECOMPUTE_SELECTIVE)
        m->segments[last].recompute = RECOMPUTE_SELECTIVE;
}

static void blocks_text(StrBuf *b, int64_t n)
{
    if (n == 1)
        strbuf_puts(b, "block 0");
    else
        strbuf_printf(b, "blocks 0 to %lld", (long long)n - 1);
}

void recompute_mix_text(StrBuf *b, RecomputeMix mix, int64_t n_layers)
{
    if (mix.n_more > 0) {
        strbuf_printf(b, "%s in ", recompute_name((int)mix.level + 1));
        blocks_text(b, mix.n_more);
        strbuf_printf(b, ", %s in the other %lld", recompute_name((int)mix.level),
                      (long long)(n_layers - mix.n_more));
    } else {
        strbuf_puts(b, recompute_name((int)mix.level));
    }
}

/* Rung 0 is none, rung n_layers selective, the last one full. */
static RecomputeMix mix_at(int64_t rung, int64_t n_layers)
{
    return (RecomputeMix){(Recompute)(rung / n_layers), rung % n_layers};
}

RecomputeMix recompute_fit(size_t *need, int64_t n_layers, size_t bytes, RecomputeNeed *fn,
                           void *ud)
{
    int64_t too_much = 0, fits = RECOMPUTE_FULL * n_layers;
    *need = fn(ud, mix_at(fits, n_layers));
    while (*need <= bytes && fits - too_much > 1) {
        int64_t middle = (too_much + fits) / 2;
        size_t n = fn(ud, mix_at(middle, n_layers));
        if (n <= bytes) {
            fits = middle;
            *need = n;
        } else {
            too_much = middle;
        }
    }
    return mix_at(fits, n_layers);
}
