/* lorac bench: a training step on random weights and tokens, beside its floor. */
#include "cli/bench_decoding.h"
#include "cli/bench_flags.h"
#include "cli/bench_matrix.h"
#include "cli/bench_print.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/ranks.h"

#include <stdlib.h>

static void make_title(StrBuf *b, const BenchFlags *f, const BenchOpts *o, int64_t micro,
                       RecomputeMix mix)
{
    strbuf_printf(b, "%s %s", f->model, f->method);
    if (o->method == METHOD_QLORA)
        strbuf_printf(b, " %s%s", quant_type_name(o->quant.type), o->quant.nested ? " double" : "");
    if (o->quant.block) strbuf_printf(b, " in blocks of %lld", (long long)o->quant.block);
    if (o->method != METHOD_FULL)
        strbuf_printf(b, "%s r%lld %s", f->dora ? " dora" : "", (long long)f->rank, f->targets);
    if (f->matrix && o->largest)
        strbuf_printf(b, " %s, rows of %lld", o->compute == DT_BF16 ? "bf16" : "fp32",
                      (long long)f->seq);
    else
        strbuf_printf(b, " %s, %lld x %lld", o->compute == DT_BF16 ? "bf16" : "fp32",
                      (long long)micro, (long long)f->seq);
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
    if (o->quant.type != QUANT_NONE && (o->scratches != BENCH_SCRATCHES || o->decode_ahead))
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

static Status step(const BenchFlags *f, StrBuf *b, Err *err)
{
    BenchOpts o;
    Status s = bench_flags_step(&o, f, err);
    if (s == OK) s = f->matrix ? matrix(f, &o, b, err) : one(f, &o, b, err);
    free((void *)(uintptr_t)o.lens);
    return s;
}

static Status decode(const BenchFlags *f, StrBuf *b, Err *err)
{
    DecodeBenchOpts d;
    LoraOpts lora = {0};
    TRY(bench_flags_decode(&d, &lora, f, err));
    return bench_decoding(b, &d, f->model, f->json, err);
}

static Status bench(BenchFlags *f, Err *err)
{
    StrBuf b = {0};
    Status s = bench_flags_check(f, err);
    if (s == OK) s = f->decode ? decode(f, &b, err) : step(f, &b, err);
    if (f->hosts->rank > 0) strbuf_clear(&b);
    if (s == OK) s = command_print(&b, err);
    strbuf_clear(&b);
    bench_flags_clear(f);
    return s;
}

int cmd_bench(int argc, char **argv)
{
    BenchFlags f = bench_flags_defaults();
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
        {"dora", OPT_FLAG, &f.dora, NULL, "adapters with a length for each row of the sum (DoRA)"},
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
    StrBuf about = {0};
    strbuf_puts(&about,
                "Times the training step of a named shape on random weights and tokens, and its "
                "floor in turns\nwith it: the base model's products and attention alone.  Every "
                "token is trained.  With --decode\nit times generation instead, beside the bytes "
                "that a token must read.\nShapes:");
    flag_shape_names(&about);
    const CommandLine line = {
        .usage = "lorac bench --model SHAPE [OPTIONS]", .about = about.data, .opts = opts};
    int code;
    bool runs = command_read(&line, argc, argv, &code);
    strbuf_clear(&about);
    if (!runs) return code;
    Ranks ranks;
    JoinStop never = {0}; /* signals end a benchmark as they end any program */
    Problems none = {0};
    Err err = {0};
    Status status = ranks_join(&ranks, &never, &err);
    if (status != OK) return command_end(status, &err);
    f.hosts = &ranks.hosts;
    status = comm_agree(f.hosts, bench(&f, &err), &err);
    code = ranks_end(&ranks, status, &none, &err);
    ranks_leave(&ranks);
    return code;
}
