/* state.safetensors of a checkpoint: fp32 master copy, m and v of every trained checkpoint tensor; where these are in 8 bits,
 * their codes (U8) and the absmax of each STATES_BLOCK elements.  Its layout follows from the tensors and optim.states alone;
 * each rank writes (trainer/saver.h) and reads the bytes that it keeps. */
#pragma once

#include "tensor/safetensors.h"
#include "trainer/session.h"

extern const char state_file_name[];

/* What is kept of a slice; the last two of states in 8 bits alone. */
enum { STATE_MASTER, STATE_M, STATE_V, STATE_M_ABSMAX, STATE_V_ABSMAX, STATE_ARRAYS };

/* The file's tensors: the arrays of all trained slices, one behind the other, in the order of the parameters: "master.NAME", "m.NAME", ... */
typedef struct StateTensors {
    const ParamSet *params; /* borrowed */
    SafeTensor *items;
    int64_t (*shapes)[2];
    int n;
    int *first; /* (n_slices + 1) of each slice, its first tensor */
    int n_slices;
} StateTensors;

void state_tensors_list(StateTensors *out, const ShardSet *shards);
void state_tensors_clear(StateTensors *l);
/* Which of the n_slices a trained parameter's slice is. */
int state_tensors_slice(const StateTensors *l, const Param *p, int slice);

/* Elements of an array beside n elements of its tensor, which begin with a block where they are in 8 bits. */
int64_t state_array_numel(int array, int64_t n);
/* An array but the first of elements [begin, begin + n) of a shard, as states_view; no storage where it is not kept. */
Tensor state_view(const ParamShard *sh, int array, int64_t begin, int64_t n);

typedef enum StateParts { STATE_WEIGHTS, STATE_ALL } StateParts; /* masters; and AdamW's states */

/* Every trained tensor must be there with its shape, and no other.  Working copies follow.  All ranks. */
Status state_file_read(Session *s, const char *dir, StateParts parts, Err *err) MUST_CHECK;
