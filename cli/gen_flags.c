#include "cli/gen_flags.h"

#include "cli/flags.h"

GenFlags gen_flags_defaults(void)
{
    GenerateOpts o = generate_defaults();
    return (GenFlags){.max_new_tokens = o.max_new_tokens,
                      .batch = o.batch,
                      .top_k = OPT_UNSET_INT,
                      .seed = OPT_UNSET_INT,
                      .top_p = OPT_UNSET_NUMBER,
                      .min_p = OPT_UNSET_NUMBER,
                      .repetition_penalty = o.sampler.repetition_penalty};
}

static Status needs_temperature(const GenFlags *f, Err *err)
{
    const char *name = f->top_k != OPT_UNSET_INT      ? "top-k"
                       : f->top_p != OPT_UNSET_NUMBER ? "top-p"
                       : f->min_p != OPT_UNSET_NUMBER ? "min-p"
                       : f->seed != OPT_UNSET_INT     ? "seed"
                                                      : NULL;
    if (!name || f->temperature != 0) return OK;
    return err_set(err, E_INPUT,
                   "--%s: changes nothing while the choice is greedy; give --temperature above 0",
                   name);
}

Status gen_flags_apply(GenerateOpts *o, const GenFlags *f, Err *err)
{
    *o = generate_defaults();
    if (f->max_new_tokens < 1 || f->max_new_tokens > 1 << 24)
        return err_set(err, E_INPUT, "--max-new-tokens: must be 1 to 16777216, got %lld",
                       (long long)f->max_new_tokens);
    if (f->batch < 1 || f->batch > 4096)
        return err_set(err, E_INPUT, "--batch: must be 1 to 4096, got %lld", (long long)f->batch);
    for (int i = 0; i < f->stop.n; i++)
        if (!*f->stop.items[i]) return err_set(err, E_INPUT, "--stop: the text is empty");
    TRY(needs_temperature(f, err));
    if (f->seed != OPT_UNSET_INT) TRY(flag_range("seed", f->seed, 0, INT64_MAX, err));
    o->max_new_tokens = f->max_new_tokens;
    o->batch = f->batch;
    o->stop = f->stop.items;
    o->n_stop = f->stop.n;
    SamplerOpts *s = &o->sampler;
    s->temperature = f->temperature;
    s->repetition_penalty = f->repetition_penalty;
    if (f->top_k != OPT_UNSET_INT) s->top_k = f->top_k;
    if (f->top_p != OPT_UNSET_NUMBER) s->top_p = f->top_p;
    if (f->min_p != OPT_UNSET_NUMBER) s->min_p = f->min_p;
    if (f->seed != OPT_UNSET_INT) s->seed = (uint64_t)f->seed;
    return sampler_check(s, err);
}

const char *gen_flags_when_full(char *out, const GenerateOpts *o, int64_t batch, bool quantised)
{
    const Advice all[] = {
        {batch > 1, "a smaller --batch"},
        {o->max_new_tokens > 1, "a smaller --max-new-tokens"},
        {!quantised, "--quantize nf4"},
        {true, "a device with more memory"},
    };
    return ADVICE_TEXT(out, all);
}
