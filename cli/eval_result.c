#include "cli/eval_result.h"

#include "base/fs.h"
#include "base/json.h"
#include "cli/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void eval_result_clear(EvalResult *r)
{
    for (int64_t i = 0; i < r->n; i++) {
        free(r->rows[i].file);
        free(r->rows[i].prediction);
        free(r->rows[i].reference);
    }
    free(r->rows);
    *r = (EvalResult){0};
}

EvalRow *eval_result_add(EvalResult *r, const RowPlace *at)
{
    if ((r->n & (r->n - 1)) == 0) /* full at every power of two */
        r->rows = xrealloc(r->rows, (size_t)(r->n ? 2 * r->n : 1) * sizeof *r->rows);
    EvalRow *row = &r->rows[r->n++];
    *row = (EvalRow){.file = xstrdup(at->file), .line = at->line, .number = at->number};
    return row;
}

void eval_result_score(EvalResult *r)
{
    r->has_rouge = true;
    for (int64_t i = 0; i < r->n; i++) {
        EvalRow *row = &r->rows[i];
        rouge_score(row->rouge, row->reference, strlen(row->reference), row->prediction,
                    strlen(row->prediction), r->stem);
        for (int k = 0; k < ROUGE_N; k++) {
            r->mean[k].precision += row->rouge[k].precision / (double)r->n;
            r->mean[k].recall += row->rouge[k].recall / (double)r->n;
            r->mean[k].f += row->rouge[k].f / (double)r->n;
        }
    }
}

static void print_text(StrBuf *b, const EvalResult *r)
{
    strbuf_printf(b, "rows        %lld\n", (long long)r->n);
    if (r->has_loss)
        strbuf_printf(b, "tokens      %lld\ntrained     %lld\nloss        %.6f\nperplexity  %.6g\n",
                      (long long)r->tokens, (long long)r->trained, r->loss, r->perplexity);
    if (!r->has_rouge) return;
    strbuf_puts(b, "            precision  recall  F\n");
    for (int k = 0; k < ROUGE_N; k++)
        strbuf_printf(b, "%-10s  %-9.4f  %.4f  %.4f\n", rouge_names[k], r->mean[k].precision,
                      r->mean[k].recall, r->mean[k].f);
    strbuf_printf(
        b,
        "ROUGE as rouge_score computes it, %s stemming; plain means over the rows (its own "
        "aggregate is a bootstrap median around them)\n",
        r->stem ? "with" : "without");
}

static void put_number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, ", \"%s\": ", key);
    json_write_number(b, v);
}

static void print_json(StrBuf *b, const EvalResult *r)
{
    strbuf_printf(b, "{\"rows\": %lld", (long long)r->n);
    if (r->has_loss) {
        strbuf_printf(b, ", \"tokens\": %lld, \"trained_tokens\": %lld", (long long)r->tokens,
                      (long long)r->trained);
        put_number(b, "loss", r->loss);
        put_number(b, "perplexity", r->perplexity);
    }
    for (int k = 0; r->has_rouge && k < ROUGE_N; k++) {
        strbuf_printf(b, ", \"%s\": {\"precision\": ", rouge_names[k]);
        json_write_number(b, r->mean[k].precision);
        put_number(b, "recall", r->mean[k].recall);
        put_number(b, "f", r->mean[k].f);
        strbuf_putc(b, '}');
    }
    if (r->has_rouge) strbuf_printf(b, ", \"stemming\": %s", r->stem ? "true" : "false");
    strbuf_puts(b, "}\n");
}

Status eval_result_print(const EvalResult *r, bool json, Err *err)
{
    StrBuf b = {0};
    if (json)
        print_json(&b, r);
    else
        print_text(&b, r);
    return command_print(&b, err);
}

Status eval_result_write(const EvalResult *r, const char *path, Err *err)
{
    StrBuf b = {0};
    for (int64_t i = 0; i < r->n; i++) {
        const EvalRow *row = &r->rows[i];
        strbuf_puts(&b, "{\"file\": ");
        json_write_string(&b, row->file, strlen(row->file));
        strbuf_printf(&b, ", \"line\": %lld", (long long)row->line);
        if (row->number) strbuf_printf(&b, ", \"row\": %lld", (long long)row->number);
        if (r->row_loss) {
            if (row->trained > 0)
                put_number(&b, "loss", row->loss);
            else /* packed by concat a row may lie in no packed one */
                strbuf_puts(&b, ", \"loss\": null");
            strbuf_printf(&b, ", \"trained_tokens\": %lld", (long long)row->trained);
        }
        for (int k = 0; r->has_rouge && k < ROUGE_N; k++)
            put_number(&b, rouge_names[k], row->rouge[k].f);
        if (r->has_rouge) {
            strbuf_puts(&b, ", \"prediction\": ");
            json_write_string(&b, row->prediction, strlen(row->prediction));
            strbuf_puts(&b, ", \"reference\": ");
            json_write_string(&b, row->reference, strlen(row->reference));
        }
        strbuf_puts(&b, "}\n");
    }
    Status s = file_write_atomic(path, b.data ? b.data : "", b.len, err);
    strbuf_clear(&b);
    return s;
}
