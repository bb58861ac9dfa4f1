/* lorac bench: a training step on random weights and tokens, beside its floor. */
#include "base/fs.h"
#include "base/opts.h"
#include "cli/bench_decoding.h"
#include "cli/bench_matrix.h"
#include "cli/bench_print.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "trainer/bench_batch.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_TARGETS = 16,
    SCRATCHES = 3, /* runtime.scratches' default */
    MAX_LENGTHS = 1 << 22,
    MAX_LENGTH = 1 << 24,
    MATRIX_SEQ = 350,
    MATRIX_MICRO = 32
};

static const int64_t UNSET = INT64_MIN; /* a default that depends on other flags */

typedef struct BenchFlags {
    const char *model, *method, *quantize, *targets, *precision, *recompute, *attention, *device,
        *rows, *lengths;
    const char *gradients, *update, *states, *reduce, *embedding, *offload;
    Comm *hosts;
    int64_t zero, prefetch, ctas, spare;
    int64_t rank, seq, micro, steps, threads, scratches, quant_block;
    int64_t batch, prompt, new_tokens; /* of decode */
    double seconds, dropout, memory;
    bool single_quant, deterministic, exact, kernels, profile, matrix, json, steps_only, largest;
    bool decode, unmerged, no_graph, no_early, decode_ahead;
} BenchFlags;

static Status read_choice(int *out, const char *flag, const char *value, const char *const *names,
                          Err *err)
{
    for (int i = 0; names[i]; i++)
        if (str_eq(names[i], value)) {
            *out = i;
            return OK;
        }
    StrBuf all = {0};
    for (int i = 0; names[i]; i++)
        strbuf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    Status s = err_set(err, E_INPUT, "--%s: must be one of %s, is '%s'", flag, all.data, value);
    strbuf_clear(&all);
    return s;
}

static Status read_range(const char *flag, int64_t value, int64_t least, int64_t most, Err *err)
{
    if (value >= least && value <= most) return OK;
    return err_set(err, E_INPUT, "--%s: must be from %lld to %lld, is %lld", flag, (long long)least,
                   (long long)most, (long long)value);
}

static Status read_model(LlamaConfig *shape, const char *name, Err *err)
{
    if (!name) return err_set(err, E_INPUT, "lorac bench: name a shape: --model llama-3-8b");
    if (llama_config_preset(shape, name)) return OK;
    const char *names[64];
    int n = 0;
    while (n < 64 && llama_preset_name(n)) {
        names[n] = llama_preset_name(n);
        n++;
    }
    const char *near = str_nearest(name, names, n);
    if (near)
        return err_set(err, E_INPUT, "--model: there is no '%s'; did you mean '%s'?", name, near);
    return err_set(err, E_INPUT, "--model: there is no '%s'; --help lists them", name);
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
    if (f->gradients) TRY(read_choice(&gradients, "gradients", f->gradients, dtypes, err));
    if (f->update) TRY(read_choice(&update, "update", f->update, updates, err));
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
    q->block = f->quant_block;
    if (!f->quant_block || (quant_is_4bit(q->type) && quant_block_is_known(f->quant_block)))
        return OK;
    return err_set(err, E_INPUT,
                   "--quant-block: with nf4 and fp4, a power of two from %d to %d; is %lld",
                   (int)QUANT_LEAST_BLOCK, (int)QUANT_MOST_BLOCK, (long long)f->quant_block);
}

