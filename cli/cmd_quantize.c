/* `lorac quantize`: a model folder in 4 or 8 bits that transformers and bitsandbytes load. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "model/quant_write.h"

static const char usage[] = "lorac quantize --model DIR --out DIR [OPTIONS]";
static const char about[] =
    "Writes the model with the matrices of its blocks in 4 or 8 bits, as bitsandbytes stores them, "
    "so\n"
    "that transformers loads it; embedding, head and norms stay as they are.  All other files are\n"
    "copied.  A quantised folder is read as a frozen base by train (method qlora), eval and "
    "generate.";

typedef struct Flags {
    const char *model, *out, *type;
    int64_t threads, block;
    bool single, quiet;
} Flags;

static void print(StrBuf *b, const QuantReport *r, const Flags *f, const QuantOpts *o)
{
    for (int i = 0; i < r->n_classes; i++)
        strbuf_printf(b, "%-10s %3d matrices  %8.2f M weights  %.2f bits  error %.2f %%\n",
                      r->classes[i].name, r->classes[i].n, (double)r->classes[i].numel / 1e6,
                      r->classes[i].bits, 100 * r->classes[i].error);
    strbuf_printf(b, "%s: %lld matrices as %s%s, %.2f bits a weight; the rest as it was\n", f->out,
                  (long long)r->n_matrices, quant_type_name(o->type),
                  o->nested ? " with double quantisation" : "", r->bits);
}

static Status run(const Flags *f, Err *err)
{
    TRY(flag_threads(f->threads, err));
    if (!f->model || !path_is_dir(f->model))
        return err_set(err, E_INPUT, "--model: %s",
                       f->model ? "is not a folder" : "needs a folder");
    if (!f->out) return err_set(err, E_INPUT, "--out: needs a folder to write");
    static const char *const types[] = {"nf4", "fp4", "int8", NULL};
    int type;
    TRY(flag_choice(&type, "type", f->type, types, err));
    QuantOpts o = {.type = (QuantType)(QUANT_NF4 + type)};
    o.nested = quant_is_4bit(o.type) && !f->single;
    if (f->single && !quant_is_4bit(o.type))
        return err_set(err, E_INPUT, "--single: only with nf4 and fp4");
    if (f->block != OPT_UNSET_INT && !quant_is_4bit(o.type))
        return err_set(err, E_INPUT, "--block: only with nf4 and fp4");
    if (f->block != OPT_UNSET_INT && !quant_block_is_known(f->block))
        return err_set(err, E_INPUT, "--block: must be a power of two from %d to %d, is %lld",
                       (int)QUANT_LEAST_BLOCK, (int)QUANT_MOST_BLOCK, (long long)f->block);
    if (f->block != OPT_UNSET_INT) o.block = f->block;
    Log log = {.to = stderr, .level = f->quiet ? LOG_WARN : LOG_INFO};
    Device d;
    QuantReport r;
    DeviceOpts opts = {.threads = (int)f->threads};
    TRY(device_open(&d, backend_find("cpu"), &opts, DT_F32, err));
    Status s = quant_write_folder(f->model, f->out, &o, &d, &log, &r, err);
    device_close(&d);
    if (s == OK && !f->quiet) {
        StrBuf b = {0};
        print(&b, &r, f, &o);
        s = command_print(&b, err);
    }
    return s;
}

int cmd_quantize(int argc, char **argv)
{
    Flags f = {.type = "nf4", .block = OPT_UNSET_INT};
    const Opt opts[] = {
        {"model", OPT_STRING, &f.model, "DIR", "the model's folder"},
        {"out", OPT_STRING, &f.out, "DIR", "the folder to write; must not exist, or be empty"},
        {"type", OPT_STRING, &f.type, "NAME", "nf4 (default), fp4 or int8"},
        {"single", OPT_FLAG, &f.single, NULL, "nf4 and fp4 without double quantisation"},
        {"block", OPT_INT, &f.block, "N",
         "nf4 and fp4: weights that share a scale, 32 to 4096 (default 64)"},
        THREADS_FLAG(f.threads),
        {"quiet", OPT_FLAG, &f.quiet, NULL, "print nothing"},
        {0},
    };
    const CommandLine line = {.usage = usage, .about = about, .opts = opts};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {.more = &(Problems){0}};
    Status s = run(&f, &err);
    return command_end(s, &err);
}
