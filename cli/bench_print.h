/* What a benchmark found, as a person reads it and as JSON. */
#pragma once

#include "trainer/bench.h"

/* title: "llama-3-8b lora r16 bf16 4 x 4096" */
void bench_print(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r);
void bench_print_json(StrBuf *b, const char *title, const BenchOpts *o, const BenchResult *r);
/* Time, operations and bytes of a step by op and by kernel. */
void profile_print(StrBuf *b, const Meter *m);
