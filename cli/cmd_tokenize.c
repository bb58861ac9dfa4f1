/* `lorac tokenize`: ids and pieces of a text, and which tokens of a data file's rows are trained. */
#include "base/fs.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/data_flags.h"
#include "cli/flags.h"
#include "data/formats.h"
#include "data/jsonl.h"
#include "data/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "lorac tokenize --tokenizer PATH (TEXT... | --file FILE | --ids | --data FILE)";
static const char about[] =
    "Shows how a text is cut into tokens, or the first rows of a data file as a table of token, "
    "id,\n"
    "trained or not.\n"
    "\n"
    "  lorac tokenize --tokenizer llama 'Hello world' --bos\n"
    "  lorac tokenize --tokenizer llama --file story.txt --json\n"
    "  lorac tokenize --tokenizer llama --ids 1 15043 3186           ids back to text\n"
    "  lorac tokenize --tokenizer llama --data train.jsonl --format samsum --rows 2";

typedef struct Flags {
    const char *tokenizer, *file, *train_on;
    bool ids, bos, eos, specials, no_prefix, json;
    int64_t rows;
    DataFlags data;
    const char *args[1024];
    int n_args;
} Flags;

/* A piece as one printable word: white space and controls as escapes. */
static void print_piece(StrBuf *b, const Tokenizer *t, int32_t id)
{
    const char *piece = tokenizer_piece(t, id);
    if (!piece) {
        strbuf_puts(b, "(none)");
        return;
    }
    for (const char *p = piece; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\n')
            strbuf_puts(b, "\\n");
        else if (c == '\t')
            strbuf_puts(b, "\\t");
        else if (c == '\r')
            strbuf_puts(b, "\\r");
        else if (c < 0x20 || c == 0x7F)
            strbuf_printf(b, "\\x%02x", c);
        else
            strbuf_putc(b, *p);
    }
}

static void json_pieces(StrBuf *b, const Tokenizer *t, const int32_t *ids, int64_t n)
{
    strbuf_puts(b, "\"ids\": [");
    for (int64_t i = 0; i < n; i++)
        strbuf_printf(b, "%s%d", i ? ", " : "", ids[i]);
    strbuf_puts(b, "], \"pieces\": [");
    for (int64_t i = 0; i < n; i++) {
        const char *piece = tokenizer_piece(t, ids[i]);
        if (i) strbuf_puts(b, ", ");
        if (piece)
            json_write_string(b, piece, strlen(piece));
        else
            strbuf_puts(b, "null");
    }
    strbuf_putc(b, ']');
}

static Status show_text(const Flags *f, const Tokenizer *t, const char *text, size_t len, Err *err)
{
    if (len > TOKENIZER_MAX_TEXT)
        return err_set(err, E_INPUT, "%s: has %zu bytes; %zu are the most",
                       f->file ? f->file : "the text", len, TOKENIZER_MAX_TEXT);
    TokenBuf tokens = {0};
    int bos = tokenizer_bos(t), eos = tokenizer_eos(t);
    if (f->bos) tokenbuf_push(&tokens, bos, 0);
    tokenizer_encode(t, &tokens, text, len,
                     (f->specials ? ENCODE_SPECIALS : 0) | (f->no_prefix ? ENCODE_NO_PREFIX : 0));
    if (f->eos) tokenbuf_push(&tokens, eos, (int32_t)len);
    StrBuf b = {0};
    if (f->json) {
        strbuf_putc(&b, '{');
        json_pieces(&b, t, tokens.ids, tokens.n);
        strbuf_puts(&b, "}\n");
    } else {
        strbuf_printf(&b, "%lld tokens\nids    ", (long long)tokens.n);
        for (int64_t i = 0; i < tokens.n; i++)
            strbuf_printf(&b, " %d", tokens.ids[i]);
        strbuf_puts(&b, "\npieces ");
        for (int64_t i = 0; i < tokens.n; i++) {
            strbuf_putc(&b, ' ');
            print_piece(&b, t, tokens.ids[i]);
        }
        strbuf_putc(&b, '\n');
    }
    tokenbuf_clear(&tokens);
    return command_print(&b, err);
}

