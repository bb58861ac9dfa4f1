/* Flags of a benchmark, checked and turned into its options. */
#include "cli/bench_flags.h"

#include "base/fs.h"
#include "cli/flags.h"
#include "trainer/bench_batch.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LENGTHS = 1 << 22, MAX_LENGTH = 1 << 24, MATRIX_SEQ = 350, MATRIX_MICRO = 32 };

BenchFlags bench_flags_defaults(void)
{
    return (BenchFlags){.zero = OPT_UNSET_INT,
                        .prefetch = OPT_UNSET_INT,
                        .ctas = OPT_UNSET_INT,
                        .spare = OPT_UNSET_INT,
                        .scratches = OPT_UNSET_INT,
                        .quant_block = OPT_UNSET_INT,
                        .batch = OPT_UNSET_INT,
                        .prompt = OPT_UNSET_INT,
                        .new_tokens = OPT_UNSET_INT,
                        .device = backend_find("cuda") ? "cuda" : "cpu",
                        .rank = OPT_UNSET_INT,
                        .seq = OPT_UNSET_INT,
                        .micro = OPT_UNSET_INT,
                        .steps = OPT_UNSET_INT,
                        .seconds = OPT_UNSET_NUMBER,
                        .dropout = OPT_UNSET_NUMBER};
}

void bench_flags_clear(BenchFlags *f)
{
    free(f->target_text);
    f->target_text = NULL;
}

/* Flags of the other way are refused, so that none is given in vain. */
static Status check_way(const BenchFlags *f, Err *err)
{
    const bool step = !f->decode, decodes = f->decode;
    const FlagUse flags[] = {
        {"method", f->method, step},
        {"seq", f->seq != OPT_UNSET_INT, step},
        {"micro", f->micro != OPT_UNSET_INT, step},
        {"rows", f->rows, step},
        {"lengths", f->lengths, step},
        {"recompute", f->recompute, step},
        {"attention", f->attention, step},
        {"scratches", f->scratches != OPT_UNSET_INT, step},
        {"embedding", f->embedding, step},
        {"states", f->states, step},
        {"largest", f->largest, step},
        {"steps-only", f->steps_only, step},
        {"decode-ahead", f->decode_ahead, step},
        {"gradients", f->gradients, step},
        {"update", f->update, step},
        {"reduce", f->reduce, step},
        {"offload", f->offload, step},
        {"dropout", f->dropout != OPT_UNSET_NUMBER, step},
        {"dora", f->dora, step},
        {"seconds", f->seconds != OPT_UNSET_NUMBER, step},
        {"steps", f->steps != OPT_UNSET_INT, step},
        {"zero", f->zero != OPT_UNSET_INT, step},
        {"prefetch", f->prefetch != OPT_UNSET_INT, step},
        {"ctas", f->ctas != OPT_UNSET_INT, step},
        {"spare", f->spare != OPT_UNSET_INT, step},
        {"deterministic", f->deterministic, step},
        {"exact", f->exact, step},
        {"kernels", f->kernels, step},
        {"profile", f->profile, step},
        {"matrix", f->matrix, step},
        {"batch", f->batch != OPT_UNSET_INT, decodes},
        {"prompt", f->prompt != OPT_UNSET_INT, decodes},
        {"new", f->new_tokens != OPT_UNSET_INT, decodes},
        {"unmerged", f->unmerged, decodes},
        {"no-graph", f->no_graph, decodes},
        {"no-early", f->no_early, decodes},
    };
    TRY(CHECK_USE(flags, f->decode ? "with --decode" : "without --decode", err));
    const bool adapters = !f->method || !str_eq(f->method, "full");
    const FlagUse of_adapters[] = {{"rank", f->rank != OPT_UNSET_INT, adapters},
                                   {"targets", f->targets, adapters},
                                   {"dropout", f->dropout != OPT_UNSET_NUMBER, adapters},
                                   {"dora", f->dora, adapters}};
    TRY(CHECK_USE(of_adapters, "with --method full", err));
    const bool ranks = f->hosts && f->hosts->size > 1, brings = ranks || f->offload;
    const FlagUse of_ranks[] = {{"zero", f->zero != OPT_UNSET_INT, ranks},
                                {"prefetch", f->prefetch != OPT_UNSET_INT, brings},
                                {"ctas", f->ctas != OPT_UNSET_INT, ranks}};
    TRY(CHECK_USE(of_ranks, "on one rank", err));
    bool quantised = f->matrix || (f->method && str_eq(f->method, "qlora"));
    if (!quantised && (f->scratches != OPT_UNSET_INT || f->decode_ahead))
        return err_set(err, E_INPUT, "--%s: only with --method qlora",
                       f->decode_ahead ? "decode-ahead" : "scratches");
    if (f->decode_ahead && f->scratches == 1)
        return err_set(err, E_INPUT, "--decode-ahead: needs --scratches of 2 or more");
    return OK;
}

