/* What the user sees of a data set before the first step: the counts, and a document token by token. */
#pragma once

#include "data/loader.h"

#include <stdio.h>

/* `name`: what the set is for ("train").  All counts, also those that are zero. */
void dataset_report_print(FILE *to, const char *name, const DataReport *r, const DataOpts *opts);

/* A table: position, id, trained or not, the token as the vocabulary writes it.  At most max_tokens lines
 * (0: all), with a line that says how many follow.  t NULL: without the tokens' text. */
void document_print(FILE *to, const Document *doc, const Tokenizer *t, int64_t max_tokens);
