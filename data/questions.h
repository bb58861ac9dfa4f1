/* The rows of a data set as questions: what stands before the answer, for `eval` and `generate`.
 *
 * A conversation that ends with an assistant's turn asks for that turn; one that ends with the user's asks
 * for the next.  Rows without an answer are questions all the same; a `text` row is one as a whole, and a
 * `tokens` row asks for what stands from its first trained token on. */
#pragma once

#include "data/loader.h"

typedef struct Question {
    int32_t *ids; /* (n) the prompt, BOS where the training documents have it */
    int64_t n;
    char *text;   /* the prompt, special tokens as the vocabulary writes them */
    char *answer; /* the row's own, or NULL */
    char *row;    /* its JSON (n_row bytes) as it stands in the file */
    size_t n_row;
    RowPlace at;
} Question;

typedef struct Questions {
    Question *items;
    int64_t n;
    char **files; /* what Question.at.file points to */
    int n_files;
    int turn_end; /* the token that ends a turn of the (last) chat template, or -1 */
} Questions;

/* Errors as those of dataset_open. */
Status questions_open(Questions *out, const DataSource *sources, int n, const Tokenizer *t,
                      Pool *pool, Problems *problems) MUST_CHECK;
void questions_clear(Questions *q);