static Status show_ids(const Flags *f, const Tokenizer *t, Err *err)
{
    int32_t *ids = xmalloc((size_t)f->n_args * sizeof *ids);
    Status s = OK;
    for (int i = 0; s == OK && i < f->n_args; i++) {
        char *end;
        long v = strtol(f->args[i], &end, 10);
        if (end == f->args[i] || *end || v < 0 || v >= tokenizer_vocab_size(t))
            s = err_set(err, E_INPUT, "--ids: '%s' is no id; they are 0 to %d", f->args[i],
                        tokenizer_vocab_size(t) - 1);
        ids[i] = (int32_t)v;
    }
    StrBuf b = {0}, text = {0};
    if (s == OK) {
        tokenizer_decode(t, &text, ids, f->n_args, false);
        if (f->json) {
            strbuf_puts(&b, "{\"text\": ");
            json_write_string(&b, text.data ? text.data : "", text.len);
            strbuf_puts(&b, ", ");
            json_pieces(&b, t, ids, f->n_args);
            strbuf_putc(&b, '}');
        } else {
            strbuf_append(&b, text.data ? text.data : "", text.len);
        }
        strbuf_putc(&b, '\n');
        s = command_print(&b, err);
    }
    strbuf_clear(&text);
    free(ids);
    return s;
}

/* Trained is a token that the loss is computed for: its label is set and something stands before it. */
static bool is_trained(const TokenRow *row, int64_t i)
{
    return i > 0 && row->labels[i] != UNTRAINED;
}

static Status show_row(const Flags *f, const Tokenizer *t, const TokenRow *row, const RowPlace *at,
                       Err *err)
{
    StrBuf b = {0};
    int64_t n_trained = 0;
    for (int64_t i = 0; i < row->n; i++)
        n_trained += is_trained(row, i);
    if (f->json) {
        strbuf_puts(&b, "{\"file\": ");
        json_write_string(&b, at->file, strlen(at->file));
        strbuf_printf(&b, ", \"line\": %lld, ", (long long)at->line);
        if (at->number) strbuf_printf(&b, "\"row\": %lld, ", (long long)at->number);
        json_pieces(&b, t, row->ids, row->n);
        strbuf_puts(&b, ", \"trained\": [");
        for (int64_t i = 0; i < row->n; i++)
            strbuf_printf(&b, "%s%s", i ? ", " : "", is_trained(row, i) ? "true" : "false");
        strbuf_puts(&b, "]}\n");
        return command_print(&b, err);
    }
    char *name = row_name(at);
    strbuf_printf(&b, "%s: %lld tokens, %lld trained\n      id  trained  token\n", name,
                  (long long)row->n, (long long)n_trained);
    free(name);
    for (int64_t i = 0; i < row->n; i++) {
        strbuf_printf(&b, "%8d  %-7s  ", row->ids[i], is_trained(row, i) ? "yes" : "-");
        print_piece(&b, t, row->ids[i]);
        strbuf_putc(&b, '\n');
    }
    strbuf_putc(&b, '\n');
    return command_print(&b, err);
}

static Status show_file_rows(const Flags *f, const RowFormat *format, const char *file,
                             int64_t *left, Err *err)
{
    RowReader *rows;
    TRY(rows_open(&rows, file, err));
    FormatScratch scratch = {0};
    TokenRow row = {0};
    Status s = OK;
    for (; s == OK && *left > 0; (*left)--) {
        const char *text;
        size_t len;
        int64_t line;
        Json *json = NULL;
        s = rows_next(rows, &text, &len, &line, err);
        if (s != OK || !text) break;
        s = json_parse(&json, text, len, file, (int)line, JSON_REFUSE_DUPLICATES, err);
        if (s == OK) {
            row.n = 0;
            s = format_row(format, json, &scratch, &row, err);
            if (s != OK) s = err_wrap(err, s, "%s:%lld", file, (long long)line);
        }
        if (s != OK) row_error(err, s, file, rows_number(rows));
        if (s == OK)
            s = show_row(f, format->t, &row, &(RowPlace){file, line, rows_number(rows)}, err);
        json_free(json);
    }
    token_row_clear(&row);
    format_scratch_clear(&scratch);
    rows_close(rows);
    return s;
}

static Status show_rows(const Flags *f, const Tokenizer *t, Err *err)
{
    DataSource src;
    RowFormat format;
    TrainOn train_on;
    char **files = NULL;
    int n_files = 0;
    int64_t left = f->rows;
    Status s = data_flags_source(&src, &f->data, t, err);
    if (s == OK) s = data_flags_train_on(&train_on, f->train_on, err);
    if (s == OK) s = source_files(&files, &n_files, src.path, err);
    if (s == OK) s = format_open(&format, &src, train_on, t, err);
    if (s == OK) {
        for (int i = 0; s == OK && i < n_files; i++)
            s = show_file_rows(f, &format, files[i], &left, err);
        format_close(&format);
    }
    if (files) dir_list_free(files, n_files);
    data_source_clear(&src);
    return s;
}

