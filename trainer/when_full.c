#include "trainer/when_full.h"

const char *when_full_train(char *out, const TrainConfig *cfg, int ranks)
{
    const bool some = cfg->n_recompute_layers > 0;
    const Advice all[] = {
        {cfg->batch_micro > 1, "a smaller batch.micro"},
        {some, "train.recompute: full without train.recompute_layers"},
        {!some && cfg->mix.level < RECOMPUTE_FULL, "train.recompute: full"},
        {ranks > 1 && cfg->zero < 3, "parallel.zero: 3"},
        {cfg->offload != OFFLOAD_PARAMS, "parallel.offload: optimizer+params"},
        {true, "a smaller data.max_length"},
        {true, "a device with more memory"},
    };
    return ADVICE_TEXT(out, all);
}

const char *when_full_bench(char *out, const BenchOpts *o, Recompute level)
{
    const int ranks = o->hosts ? o->hosts->size : 1;
    const Advice all[] = {
        {o->micro > 1, "a smaller --micro"},
        {level < RECOMPUTE_FULL, "--recompute full"},
        {ranks > 1 && o->zero < 3, "--zero 3"},
        {o->offload != OFFLOAD_PARAMS, "--offload optimizer+params"},
        {o->seq > 2, "a smaller --seq"},
        {true, "a device with more memory"},
    };
    return ADVICE_TEXT(out, all);
}