static Status read_flags(BenchOpts *o, BenchFlags *f, Err *err)
{
    static const char *const
        methods[] = {"lora", "full", "qlora", NULL},
        *const reduces[] = {"fp32", "bf16", "fp32-sent", NULL},
        *const quants[] = {"nf4", "fp4", "int8", "fp8", NULL},
        *const precisions[] = {"fp32", "bf16", NULL},
        *const attentions[] = {"library", "own", NULL}, *const places[] = {"device", "host", NULL},
        *const states[] = {"fp32", "int8", NULL}, *const rows[] = {"both", "full", "packed", NULL};
    const char *recomputes[RECOMPUTE_AUTO + 2];
    for (int i = 0; i <= RECOMPUTE_AUTO + 1; i++)
        recomputes[i] = recompute_name(i);
    const char *offloads[OFFLOAD_PARAMS + 2];
    for (int i = 0; i <= OFFLOAD_PARAMS + 1; i++)
        offloads[i] = offload_name(i);
    int method, precision, recompute, attention, kind, reduce, place, offload, quant = 0,
                                                                               format = STATES_FP32;
    bool cpu = str_eq(f->device, "cpu");
    if (!f->precision) f->precision = cpu ? "fp32" : "bf16";
    TRY(read_model(&o->shape, f->model, err));
    TRY(read_choice(&method, "method", f->method, methods, err));
    if (f->quantize) TRY(read_choice(&quant, "quantize", f->quantize, quants, err));
    if (method != METHOD_QLORA && (f->quantize || f->single_quant || f->quant_block))
        return err_set(err, E_INPUT, "--%s: only with --method qlora",
                       f->quantize       ? "quantize"
                       : f->single_quant ? "single-quant"
                                         : "quant-block");
    TRY(read_choice(&precision, "precision", f->precision, precisions, err));
    TRY(read_choice(&recompute, "recompute", f->recompute, recomputes, err));
    TRY(read_choice(&attention, "attention", f->attention, attentions, err));
    TRY(read_choice(&kind, "rows", f->rows, rows, err));
    TRY(read_choice(&place, "embedding", f->embedding, places, err));
    if (cpu && precision == 1)
        return err_set(err, E_INPUT, "--precision: the CPU computes in fp32; leave it out");
    TRY(read_gradients(o, f, method == 1, precision == 1, err));
    if (f->states) TRY(read_choice(&format, "states", f->states, states, err));
    o->states = (StatesFormat)format;
    TRY(read_range("rank", f->rank, 1, 65536, err));
    TRY(read_range("seq", f->seq, 2, 1 << 24, err));
    TRY(read_range("micro", f->micro, 1, (1 << 30) / f->seq, err));
    TRY(read_range("steps", f->steps, 1, 1000000, err));
    TRY(read_range("threads", f->threads, 0, 4096, err));
    TRY(read_range("scratches", f->scratches, 1, 16, err));
    if (!(f->seconds >= 0 && f->seconds <= 3600))
        return err_set(err, E_INPUT, "--seconds: must be from 0 to 3600, is %g", f->seconds);
    if (!(f->dropout >= 0 && f->dropout < 1))
        return err_set(err, E_INPUT, "--dropout: must be from 0 to below 1, is %g", f->dropout);
    if (!(f->memory >= 0 && f->memory <= 1e6))
        return err_set(err, E_INPUT, "--memory: must be from 0 to 1e6 GiB, is %g", f->memory);
    TRY(read_range("zero", f->zero, 0, 3, err));
    TRY(read_choice(&reduce, "reduce", f->reduce, reduces, err));
    TRY(read_choice(&offload, "offload", f->offload, offloads, err));
    if (cpu && reduce == 1)
        return err_set(err, E_INPUT, "--reduce: the CPU computes in fp32; leave it out");
    TRY(read_range("prefetch", f->prefetch, 0, 16, err));
    TRY(read_range("ctas", f->ctas, -1, 64, err));
    TRY(read_range("spare", f->spare, -1, 64, err));
    o->hosts = f->hosts;
    o->prefetch = (int)f->prefetch;
    o->ctas = (int)f->ctas;
    o->spare = (int)f->spare;
    o->widen = reduce == 2;
    o->steps_only = f->steps_only;
    o->largest = f->largest;
    o->zero = (int)f->zero;
    o->offload = (Offload)offload;
    o->reduce = reduce == 1 ? DT_BF16 : DT_F32;
    o->device = f->device;
    o->memory_gib = f->memory;
    o->threads = (int)f->threads;
    o->compute = precision == 1 ? DT_BF16 : DT_F32;
    o->method = method;
    if (method == METHOD_QLORA) {
        o->quant.type = (QuantType)(QUANT_NF4 + quant);
        TRY(read_quant(&o->quant, f, err));
    }
    o->lora.rank = f->rank;
    o->lora.alpha = 2.0 * (double)f->rank;
    o->lora.dropout = f->dropout;
    o->seq = f->seq;
    o->micro = f->micro;
    o->recompute = recompute;
    o->own_attention = attention == 1;
    o->deterministic = f->deterministic;
    o->scratches = (int)f->scratches;
    o->decode_ahead = f->decode_ahead;
    o->exact = f->exact;
    o->no_floor = f->exact || f->steps_only;
    o->embed_on_host = place == 1;
    o->full = kind != 2;
    o->packed = kind != 1;
    o->seconds = f->seconds;
    o->steps = f->steps;
    o->profile = f->profile;
    o->kernels = f->kernels;
    if (f->lengths) return read_lengths(o, f->lengths, err);
    o->lens = bench_samsum_lengths(&o->n_lens);
    return OK;
}

