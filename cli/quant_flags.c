#include "cli/quant_flags.h"

#include "cli/flags.h"

QuantFlags quant_flags_defaults(void)
{
    return (QuantFlags){.block = OPT_UNSET_INT};
}

const char *quant_flags_given(const QuantFlags *f)
{
    if (f->type) return "quantize";
    if (f->block != OPT_UNSET_INT) return "quant-block";
    return f->single ? "single-quant" : NULL;
}

Status quant_flags_read(QuantOpts *out, const QuantFlags *f, Err *err)
{
    static const char *const types[] = {"none", "nf4", "fp4", "int8", "fp8", NULL};
    int type = QUANT_NONE;
    if (f->type) TRY(flag_choice(&type, "quantize", f->type, types, err));
    bool four_bits = quant_is_4bit((QuantType)type), block = f->block != OPT_UNSET_INT;
    *out = (QuantOpts){.type = (QuantType)type, .nested = four_bits && !f->single};
    if ((block || f->single) && !four_bits)
        return err_set(err, E_INPUT, "--%s: only with --quantize nf4 or fp4",
                       block ? "quant-block" : "single-quant");
    if (!block) return OK;
    out->block = f->block;
    if (quant_block_is_known(f->block)) return OK;
    return err_set(err, E_INPUT, "--quant-block: must be a power of two from %d to %d, is %lld",
                   (int)QUANT_LEAST_BLOCK, (int)QUANT_MOST_BLOCK, (long long)f->block);
}
