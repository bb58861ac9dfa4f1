/* `lorac generate`: flags, and the way for one text. */
#include "base/fs.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/generate_job.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "lorac generate --model DIR [--adapter DIR] (--prompt TEXT | --chat FILE | --data FILE)";
static const char about[] =
    "Writes what the model says: to a text as it stands, to a chat, or to each row of a file.\n"
    "\n"
    "  lorac generate --model llama --prompt 'Once upon a time' --max-new-tokens 50\n"
    "  lorac generate --model llama --adapter out --chat -          a chat on the terminal\n"
    "  lorac generate --model llama --chat messages.json --temperature 0.7 --top-p 0.9 --seed 1\n"
    "  lorac generate --model llama --adapter out --data val.jsonl --format samsum --out "
    "said.jsonl\n"
    "\n"
    "The text goes to standard output, notes to standard error.  A sequence ends at the model's "
    "end\n"
    "tokens, at a --stop text, after --max-new-tokens, or where the model's context ends.";

Status generate_job_open(GenerateJob *job, int64_t longest, Err *err)
{
    int64_t positions = longest + job->opts.max_new_tokens, context = model_context(&job->cfg);
    char settings[ADVICE_MAX];
    gen_flags_when_full(settings, &job->opts, job->data.data ? job->opts.batch : 1,
                        model_is_quantised(&job->model, &job->cfg));
    return model_open(&job->open, &job->model, &job->cfg, positions < context ? positions : context,
                      settings, &job->log, err);
}

typedef struct Stream {
    StrBuf *said;
    bool broken; /* standard output takes nothing more */
} Stream;

static void on_text(void *ud, int64_t i, const char *s, size_t n)
{
    Stream *stream = ud;
    if (stream->said) strbuf_append(stream->said, s, n);
    if (fwrite(s, 1, n, stdout) != n || fflush(stdout)) stream->broken = true;
}

Status generate_job_stream(GenerateJob *job, const TokenBuf *ids, bool continues, StrBuf *said,
                           Err *err)
{
    Stream stream = {.said = said};
    GeneratePrompt prompt = {ids->ids, ids->n, 0, continues};
    GenerateHooks hooks = {.text = on_text, .ud = &stream};
    Generation g = {0};
    double start = seconds_now();
    Status s = generate(&g, &job->open.llama, job->t, &prompt, 1, &job->opts, &hooks, err);
    s = model_blame(&job->open, &job->model, s, err);
    if (s == OK && (stream.broken || putchar('\n') == EOF || fflush(stdout)))
        s = err_set(err, E_FAILED, "cannot write to standard output");
    if (s == OK) {
        double seconds = seconds_now() - start;
        log_verbose(&job->log, "%lld tokens in %.2f s (%.0f tokens/s); ended by %s", (long long)g.n,
                    seconds, (double)g.n / seconds, finish_name(g.finish));
        if (g.finish == FINISH_CONTEXT)
            log_warn(&job->log, "the text ends where the model's context of %lld tokens does",
                     (long long)generate_context(&job->open.llama));
    }
    generation_clear(&g);
    return s;
}

static Status read_prompt(char **text, size_t *len, const GenerateJob *job, Err *err)
{
    if (!job->prompt_file) {
        *text = xstrdup(job->prompt);
        *len = strlen(*text);
        return OK;
    }
    return file_read(text, len, str_eq(job->prompt_file, "-") ? "/dev/stdin" : job->prompt_file,
                     err);
}

Status generate_text(GenerateJob *job, Err *err)
{
    char *text = NULL;
    size_t len;
    TRY(read_prompt(&text, &len, job, err));
    if (len > TOKENIZER_MAX_TEXT) {
        free(text);
        return err_set(err, E_INPUT, "%s: has %zu bytes; %zu are the most", job->prompt_file, len,
                       TOKENIZER_MAX_TEXT);
    }
    TokenBuf ids = {0};
    int bos = tokenizer_bos(job->t);
    tokenizer_encode(job->t, &ids, text, len, job->specials ? ENCODE_SPECIALS : 0);
    free(text);
    if (bos >= 0 && !job->no_bos && (ids.n == 0 || ids.ids[0] != bos)) {
        tokenbuf_push(&ids, 0, 0);
        memmove(ids.ids + 1, ids.ids, (size_t)(ids.n - 1) * sizeof *ids.ids);
        ids.ids[0] = bos;
    }
    Status s = ids.n > 0 ? generate_job_open(job, ids.n, err)
                         : err_set(err, E_INPUT, "--prompt: has no token to begin with");
    if (s == OK) s = generate_job_stream(job, &ids, true, NULL, err);
    tokenbuf_clear(&ids);
    return s;
}