static void make_title(StrBuf *b, const BenchFlags *f, const BenchOpts *o, int64_t micro,
                       RecomputeMix mix)
{
    strbuf_printf(b, "%s %s", f->model, f->method);
    if (o->method == METHOD_QLORA)
        strbuf_printf(b, " %s%s", quant_type_name(o->quant.type), o->quant.nested ? " double" : "");
    if (o->quant.block) strbuf_printf(b, " in blocks of %lld", (long long)o->quant.block);
    if (o->method != METHOD_FULL) strbuf_printf(b, " r%lld %s", (long long)f->rank, f->targets);
    if (f->matrix && o->largest)
        strbuf_printf(b, " %s, rows of %lld", f->precision, (long long)f->seq);
    else
        strbuf_printf(b, " %s, %lld x %lld", f->precision, (long long)micro, (long long)f->seq);
    if (o->embed_on_host) strbuf_puts(b, ", embedding on the host");
    if (o->gradients == DT_BF16) strbuf_puts(b, ", bf16 gradients");
    if (o->in_backward) strbuf_puts(b, ", updated in backward");
    if (o->states == STATES_INT8) strbuf_puts(b, ", states in 8 bits");
    if (mix.level != RECOMPUTE_NONE || mix.n_more > 0) {
        strbuf_puts(b, ", recompute ");
        recompute_mix_text(b, mix, o->shape.n_layers);
    }
    if (o->offload != OFFLOAD_NONE) strbuf_printf(b, ", offload %s", offload_name(o->offload));
    if (o->deterministic) strbuf_puts(b, ", deterministic");
    if (o->own_attention) strbuf_puts(b, ", own attention");
    if (o->quant.type != QUANT_NONE && (o->scratches != SCRATCHES || o->decode_ahead))
        strbuf_printf(b, ", %d scratches%s", o->scratches, o->decode_ahead ? " ahead" : "");
}

static Status one(const BenchFlags *f, const BenchOpts *o, StrBuf *b, Err *err)
{
    BenchResult *r = xcalloc(1, sizeof *r);
    StrBuf title = {0};
    Status s = bench_run(r, o, err);
    if (s == OK) make_title(&title, f, o, r->micro, r->mix);
    if (s == OK && f->json) bench_print_json(b, title.data, o, r);
    if (s == OK && !f->json) bench_print(b, title.data, o, r);
    strbuf_clear(&title);
    free(r);
    return s;
}

static Status matrix(const BenchFlags *f, BenchOpts *o, StrBuf *b, Err *err)
{
    StrBuf title = {0};
    o->full = true, o->packed = false;
    o->recompute = RECOMPUTE_NONE, o->own_attention = false;
    make_title(&title, f, o, o->micro, (RecomputeMix){0});
    Status s = bench_matrix(b, title.data, o, f->json, err);
    strbuf_clear(&title);
    return s;
}