static void fill_defaults(BenchFlags *f)
{
    const struct {
        const char **flag, *value;
    } texts[] = {{&f->method, "lora"},  {&f->recompute, "auto"},    {&f->attention, "library"},
                 {&f->reduce, "fp32"},  {&f->rows, "both"},         {&f->embedding, "device"},
                 {&f->offload, "none"}, {&f->targets, "all-linear"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!*texts[i].flag) *texts[i].flag = texts[i].value;
    const struct {
        int64_t *flag, value;
    } numbers[] = {{&f->seq, f->matrix ? MATRIX_SEQ : 4096},
                   {&f->micro, f->matrix ? MATRIX_MICRO : 1},
                   {&f->scratches, BENCH_SCRATCHES},
                   {&f->steps, 3},
                   {&f->rank, 16},
                   {&f->zero, 1},
                   {&f->prefetch, 1},
                   {&f->ctas, -1},
                   {&f->spare, -1},
                   {&f->batch, 1},
                   {&f->prompt, 512},
                   {&f->new_tokens, 128}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (*numbers[i].flag == OPT_UNSET_INT) *numbers[i].flag = numbers[i].value;
    if (f->seconds == OPT_UNSET_NUMBER) f->seconds = 10;
    if (f->dropout == OPT_UNSET_NUMBER) f->dropout = 0;
}

Status bench_flags_check(BenchFlags *f, Err *err)
{
    TRY(check_way(f, err));
    fill_defaults(f);
    f->target_text = xstrdup(f->targets);
    char *rest = NULL;
    for (char *t = strtok_r(f->target_text, ",", &rest); t && f->n_targets < BENCH_MAX_TARGETS;
         t = strtok_r(NULL, ",", &rest))
        f->target_names[f->n_targets++] = t;
    return OK;
}

static Status read_model(LlamaConfig *shape, const char *name, Err *err)
{
    if (!name) return err_set(err, E_INPUT, "lorac bench: name a shape: --model llama-3-8b");
    return flag_shape(shape, "model", name, err);
}

static Status read_memory(const BenchFlags *f, Err *err)
{
    if (f->memory >= 0 && f->memory <= 1e6) return OK;
    return err_set(err, E_INPUT, "--memory: must be from 0 to 1e6 GiB, is %g", f->memory);
}

static void fill_adapters(LoraOpts *l, const BenchFlags *f)
{
    l->targets = (char **)(uintptr_t)f->target_names;
    l->n_targets = f->n_targets;
    l->rank = f->rank;
    l->alpha = 2.0 * (double)f->rank;
    l->dropout = f->dropout;
    l->dora = f->dora;
}

/* Lengths of documents, numbers between white space. */
static Status read_lengths(BenchOpts *o, const char *path, Err *err)
{
    char *text;
    size_t len;
    TRY(file_read(&text, &len, path, err));
    int32_t *lens = NULL;
    int64_t n = 0, cap = 0;
    Status s = OK;
    for (char *at = text + strspn(text, " \t\r\n"); *at && s == OK; at += strspn(at, " \t\r\n")) {
        char *end;
        long v = strtol(at, &end, 10);
        if (end == at || v < 1 || v > MAX_LENGTH || n == MAX_LENGTHS)
            s = err_set(err, E_INPUT, "%s: length %lld must be from 1 to %d: %.20s", path,
                        (long long)n + 1, MAX_LENGTH, at);
        if (n == cap) {
            cap = cap ? 2 * cap : 1024;
            lens = xrealloc(lens, (size_t)cap * sizeof *lens);
        }
        lens[n++] = (int32_t)v;
        at = end;
    }
    free(text);
    if (s == OK && n == 0) s = err_set(err, E_INPUT, "%s: holds no lengths", path);
    o->lens = lens;
    o->n_lens = n;
    return s;
}

/* As train.gradients and train.update, of which auto is the default here. */
static Status read_gradients(BenchOpts *o, const BenchFlags *f, bool full, bool bf16, Err *err)
{
    static const char *const dtypes[] = {"fp32", "bf16", NULL}, *const updates[] = {
                                                                    "after", "in_backward", NULL};
    int gradients = full && bf16, update = full && bf16;
    if (f->gradients) TRY(flag_choice(&gradients, "gradients", f->gradients, dtypes, err));
    if (f->update) TRY(flag_choice(&update, "update", f->update, updates, err));
    if (gradients && !(full && bf16))
        return err_set(err, E_INPUT, "--gradients: bf16 is for --method full in bf16");
    if (update && !full) return err_set(err, E_INPUT, "--update: in_backward is for --method full");
    o->gradients = gradients ? DT_BF16 : DT_F32;
    o->in_backward = update;
    return OK;
}

/* What goes with a type of the base. */
static Status read_quant(QuantOpts *q, const BenchFlags *f, Err *err)
{
    q->nested = quant_is_4bit(q->type) && !f->single_quant;
    if (f->quant_block == OPT_UNSET_INT) return OK;
    q->block = f->quant_block;
    if (quant_is_4bit(q->type) && quant_block_is_known(f->quant_block)) return OK;
    return err_set(err, E_INPUT,
                   "--quant-block: with nf4 and fp4, a power of two from %d to %d; is %lld",
                   (int)QUANT_LEAST_BLOCK, (int)QUANT_MOST_BLOCK, (long long)f->quant_block);
}

/* The model, and the type in which its base is kept; what else goes with that is checked in read_quant. */
static Status read_base(BenchOpts *o, const BenchFlags *f, Err *err)
{
    static const char *const methods[] = {"lora", "full", "qlora", NULL}, *const quants[] = {
                                                                              "nf4", "fp4", "int8",
                                                                              "fp8", NULL};
    int quant = 0;
    TRY(read_model(&o->shape, f->model, err));
    TRY(flag_choice(&o->method, "method", f->method, methods, err));
    if (f->quantize) TRY(flag_choice(&quant, "quantize", f->quantize, quants, err));
    if (o->method == METHOD_QLORA) {
        o->quant.type = (QuantType)(QUANT_NF4 + quant);
        return OK;
    }
    if (f->quantize || f->single_quant || f->quant_block != OPT_UNSET_INT)
        return err_set(err, E_INPUT, "--%s: only with --method qlora",
                       f->quantize       ? "quantize"
                       : f->single_quant ? "single-quant"
                                         : "quant-block");
    return OK;
}

/* How the step computes. */
static Status read_step(BenchOpts *o, const BenchFlags *f, Err *err)
{
    static const char *const attentions[] = {"library", "own", NULL},
                             *const places[] = {"device", "host", NULL},
                             *const states[] = {"fp32", "int8", NULL},
                             *const rows[] = {"both", "full", "packed", NULL};
    const char *recomputes[RECOMPUTE_AUTO + 2];
    for (int i = 0; i <= RECOMPUTE_AUTO + 1; i++)
        recomputes[i] = recompute_name(i);
    int attention, kind, place, format = STATES_FP32;
    TRY(flag_precision(&o->compute, f->precision, f->device, err));
    TRY(flag_choice(&o->recompute, "recompute", f->recompute, recomputes, err));
    TRY(flag_choice(&attention, "attention", f->attention, attentions, err));
    TRY(flag_choice(&kind, "rows", f->rows, rows, err));
    TRY(flag_choice(&place, "embedding", f->embedding, places, err));
    TRY(read_gradients(o, f, o->method == METHOD_FULL, o->compute == DT_BF16, err));
    if (f->states) TRY(flag_choice(&format, "states", f->states, states, err));
    o->states = (StatesFormat)format;
    o->own_attention = attention == 1;
    o->embed_on_host = place == 1;
    o->full = kind != 2;
    o->packed = kind != 1;
    return OK;
}

static Status check_numbers(const BenchFlags *f, Err *err)
{
    TRY(flag_range("rank", f->rank, 1, 65536, err));
    TRY(flag_range("seq", f->seq, 2, 1 << 24, err));
    TRY(flag_range("micro", f->micro, 1, (1 << 30) / f->seq, err));
    TRY(flag_range("steps", f->steps, 1, 1000000, err));
    TRY(flag_range("threads", f->threads, 0, 4096, err));
    TRY(flag_range("scratches", f->scratches, 1, 16, err));
    if (!(f->seconds >= 0 && f->seconds <= 3600))
        return err_set(err, E_INPUT, "--seconds: must be from 0 to 3600, is %g", f->seconds);
    if (!(f->dropout >= 0 && f->dropout < 1))
        return err_set(err, E_INPUT, "--dropout: must be from 0 to below 1, is %g", f->dropout);
    return read_memory(f, err);
}

/* What ranks share, and how. */
static Status read_ranks(BenchOpts *o, const BenchFlags *f, Err *err)
{
    static const char *const reduces[] = {"fp32", "bf16", "fp32-sent", NULL};
    const char *offloads[OFFLOAD_PARAMS + 2];
    for (int i = 0; i <= OFFLOAD_PARAMS + 1; i++)
        offloads[i] = offload_name(i);
    int reduce, offload;
    TRY(flag_range("zero", f->zero, 0, 3, err));
    TRY(flag_choice(&reduce, "reduce", f->reduce, reduces, err));
    TRY(flag_choice(&offload, "offload", f->offload, offloads, err));
    if (str_eq(f->device, "cpu") && reduce == 1)
        return err_set(err, E_INPUT, "--reduce: the CPU computes in fp32; leave it out");
    TRY(flag_range("prefetch", f->prefetch, 0, 16, err));
    TRY(flag_range("ctas", f->ctas, -1, 64, err));
    TRY(flag_range("spare", f->spare, -1, 64, err));
    o->hosts = f->hosts;
    o->zero = (int)f->zero;
    o->reduce = reduce == 1 ? DT_BF16 : DT_F32;
    o->widen = reduce == 2;
    o->offload = (Offload)offload;
    o->prefetch = (int)f->prefetch;
    o->ctas = (int)f->ctas;
    o->spare = (int)f->spare;
    return OK;
}

Status bench_flags_step(BenchOpts *o, const BenchFlags *f, Err *err)
{
    *o = (BenchOpts){.device = f->device,
                     .memory_gib = f->memory,
                     .threads = (int)f->threads,
                     .seq = f->seq,
                     .micro = f->micro,
                     .scratches = (int)f->scratches,
                     .seconds = f->seconds,
                     .steps = f->steps,
                     .decode_ahead = f->decode_ahead,
                     .deterministic = f->deterministic,
                     .exact = f->exact,
                     .no_floor = f->exact || f->steps_only,
                     .steps_only = f->steps_only,
                     .largest = f->largest,
                     .profile = f->profile,
                     .kernels = f->kernels};
    TRY(read_base(o, f, err));
    TRY(read_step(o, f, err));
    TRY(check_numbers(f, err));
    TRY(read_ranks(o, f, err));
    if (o->method == METHOD_QLORA) TRY(read_quant(&o->quant, f, err));
    fill_adapters(&o->lora, f);
    if (f->lengths) return read_lengths(o, f->lengths, err);
    o->lens = bench_samsum_lengths(&o->n_lens);
    return OK;
}

Status bench_flags_decode(DecodeBenchOpts *d, LoraOpts *lora, const BenchFlags *f, Err *err)
{
    static const char *const quants[] = {"none", "nf4", "fp4", "int8", "fp8", NULL};
    int quant = 0;
    *d = (DecodeBenchOpts){.device = f->device,
                           .threads = (int)f->threads,
                           .memory_gib = f->memory,
                           .batch = f->batch,
                           .prompt = f->prompt,
                           .new_tokens = f->new_tokens,
                           .no_graph = f->no_graph,
                           .no_early = f->no_early};
    TRY(read_model(&d->shape, f->model, err));
    if (f->quantize) TRY(flag_choice(&quant, "quantize", f->quantize, quants, err));
    TRY(flag_precision(&d->compute, f->precision, f->device, err));
    TRY(flag_range("batch", f->batch, 1, 4096, err));
    TRY(flag_range("prompt", f->prompt, 1, 1 << 20, err));
    TRY(flag_range("new", f->new_tokens, 1, 1 << 20, err));
    TRY(flag_range("rank", f->rank, 1, 65536, err));
    TRY(flag_range("threads", f->threads, 0, 4096, err));
    TRY(read_memory(f, err));
    d->quant.type = (QuantType)(QUANT_NONE + quant);
    TRY(read_quant(&d->quant, f, err));
    fill_adapters(lora, f);
    if (f->unmerged) d->lora = lora;
    return OK;
}
