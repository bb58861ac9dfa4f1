/* lorac init: a random model folder in Hugging Face layout, from a named shape or a config.json. */
#include "base/fs.h"
#include "base/str.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "data/tokenizer.h"
#include "model/hf_files.h"
#include "trainer/tokenizer_files.h"

#include <stdlib.h>

enum { MAX_SHARD_MIB = 1 << 30 }; /* a pebibyte */

typedef struct InitFlags {
    const char *preset, *config, *tokenizer, *dtype;
    int64_t seed, vocab, max_shard_mib;
} InitFlags;

static Status read_dtype(DType *out, const char *name, Err *err)
{
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    static const DType types[] = {DT_F32, DT_BF16, DT_F16};
    for (int i = 0; i < 3; i++)
        if (str_eq(name, names[i])) {
            *out = types[i];
            return OK;
        }
    return err_set(err, E_INPUT, "--dtype: must be fp32, bf16 or fp16, is '%s'", name);
}

/* The special ids of the tokenizer that will live beside the model. */
static Status fit_tokenizer(LlamaConfig *cfg, const InitFlags *f, Err *err)
{
    Tokenizer *t;
    TRY(tokenizer_load(&t, f->tokenizer, err));
    int size = tokenizer_vocab_size(t);
    Status s = OK;
    if (f->vocab == OPT_UNSET_INT && f->preset)
        cfg->vocab_size = size;
    else if (cfg->vocab_size < size)
        s = err_set(err, E_INPUT, "%s: has %d tokens, the model %lld; they do not fit together",
                    f->tokenizer, size, (long long)cfg->vocab_size);
    if (f->preset) {
        cfg->bos_id = tokenizer_bos(t);
        cfg->n_eos = tokenizer_eos(t) >= 0 ? 1 : 0;
        cfg->eos_ids[0] = tokenizer_eos(t);
    }
    tokenizer_free(t);
    return s;
}

static Status read_shape(LlamaConfig *cfg, const InitFlags *f, Err *err)
{
    if (!f->preset == !f->config)
        return err_set(err, E_INPUT, "lorac init: give one of --preset NAME, --config FILE");
    if (f->preset)
        TRY(flag_shape(cfg, "preset", f->preset, err));
    else
        TRY(llama_config_load(cfg, f->config, err));
    if (f->vocab != OPT_UNSET_INT) {
        TRY(flag_range("vocab", f->vocab, 1, INT32_MAX, err));
        cfg->vocab_size = f->vocab;
        int most = cfg->bos_id;
        for (int i = 0; i < cfg->n_eos; i++)
            most = cfg->eos_ids[i] > most ? cfg->eos_ids[i] : most;
        if (!f->tokenizer && most >= cfg->vocab_size)
            return err_set(err, E_INPUT,
                           "--vocab: must be above %d, a token that %s names, is %lld", most,
                           f->config ? f->config : f->preset, (long long)f->vocab);
    }
    return f->tokenizer ? fit_tokenizer(cfg, f, err) : OK;
}

static Status write_folder(const LlamaConfig *cfg, const InitFlags *f, DType dtype, const char *dir,
                           Err *err)
{
    Device dev = {0};
    /* whatever the machine has free now: pages are taken as they are written */
    DeviceOpts opts = {.region_bytes =
                           (size_t)llama_n_params(cfg) * sizeof(float) + ((size_t)64 << 20)};
    Llama m;
    TRY(device_open(&dev, backend_find("cpu"), &opts, DT_F32, err));
    llama_init(&m, cfg, &dev, 1);
    llama_alloc(&m);
    model_init_random(&m, (uint64_t)f->seed);
    Status s = dir_make(dir, err);
    if (s == OK) s = model_save(&m, dir, dtype, (uint64_t)f->max_shard_mib << 20, err);
    if (s == OK && f->tokenizer) s = tokenizer_files_copy(f->tokenizer, dir, err);
    llama_clear(&m);
    device_close(&dev);
    return s;
}

static Status init(const InitFlags *f, const char *dir, Err *err)
{
    DType dtype = DT_F32;
    LlamaConfig cfg = {0};
    if (!*dir) return err_set(err, E_INPUT, "the folder to write has no name");
    char *existing = path_join(dir, "config.json");
    bool taken = path_exists(existing);
    free(existing);
    if (taken)
        return err_set(err, E_INPUT, "%s: holds a config.json already; name a new folder", dir);
    char *in_the_way = path_in_the_way(dir);
    if (in_the_way) {
        Status s = err_set(err, E_INPUT, "%s: is a file; name a new folder", in_the_way);
        free(in_the_way);
        return s;
    }
    TRY(dir_check_new(dir, NULL, err));
    TRY(flag_range("max-shard", f->max_shard_mib, 1, MAX_SHARD_MIB, err));
    TRY(flag_range("seed", f->seed, 0, INT64_MAX, err));
    TRY(read_dtype(&dtype, f->dtype, err));
    TRY(read_shape(&cfg, f, err));
    TRY(write_folder(&cfg, f, dtype, dir, err));
    printf("%s: %lld parameters, %lld layers of width %lld, vocabulary %lld, %s\n", dir,
           (long long)llama_n_params(&cfg), (long long)cfg.n_layers, (long long)cfg.hidden_size,
           (long long)cfg.vocab_size, f->dtype);
    return OK;
}

int cmd_init(int argc, char **argv)
{
    InitFlags f = {.dtype = "fp32", .seed = 42, .vocab = OPT_UNSET_INT, .max_shard_mib = 5 << 10};
    const Opt opts[] = {
        {"preset", OPT_STRING, &f.preset, "NAME", "a named shape"},
        {"config", OPT_STRING, &f.config, "FILE", "a config.json, or a folder that has one"},
        {"tokenizer", OPT_STRING, &f.tokenizer, "PATH",
         "folder or file whose tokenizer is copied; a preset takes its vocabulary and special ids"},
        {"vocab", OPT_INT, &f.vocab, "N", "rows of the embedding"},
        {"seed", OPT_INT, &f.seed, "N", "of the weights (default 42)"},
        {"dtype", OPT_STRING, &f.dtype, "TYPE", "fp32, bf16 or fp16 (default fp32)"},
        {"max-shard", OPT_INT, &f.max_shard_mib, "MIB", "largest weight file (default 5120)"},
        {0}};
    StrBuf about = {0};
    strbuf_puts(&about, "Writes a model with random weights: config.json, safetensors, tokenizer.\n"
                        "Presets:");
    flag_shape_names(&about);
    const char *args[2];
    int n_args, code;
    const CommandLine line = {.usage = "lorac init DIR --preset NAME|--config FILE [OPTIONS]",
                              .about = about.data,
                              .opts = opts,
                              .args = args,
                              .max_args = 2,
                              .n_args = &n_args};
    bool runs = command_read(&line, argc, argv, &code);
    strbuf_clear(&about);
    if (!runs) return code;
    Err err = {.more = &(Problems){0}};
    Status status = OK;
    if (n_args != 1)
        status =
            err_set(&err, E_INPUT, "lorac init: name one folder to write; see lorac init --help");
    if (status == OK) status = init(&f, args[0], &err);
    return command_end(status, &err);
}