/* The flags that decoding reads; what it does not is refused in check_way. */
static Status decode(const BenchFlags *f, BenchOpts *o, StrBuf *b, Err *err)
{
    static const char *const quants[] = {"none", "nf4", "fp4", "int8", "fp8", NULL},
                             *const precisions[] = {"fp32", "bf16", NULL};
    bool cpu = str_eq(f->device, "cpu");
    int quant = 0, precision = !cpu;
    DecodeBenchOpts d = {.device = f->device,
                         .threads = (int)f->threads,
                         .memory_gib = f->memory,
                         .batch = f->batch,
                         .prompt = f->prompt,
                         .new_tokens = f->new_tokens,
                         .no_graph = f->no_graph,
                         .no_early = f->no_early};
    TRY(read_model(&d.shape, f->model, err));
    if (f->quantize) TRY(read_choice(&quant, "quantize", f->quantize, quants, err));
    if (f->precision) TRY(read_choice(&precision, "precision", f->precision, precisions, err));
    if (cpu && precision == 1)
        return err_set(err, E_INPUT, "--precision: the CPU computes in fp32; leave it out");
    TRY(read_range("batch", f->batch, 1, 4096, err));
    TRY(read_range("prompt", f->prompt, 1, 1 << 20, err));
    TRY(read_range("new", f->new_tokens, 1, 1 << 20, err));
    TRY(read_range("rank", f->rank, 1, 65536, err));
    TRY(read_range("threads", f->threads, 0, 4096, err));
    if (!(f->memory >= 0 && f->memory <= 1e6))
        return err_set(err, E_INPUT, "--memory: must be from 0 to 1e6 GiB, is %g", f->memory);
    d.compute = precision == 1 ? DT_BF16 : DT_F32;
    d.quant.type = (QuantType)(QUANT_NONE + quant);
    TRY(read_quant(&d.quant, f, err));
    o->lora.rank = f->rank;
    o->lora.alpha = 2.0 * (double)f->rank;
    if (f->unmerged) d.lora = &o->lora;
    return bench_decoding(b, &d, f->model, f->json, err);
}