/* Flags that another way reads are refused, so that none is given in vain. */
static Status check_flags(const GenerateJob *job, Err *err)
{
    bool text = job->prompt || job->prompt_file;
    int ways = (job->prompt != NULL) + (job->prompt_file != NULL) + (job->chat != NULL) +
               (job->data.data != NULL);
    if (ways != 1)
        return err_set(err, E_INPUT, "give one of --prompt, --prompt-file, --chat and --data");
    const DataFlags *d = &job->data;
    const FlagUse flags[] = {
        {"format", d->format, d->data},
        {"prompt-template", d->prompt, d->data},
        {"field", d->fields.n > 0, d->data},
        {"out", job->out, d->data},
        {"out-field", job->out_field, d->data},
        {"batch", job->gen.batch != gen_flags_defaults().batch, d->data},
        {"limit", job->limit != 0, d->data},
        {"template", d->chat, !text},
        {"system", d->system, !text},
        {"specials", job->specials, text},
        {"no-bos", job->no_bos, text},
    };
    const char *way = d->data ? "with --data" : job->chat ? "with --chat" : "with --prompt";
    TRY(CHECK_USE(flags, way, err));
    if (job->out) TRY(flag_out(job->out, err));
    return flag_limit(job->limit, err);
}

static Status run(GenerateJob *job, Err *err)
{
    TRY(check_flags(job, err));
    TRY(gen_flags_apply(&job->opts, &job->gen, err));
    TRY(model_read_config(&job->cfg, &job->t, &job->model, err));
    TRY(generate_load_eos(&job->opts, job->model.model, &job->cfg, job->t, err));
    if (job->data.data) return generate_rows(job, err);
    return job->chat ? generate_chat(job, err) : generate_text(job, err);
}

int cmd_generate(int argc, char **argv)
{
    GenerateJob job = {.model = model_flags_defaults(), .gen = gen_flags_defaults()};
    LogFlags log = {0};
    const Opt opts[] = {
        MODEL_FLAGS(job.model),
        {"prompt", OPT_STRING, &job.prompt, "TEXT", "go on with this text"},
        {"prompt-file", OPT_STRING, &job.prompt_file, "FILE",
         "the same from a file; -: standard input"},
        {"specials", OPT_FLAG, &job.specials, NULL,
         "special tokens that the prompt spells out (<s>) become their ids"},
        {"no-bos", OPT_FLAG, &job.no_bos, NULL, "do not begin the prompt with the BOS token"},
        {"chat", OPT_STRING, &job.chat, "FILE",
         "answer a chat: JSON [{\"role\", \"content\"}, ...]; -: standard input, turn by turn when "
         "that is a terminal"},
        DATA_FLAGS(job.data),
        {"limit", OPT_INT, &job.limit, "N", "only the first N rows; 0: all"},
        {"out", OPT_STRING, &job.out, "FILE", "where the rows go (default: standard output)"},
        {"out-field", OPT_STRING, &job.out_field, "NAME",
         "the field that is added to each row, or replaces one of that name (default: generated)"},
        GEN_FLAGS(job.gen),
        {"quiet", OPT_FLAG, &log.quiet, NULL, "no notes"},
        {"verbose", OPT_FLAG, &log.verbose, NULL, "more notes"},
        {0},
    };
    const CommandLine line = {.usage = usage, .about = about, .opts = opts};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {.more = &(Problems){0}};
    job.log = command_log(&log);
    Status s = run(&job, &err);
    model_close(&job.open);
    tokenizer_free(job.t);
    return command_end_problems(s, &job.problems, &err);
}