static Status check_flags(const Flags *f, Err *err)
{
    bool data = f->data.data != NULL;
    int ways = (f->n_args > 0 || f->ids) + (f->file != NULL) + data;
    if (ways != 1) return err_set(err, E_INPUT, "give TEXT, --file, --ids with ids, or --data");
    if (f->ids && f->n_args == 0) return err_set(err, E_INPUT, "--ids: needs ids as arguments");
    const FlagUse flags[] = {
        {"bos", f->bos, !data && !f->ids},
        {"eos", f->eos, !data && !f->ids},
        {"specials", f->specials, !data && !f->ids},
        {"no-prefix", f->no_prefix, !data && !f->ids},
        {"format", f->data.format, data},
        {"template", f->data.chat, data},
        {"prompt-template", f->data.prompt, data},
        {"system", f->data.system, data},
        {"field", f->data.fields.n > 0, data},
        {"train-on", f->train_on, data},
        {"rows", f->rows != 0, data},
    };
    TRY(CHECK_USE(flags, data ? "with --data" : "without --data", err));
    if (f->rows < 0)
        return err_set(err, E_INPUT, "--rows: must be at least 1, got %lld", (long long)f->rows);
    if (!f->tokenizer) return err_set(err, E_INPUT, "--tokenizer: needs a folder or a file");
    return OK;
}

static Status run(Flags *f, Err *err)
{
    TRY(check_flags(f, err));
    Tokenizer *t;
    TRY(tokenizer_load(&t, f->tokenizer, err));
    Status s = OK;
    if (f->bos && tokenizer_bos(t) < 0)
        s = err_set(err, E_INPUT, "--bos: the tokenizer has no such token");
    else if (f->eos && tokenizer_eos(t) < 0)
        s = err_set(err, E_INPUT, "--eos: the tokenizer has no such token");
    else if (f->data.data) {
        if (f->rows == 0) f->rows = 3;
        s = show_rows(f, t, err);
    } else if (f->ids) {
        s = show_ids(f, t, err);
    } else if (f->file) {
        char *text;
        size_t len;
        s = file_read(&text, &len, str_eq(f->file, "-") ? "/dev/stdin" : f->file, err);
        if (s == OK) {
            s = show_text(f, t, text, len, err);
            free(text);
        }
    }
    if (!f->ids)
        for (int i = 0; s == OK && i < f->n_args; i++)
            s = show_text(f, t, f->args[i], strlen(f->args[i]), err);
    tokenizer_free(t);
    return s;
}

int cmd_tokenize(int argc, char **argv)
{
    Flags f = {0};
    const Opt opts[] = {
        {"tokenizer", OPT_STRING, &f.tokenizer, "PATH",
         "model folder, tokenizer.json, tokenizer.model or rank file"},
        {"file", OPT_STRING, &f.file, "FILE", "a whole file as one text; -: standard input"},
        {"ids", OPT_FLAG, &f.ids, NULL, "the arguments are ids: show their text"},
        {"bos", OPT_FLAG, &f.bos, NULL, "put the BOS token in front"},
        {"eos", OPT_FLAG, &f.eos, NULL, "put the EOS token behind"},
        {"specials", OPT_FLAG, &f.specials, NULL,
         "special tokens that the text spells out (<s>) become their ids"},
        {"no-prefix", OPT_FLAG, &f.no_prefix, NULL,
         "leave out the space that Llama 2's tokenizer puts in front"},
        DATA_FLAGS(f.data),
        {"train-on", OPT_STRING, &f.train_on, "WHAT", "answer (default), assistant or all"},
        {"rows", OPT_INT, &f.rows, "N", "how many rows of --data to show (default: 3)"},
        {"json", OPT_FLAG, &f.json, NULL, "one JSON object a text or row"},
        {0},
    };
    const CommandLine line = {.usage = usage,
                              .about = about,
                              .opts = opts,
                              .args = f.args,
                              .max_args = 1024,
                              .n_args = &f.n_args};
    int code;
    if (!command_read(&line, argc, argv, &code)) return code;
    Err err = {0};
    Status s = run(&f, &err);
    return command_end(s, &err);
}
