/* Prints counts and token tables. */
#include "data/report.h"

#include "data/render.h"

#include <stdlib.h>
#include <string.h>

/* 1234567 as "1,234,567". */
static const char *grouped(int64_t v, char out[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)v), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-') out[k++] = ',';
        out[k++] = digits[i];
    }
    out[k] = 0;
    return out;
}

static void line(FILE *to, const char *what, int64_t v, const char *note)
{
    char s[32];
    fprintf(to, "  %-15s %14s%s%s\n", what, grouped(v, s), *note ? "  " : "", note);
}

static void line_with_first(FILE *to, const char *what, int64_t n_rows, const char *note,
                            const RowPlace *first)
{
    if (n_rows == 0) {
        line(to, what, 0, "");
        return;
    }
    char *name = row_name(first), *all = str_format("%sthe first: %s", note, name);
    line(to, what, n_rows, all);
    free(all);
    free(name);
}

void dataset_report_print(FILE *to, const char *name, const DataReport *r, const DataOpts *opts)
{
    char note[160], s[32];
    fprintf(to, "%s%s\n", name, r->from_cache ? " (tokens from the cache)" : "");
    line(to, "rows", r->rows, "");
    line(to, "tokens", r->tokens, "");
    snprintf(note, sizeof note, "%.1f %%",
             r->tokens ? 100.0 * (double)r->trained_tokens / (double)r->tokens : 0.0);
    line(to, "trained tokens", r->trained_tokens, note);
    line(to, "longest", r->longest, "tokens");
    snprintf(note, sizeof note, "%s tokens dropped", grouped(r->dropped_tokens, s));
    line(to, "truncated", r->truncated, note);
    line(to, "split", r->split, "");
    line_with_first(to, "untrained rows", r->untrained, "left out; ", &r->first_untrained);
    line(to, "EOS alone", r->empty_answers, "rows whose only trained token it is");
    line_with_first(to, "spelled tokens", r->spelled_tokens, "", &r->first_spelled);
    note[0] = 0;
    if (r->eval_duplicates)
        snprintf(note, sizeof note, "and %s equal to validation rows",
                 grouped(r->eval_duplicates, s));
    line(to, "duplicates", r->duplicates, note);
    if (opts->packing == PACK_OFF) {
        line(to, "documents", r->packed_rows, "not packed");
        return;
    }
    snprintf(note, sizeof note, "of %lld tokens, fill %.1f %%", (long long)opts->max_length,
             100.0 * r->fill);
    line(to, "packed rows", r->packed_rows, note);
    if (opts->packing == PACK_CONCAT)
        line(to, "remainder", r->remainder_tokens, "tokens at the end, in no row");
    else
        line(to, "most documents", r->max_documents, "in one row");
}

/* Control characters would break the table. */
static void put_piece(FILE *to, const char *piece)
{
    for (; *piece; piece++) {
        unsigned char c = (unsigned char)*piece;
        if (c == '\n')
            fputs("\\n", to);
        else if (c == '\r')
            fputs("\\r", to);
        else if (c == '\t')
            fputs("\\t", to);
        else if (c < 0x20 || c == 0x7f)
            fprintf(to, "\\x%02x", c);
        else
            fputc(c, to);
    }
}

void document_print(FILE *to, const Document *doc, const Tokenizer *t, int64_t max_tokens)
{
    int64_t n = max_tokens > 0 && max_tokens < doc->n ? max_tokens : doc->n;
    char *name = row_name(&doc->at);
    fprintf(to, "%s: %lld tokens\n", name, (long long)doc->n);
    free(name);
    fprintf(to, "%8s %8s  %-7s  %s\n", "position", "id", "trained", "token");
    for (int64_t i = 0; i < n; i++) {
        bool trained = i > 0 && doc->labels[i] != UNTRAINED;
        const char *piece = t ? tokenizer_piece(t, doc->ids[i]) : NULL;
        fprintf(to, "%8lld %8d  %-7s  ", (long long)i, (int)doc->ids[i], trained ? "yes" : "-");
        put_piece(to, piece ? piece : "?");
        if (trained && doc->labels[i] != doc->ids[i])
            fprintf(to, "  (its label is %d)", (int)doc->labels[i]);
        fputc('\n', to);
    }
    if (n < doc->n) fprintf(to, "%8s and %lld more\n", "...", (long long)(doc->n - n));
}
