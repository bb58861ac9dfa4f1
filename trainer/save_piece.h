/* A piece of what this rank saves: some numbers of one range of a shard, with everything that the optimizer keeps beside them.
 * It is copied off the device as it lies there, and put into the form of the files by whoever writes it. */
#pragma once

#include "trainer/save_files.h"

typedef struct SavePiece {
    const ParamShard *shard;
    const ShardRange *range;
    int64_t first, n; /* numbers of the range */
    char *data;       /* in staging memory: save_piece_bytes */
} SavePiece;

enum { SAVE_PIECE_LEAST = 4096 }; /* numbers, where a range has more */

/* Of n numbers of a range. */
size_t save_piece_bytes(const ParamShard *sh, const ShardRange *r, SaveParts parts, int64_t n);

/* Calls fn for what this rank saves, in order; a range is one piece or several, as fn takes: it returns how many of the n
 * numbers from `first` on it took, a multiple of SAVE_PIECE_LEAST or all of them. */
typedef int64_t SavePieceFn(void *ud, const ParamShard *sh, const ShardRange *r, int64_t first,
                            int64_t n);
void save_pieces_each(const ShardSet *s, SavePieceFn *fn, void *ud);

/* Issues the copies to p->data. */
void save_piece_read(Device *d, const SavePiece *p, SaveParts parts);
/* To its places in the files; any thread, when the copies are done. */
Status save_piece_write(const SavePiece *p, SaveFiles *f, SaveParts parts, Err *err) MUST_CHECK;
