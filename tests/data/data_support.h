/* What the tests of data sets share: a tokenizer of single bytes, files, documents as marked text. */
#pragma once

#include "base/fs.h"
#include "data/loader.h"
#include "data/questions.h"
#include "tests/data/byte_tokenizer.h"
#include "tests/support/tmp.h"

/* The tokenizer of byte_tokenizer.h; fails the test when it cannot be made. */
Tokenizer *byte_tokenizer(const char *dir, int flags);

/* Writes dir/name; the caller frees the path. */
char *put_file(const char *dir, const char *name, const char *text);
char *put_gzip(const char *dir, const char *name, const char *text);

/* A document's tokens as text with its trained stretches between « and », special tokens as written:
 * "<s>prompt«answer</s>». */
char *marked(const Tokenizer *t, const int32_t *ids, const int32_t *labels, int64_t n);

/* All documents, one a line. */
char *marked_set(const Tokenizer *t, const Dataset *d);
/* All lines of problems, with `dir/` cut out. */
char *problem_lines(const Problems *p, const char *dir);