/* Flags of the other way are refused, so that none is given in vain. */
static Status check_way(const BenchFlags *f, Err *err)
{
    const struct {
        const char *name;
        bool given, decodes;
    } flags[] = {
        {"method", f->method, false},
        {"seq", f->seq != UNSET, false},
        {"micro", f->micro != UNSET, false},
        {"rows", f->rows, false},
        {"lengths", f->lengths, false},
        {"recompute", f->recompute, false},
        {"attention", f->attention, false},
        {"scratches", f->scratches != UNSET, false},
        {"embedding", f->embedding, false},
        {"states", f->states, false},
        {"largest", f->largest, false},
        {"steps-only", f->steps_only, false},
        {"decode-ahead", f->decode_ahead, false},
        {"gradients", f->gradients, false},
        {"update", f->update, false},
        {"reduce", f->reduce, false},
        {"offload", f->offload, false},
        {"dropout", f->dropout != 0, false},
        {"deterministic", f->deterministic, false},
        {"exact", f->exact, false},
        {"kernels", f->kernels, false},
        {"profile", f->profile, false},
        {"matrix", f->matrix, false},
        {"batch", f->batch != UNSET, true},
        {"prompt", f->prompt != UNSET, true},
        {"new", f->new_tokens != UNSET, true},
        {"unmerged", f->unmerged, true},
        {"no-graph", f->no_graph, true},
        {"no-early", f->no_early, true},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].given && flags[i].decodes != f->decode)
            return err_set(err, E_INPUT, "--%s: has no meaning %s --decode", flags[i].name,
                           f->decode ? "with" : "without");
    bool quantised = f->matrix || (f->method && str_eq(f->method, "qlora"));
    if (!quantised && (f->scratches != UNSET || f->decode_ahead))
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
    } texts[] = {{&f->method, "lora"}, {&f->recompute, "auto"}, {&f->attention, "library"},
                 {&f->reduce, "fp32"}, {&f->rows, "both"},      {&f->embedding, "device"},
                 {&f->offload, "none"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!*texts[i].flag) *texts[i].flag = texts[i].value;
    const struct {
        int64_t *flag, value;
    } numbers[] = {{&f->seq, f->matrix ? MATRIX_SEQ : 4096},
                   {&f->micro, f->matrix ? MATRIX_MICRO : 1},
                   {&f->scratches, SCRATCHES},
                   {&f->batch, 1},
                   {&f->prompt, 512},
                   {&f->new_tokens, 128}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (*numbers[i].flag == UNSET) *numbers[i].flag = numbers[i].value;
}

static Status bench(BenchFlags *f, Err *err)
{
    BenchOpts o = {0};
    char *names = xstrdup(f->targets), *targets[MAX_TARGETS], *rest = NULL;
    for (char *t = strtok_r(names, ",", &rest); t && o.lora.n_targets < MAX_TARGETS;
         t = strtok_r(NULL, ",", &rest))
        targets[o.lora.n_targets++] = t;
    o.lora.targets = targets;
    StrBuf b = {0};
    Status s = check_way(f, err);
    fill_defaults(f);
    if (s == OK && f->decode) s = decode(f, &o, &b, err);
    if (s == OK && !f->decode) s = read_flags(&o, f, err);
    if (s == OK && !f->decode) s = f->matrix ? matrix(f, &o, &b, err) : one(f, &o, &b, err);
    if (f->hosts->rank > 0) strbuf_clear(&b);
    if (s == OK) s = command_print(&b, err);
    free((void *)(uintptr_t)o.lens);
    free(names);
    return s;
}

static void print_help(const Opt *opts)
{
    StrBuf about = {0};
    strbuf_puts(&about,
                "Times the training step of a named shape on random weights and tokens, and its "
                "floor in turns\nwith it: the base model's products and attention alone.  Every "
                "token is trained.  With --decode\nit times generation instead, beside the bytes "
                "that a token must read.\nShapes:");
    for (int i = 0; llama_preset_name(i); i++)
        strbuf_printf(&about, " %s", llama_preset_name(i));
    opts_help(stdout, "lorac bench --model SHAPE [OPTIONS]", about.data, opts);
    strbuf_clear(&about);
}

int cmd_bench(int argc, char **argv)
{
    BenchFlags f = {.targets = "all-linear",
                    .zero = 1,
                    .prefetch = 1,
                    .ctas = -1,
                    .spare = -1,
                    .scratches = UNSET,
                    .batch = UNSET,
                    .prompt = UNSET,
                    .new_tokens = UNSET,
                    .device = backend_find("cuda") ? "cuda" : "cpu",
                    .rank = 16,
                    .seq = UNSET,
                    .micro = UNSET,
                    .steps = 3,
                    .seconds = 10};
    bool help = false;
    const Opt opts[] = {
        {"model", OPT_STRING, &f.model, "SHAPE", "a named shape"},
        {"method", OPT_STRING, &f.method, "NAME", "lora (default), full or qlora"},
        {"quantize", OPT_STRING, &f.quantize, "NAME",
         "the base of qlora: nf4 (default), fp4, int8 or fp8; with --decode none, too (default)"},
        {"single-quant", OPT_FLAG, &f.single_quant, NULL,
         "nf4 and fp4 without double quantisation"},
        {"embedding", OPT_STRING, &f.embedding, "PLACE",
         "where a frozen embedding lies: device (default) or host"},
        {"quant-block", OPT_INT, &f.quant_block, "N",
         "nf4 and fp4: weights that share a scale, 32 to 4096 (default 64)"},
        {"targets", OPT_STRING, &f.targets, "NAMES",
         "modules with an adapter, q_proj,v_proj,... (default all-linear)"},
        {"rank", OPT_INT, &f.rank, "N", "of the adapters (default 16)"},
        {"dropout", OPT_NUMBER, &f.dropout, "P", "of the adapters (default 0)"},
        {"seq", OPT_INT, &f.seq, "N", "tokens in a row (default 4096; 350 with --matrix)"},
        {"micro", OPT_INT, &f.micro, "N", "rows in a step (default 1; 32 with --matrix)"},
        {"largest", OPT_FLAG, &f.largest, NULL, "as many rows in a step as fit (to 1024)"},
        {"rows", OPT_STRING, &f.rows, "KIND",
         "full: a row is a document; packed: rows hold many; both (default), one after the other"},
        {"lengths", OPT_STRING, &f.lengths, "FILE",
         "lengths of the packed documents; default: SAMsum's (Llama 3's tokenizer)"},
        {"precision", OPT_STRING, &f.precision, "NAME", "bf16 (default on cuda) or fp32"},
        {"recompute", OPT_STRING, &f.recompute, "NAME",
         "none, selective, attention, full, or auto: the fastest that fits (default)"},
        {"gradients", OPT_STRING, &f.gradients, "NAME", "fp32 or bf16 (default where it can be)"},
        {"update", OPT_STRING, &f.update, "NAME",
         "after or in_backward (default for full tuning in bf16)"},
        {"states", OPT_STRING, &f.states, "NAME", "of AdamW: fp32 (default) or int8"},
        {"zero", OPT_INT, &f.zero, "N", "several ranks: parallel.zero, 0 to 3 (default 1)"},
        {"reduce", OPT_STRING, &f.reduce, "NAME",
         "several ranks: parallel.reduce, fp32 (default) or bf16; fp32-sent: bf16 gradients travel "
         "in fp32, too, for comparison"},
        {"prefetch", OPT_INT, &f.prefetch, "N",
         "several ranks: parallel.prefetch, blocks gathered ahead (default 1)"},
        {"ctas", OPT_INT, &f.ctas, "N",
         "several GPUs: parallel.ctas, multiprocessors for NCCL; 0: as it likes; -1: by the tokens "
         "(default)"},
        {"spare", OPT_INT, &f.spare, "N",
         "several GPUs: multiprocessors that products leave to NCCL; -1: as many as it takes "
         "(default)"},
        {"steps-only", OPT_FLAG, &f.steps_only, NULL,
         "no floor, and of several ranks no steps without communication and none by themselves"},
        {"offload", OPT_STRING, &f.offload, "NAME",
         "parallel.offload: none (default), optimizer or optimizer+params"},
        {"memory", OPT_NUMBER, &f.memory, "GIB",
         "of the device to take (default: all that is free)"},
        {"attention", OPT_STRING, &f.attention, "NAME",
         "library (default: cuDNN where it takes the shape) or own"},
        {"scratches", OPT_INT, &f.scratches, "N",
         "as runtime.scratches: decoded matrices of a quantised base at a time (default 3)"},
        {"decode-ahead", OPT_FLAG, &f.decode_ahead, NULL,
         "as runtime.decode_ahead: decode the next matrix behind a product"},
        {"deterministic", OPT_FLAG, &f.deterministic, NULL,
         "as runtime.deterministic: the same bits every time; run it with and without for the "
         "price"},
        {"exact", OPT_FLAG, &f.exact, NULL,
         "reserve what the plan says and no byte more; leaves no room for the floor"},
        {"seconds", OPT_NUMBER, &f.seconds, "S", "of steps, and of the floor (default 10)"},
        {"steps", OPT_INT, &f.steps, "N", "at least so many of each (default 3)"},
        {"device", OPT_STRING, &f.device, "NAME", "cuda where built in, or cpu"},
        {"threads", OPT_INT, &f.threads, "N", "on the CPU; default: all"},
        {"kernels", OPT_FLAG, &f.kernels, NULL,
         "bandwidth of each memory-bound kernel, beside a copy's"},
        {"profile", OPT_FLAG, &f.profile, NULL,
         "time, operations and bytes of one step by module, op and kernel"},
        {"matrix", OPT_FLAG, &f.matrix, NULL,
         "a table: attention of our own and the library's, levels of recompute, stages, quantised "
         "bases"},
        {"decode", OPT_FLAG, &f.decode, NULL,
         "instead of a training step: generate, a token at a time, greedily"},
        {"batch", OPT_INT, &f.batch, "N", "of decode: sequences at once (default 1)"},
        {"prompt", OPT_INT, &f.prompt, "N",
         "of decode: tokens that each begins with (default 512)"},
        {"new", OPT_INT, &f.new_tokens, "N", "of decode: tokens that are timed (default 128)"},
        {"unmerged", OPT_FLAG, &f.unmerged, NULL,
         "of decode: with adapters (--rank, --targets) beside the base"},
        {"no-graph", OPT_FLAG, &f.no_graph, NULL,
         "of decode: start kernel by kernel instead of replaying a recorded pass"},
        {"no-early", OPT_FLAG, &f.no_early, NULL,
         "of decode: no kernel of a recorded pass begins while the one ahead of it ends"},
        {"json", OPT_FLAG, &f.json, NULL, "a JSON object a line instead"},
        {0}};
    const char *args[1];
    int n_args = 0;
    Err err = {0};
    Status status = opts_parse(opts, argc, argv, args, &n_args, 0, &help, &err);
    if (help) {
        print_help(opts);
        return EXIT_DONE;
    }
    if (status != OK) return command_end(status, &err);
    Ranks ranks;
    Problems none = {0};
    status = ranks_join(&ranks, &err);
    if (status != OK) return command_end(status, &err);
    f.hosts = &ranks.hosts;
    status = comm_agree(f.hosts, bench(&f, &err), &err);
    int code = ranks_end(&ranks, status, &none, &err);
    ranks_leave(&ranks);
    return code;
}
