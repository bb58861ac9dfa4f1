/* ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of one prediction (Lin 2004), equal to the rouge_score package of
 * google-research, which is what papers report.  A mean over rows is the caller's: the package's own aggregate is
 * a median of random resamples around that mean. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct RougeScore {
    double precision, recall, f;
} RougeScore;

typedef enum RougeKind { ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_LSUM, ROUGE_N } RougeKind;
extern const char *const rouge_names[ROUGE_N]; /* "rouge1", "rouge2", "rougeL", "rougeLsum" */

/* Any bytes; text is what is left of them in [a-z0-9] after lower-casing, so other scripts score zero.  `stem`:
 * words of more than three letters go through porter_stem.  Lsum takes a line for a sentence; the others ignore
 * line ends.  Memory: one bit for each pair of words. */
void rouge_score(RougeScore out[ROUGE_N], const char *target, size_t n_target,
                 const char *prediction, size_t n_prediction, bool stem);
