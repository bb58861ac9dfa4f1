/* What `lorac eval` found: of each row and in the mean, as text, JSON, or a file of rows. */
#pragma once

#include "base/err.h"
#include "data/jsonl.h"
#include "infer/rouge.h"

#include <stdint.h>

typedef struct EvalRow {
    char *file;                   /* its own */
    int64_t line, number;         /* as in a RowPlace */
    char *prediction, *reference; /* with has_rouge */
    RougeScore rouge[ROUGE_N];
    double loss; /* mean over the row's trained tokens; with has_loss */
    int64_t trained;
} EvalRow;

typedef struct EvalResult {
    EvalRow *rows;
    int64_t n;
    bool has_loss, has_rouge,
        row_loss; /* row_loss: a row is one document, so that each has a loss */
    bool stem;
    int64_t tokens, trained;
    double loss, perplexity;
    RougeScore mean[ROUGE_N];
} EvalResult;
void eval_result_clear(EvalResult *r);
EvalRow *eval_result_add(EvalResult *r, const RowPlace *at);

/* Scores every prediction and takes the plain means. */
void eval_result_score(EvalResult *r);

/* To standard output. */
Status eval_result_print(const EvalResult *r, bool json, Err *err) MUST_CHECK;
/* One JSON object a row. */
Status eval_result_write(const EvalResult *r, const char *path, Err *err) MUST_CHECK;
