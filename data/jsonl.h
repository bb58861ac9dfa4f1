/* The rows of a data file: elements of one JSON array, or one JSON value a line.
 *
 * Which of the two is known by the first character.  Rows come as text, found by their brackets and
 * quotes alone and never as one large tree; whoever parses a row says what is wrong inside it. */
#pragma once

#include "base/err.h"

typedef struct RowReader RowReader;

Status rows_open(RowReader **out, const char *path, Err *err) MUST_CHECK;
void rows_close(RowReader *r);           /* NULL is fine */
bool rows_are_array(const RowReader *r); /* else lines */

/* The number, from 1 on, of the row of an array that came last, where it begins on the line of the array's bracket or of the end of the
 * row before; else 0: its line says enough.  Many write an array in one line. */
int64_t rows_number(const RowReader *r);

/* What is kept of a row, so that whoever looks at it later can say which it is. */
typedef struct RowPlace {
    const char *file;
    int64_t line;   /* 1-based, of the row's start */
    int64_t number; /* rows_number */
} RowPlace;

/* The line of err begins with "file:line: " of a row; its number, if it is not 0, comes behind that: "file:1: row 7: ...".  Returns s. */
Status row_error(Err *err, Status s, const char *file, int64_t number);
/* "file:line" or "file:line: row number", for what is no error.  The caller frees. */
char *row_name(const RowPlace *at);

/* The next row: *text is NULL at the end of the file, else it holds `len` bytes until the next call.
 * *line is the 1-based line at which the row starts.  After an error there is nothing more to read. */
Status rows_next(RowReader *r, const char **text, size_t *len, int64_t *line, Err *err) MUST_CHECK;
