/* A model's answers to the rows of a data file. */
#pragma once

#include "base/log.h"
#include "data/questions.h"
#include "infer/generate.h"

/* E_INPUT with file and line when a prompt leaves no room in `context`; else the longest prompt to *longest. */
Status answers_check(const Questions *q, int64_t context, int64_t *longest, Err *err) MUST_CHECK;

/* Answers all questions; `done` (or NULL) is called for each in order, as soon as it and those before it are
 * complete.  Tells progress on a terminal and a line at the end.  answers (q->n), zeroed; the caller clears. */
typedef void AnswerFn(void *ud, int64_t i, const Generation *g);
Status answers_generate(Generation *answers, const Questions *q, Llama *m, const Tokenizer *t,
                        const GenerateOpts *opts, AnswerFn *done, void *ud, Log *log,
                        Err *err) MUST_CHECK;
