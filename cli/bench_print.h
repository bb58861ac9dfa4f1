/* What a benchmark found, as a person reads it and as JSON. */
#pragma once

#include "trainer/bench.h"

/* title: "llama-3-8b lora r16 bf16 4 x 4096" */
void bench_print(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r);
/* An object a line of the result. */
void bench_print_json(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r);
/* The table of --matrix.  A result that was planned and does not fit says so.  floor_a_row: seconds; 0: unknown. */
void bench_print_matrix_head(StrBuf *b, const char *title);
void bench_print_matrix_row(StrBuf *b, const char *name, const BenchResult *r, double floor_a_row);
void bench_print_matrix_json(StrBuf *b, const char *title, const char *name, const BenchOpts *o,
                             const BenchResult *r, double floor_a_row);
/* Time, operations and bytes of a step by op and by kernel. */
void profile_print(StrBuf *b, const Meter *m);
