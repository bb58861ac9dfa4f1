/* The batches of a benchmark: rows that are one document each, and rows packed from documents of given lengths. */
#pragma once

#include "data/loader.h"

/* `micro` rows of `seq` tokens, a document each. */
void bench_batch_full(HostBatch *out, int64_t micro, int64_t seq, int64_t vocab, uint64_t seed);

/* The first `micro` rows that best-fit packing makes of the n documents; lengths above `seq` are cut to it, as
 * data.max_length does.  Fewer rows where the documents fill no more. */
void bench_batch_packed(HostBatch *out, int64_t micro, int64_t seq, const int32_t *lens, int64_t n,
                        int64_t vocab, uint64_t seed);

/* As many lengths as SAMSum has training rows (Gliwa et al. 2019), distributed as theirs: the caller frees. */
int32_t *bench_samsum_lengths(int64_t *n);
