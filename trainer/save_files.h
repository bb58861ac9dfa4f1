/* The large files of a checkpoint or a result, state.safetensors and the weights as others read them: where everything in them
 * lies, known before a byte is written, so that ranks and threads write their parts in any order; and their checksums, put
 * together from those of the parts. */
#pragma once

#include "trainer/state_file.h"

typedef enum SaveParts { SAVE_WEIGHTS, SAVE_ALL } SaveParts; /* without the state, or with it */

/* What is there for every trained checkpoint tensor: the arrays of the state file, then the weights. */
enum { SAVE_AS_WEIGHTS = STATE_ARRAYS, SAVE_PLACES };

typedef struct SaveFile {
    const SafeFile *file; /* name, header, bytes */
    size_t first_sum;     /* its first in SaveFiles.sums */
    char *path;           /* of the save under way */
    int fd;
} SaveFile;

typedef struct SavePlace {
    int file;
    uint64_t at; /* of the tensor's first number */
    DType dtype;
} SavePlace;

typedef struct SaveFiles {
    StateTensors tensors;
    SafeLayout state, weights;
    SaveFile *items; /* of weights, then the state's */
    int n;
    int n_open;                       /* of the save under way */
    SavePlace (*places)[SAVE_PLACES]; /* by state_tensors_slice */
    _Atomic uint32_t *
        sums; /* this rank's share of the CRC-32C of every MANIFEST_RANGE bytes: ranks' are combined by xor */
    size_t n_sums;
    _Atomic uint64_t n_written; /* bytes, by this rank */
} SaveFiles;

/* Of a session with its model; borrowed. */
Status save_files_init(SaveFiles *f, const Session *s, Err *err) MUST_CHECK;
void save_files_clear(SaveFiles *f);

/* What the files of a save are; nothing is written yet. */
void save_files_begin(SaveFiles *f, const char *dir, SaveParts parts);
/* One rank: the files with their sizes and headers. */
Status save_files_create(SaveFiles *f, Err *err) MUST_CHECK;
/* Every rank, after that. */
Status save_files_open(SaveFiles *f, Err *err) MUST_CHECK;
/* Numbers [first, first + n) of a tensor at its place, of the place's dtype; any thread. */
Status save_files_write(SaveFiles *f, const SavePlace *p, int64_t first, int64_t n,
                        const void *data, Err *err) MUST_CHECK;
/* On the disk.  After an error, too: closes what is open. */
Status save_files_close(SaveFiles *f, Err *err) MUST_CHECK;
/* Of the files of the save under way, all ranks' parts together. */
uint64_t save_files_bytes(const SaveFiles *f);
