/* Param: a named leaf with storage that outlives the step.  A fused matrix (q, k, v; gate, up) is one
 * Param with a slice for each checkpoint tensor, so loading, saving, optimizer state and weight decay go
 * slice by slice and everybody outside sees the usual names. */
#pragma once

#include "tensor/device.h"
#include "tensor/quant.h"

enum { PARAM_MAX_SLICES = 3 };

/* Rows [row0, row0 + rows) of the Param's matrix (elements of its vector) are one checkpoint tensor. */
typedef struct ParamSlice {
    char *name; /* "model.layers.0.self_attn.q_proj.weight" */
    int64_t row0, rows;
    DType stored; /* in the file that its values came from; F32 where there is none */
} ParamSlice;

typedef struct Param Param;

/* Numbers of a slice that this rank keeps. */
typedef struct ParamPiece {
    Tensor values; /* a vector, or whole rows with their pitch */
    Tensor low;    /* beside them, or no storage */
    int64_t first; /* number of the slice, row by row, with which it begins */
} ParamPiece;
enum { PARAM_MAX_PIECES = 3 }; /* the end of a row, whole rows, the beginning of a row */

/* Who brings the values of a parameter that is not whole on this rank. */
typedef struct ParamHome {
    void (*open)(void *ud, Param *p);
    void (*close)(void *ud, Param *p, bool changed);
    int (*pieces)(void *ud, Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES]);
    void *ud;
} ParamHome;

/* A trained parameter of a bf16 device has an fp32 master copy without a second array of floats: t holds it rounded to the
 * nearest bf16, `low` the 16 bits that this leaves (convert_split), together every bit of it.  On an f32 device t is the
 * master.  Whoever reads or writes values goes through param_read and param_write, and so through the master. */
struct Param {
    Tensor t;   /* the working copy; first, so that &p->t is what ops take */
    Tensor low; /* i16, of t's shape; no storage: t is all there is */
    char *name; /* "model.layers.0.self_attn.qkv.weight"; t.name points here */
    ParamSlice slices[PARAM_MAX_SLICES];
    int n_slices;
    int unit; /* of sharding, recompute and prefetch: 0 the embedding, 1 + i block i, last the head */
    bool trained; /* receives gradients and optimizer state */
    bool decay;   /* weight decay: two or more dimensions (norms and biases not) */
    bool adapter; /* LoRA A, B: MEM_ADAPTER, saved in the adapter file */
    bool
        fp32_states; /* AdamW's are never kept in 8 bits: an embedding, whose rows few gradients reach */
    float lr_scale;        /* 1 unless a config says otherwise */
    int64_t room;          /* rows of the storage behind the matrix, of its pitch */
    uint64_t room_version; /* of what the room holds, as its user counts; 0: nothing */
    uint64_t version;      /* of the contents; param_changed counts it up */
    float *
        twin; /* numel floats that files have behind the values: rows below a matrix, or columns beside it */
    bool twin_beside;      /* columns; twin NULL: none.  Owned */
    const ParamHome *home; /* NULL: the storage is there for good */
    bool
        on_host; /* frozen, with its values in the host's memory and never a storage: host, dense, of t's dtype */
    void *host;
};

/* All parameters of a model in one fixed order: units ascending, within a unit as the forward pass uses
 * them. */
typedef struct ParamSet {
    Param **items; /* borrowed */
    int n, cap;
} ParamSet;

/* Fills in a Param without storage: shape rows x cols (cols 0: a vector).  Copies the names.  One slice of the
 * same name; add more with param_set_slices. */
void param_init(Param *p, const char *name, DType dtype, int64_t rows, int64_t cols, int unit);
/* Replaces the slices: n names and row counts, in order; they must cover all rows. */
void param_set_slices(Param *p, int n, const char *const *names, const int64_t *rows);
void param_clear(Param *p); /* names; the storage, too, when there is one */
/* Room around a frozen matrix for what adapters keep beside it: `cols` in the pitch, `rows` behind the last.  Before it has
 * a storage. */
void param_set_room(Param *p, int64_t rows, int64_t cols);
/* To be told by whoever writes the values: copies elsewhere are then made anew. */
void param_changed(Param *p);
/* Around reading or writing a parameter outside of its segment: between them it has its values in its storage; `changed` tells
 * that they were written.  Parameters of a run of several ranks: all ranks in the same order. */
void param_open(Param *p);
void param_close(Param *p, bool changed);
/* What this rank keeps of a slice that is not quantised, all of it or a part; how many pieces.  Whoever writes to pieces needs not open the
 * parameter; others see it after shards_updated. */
int param_pieces(Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES]);
/* A storage of its own category by p->adapter.  The room is zero, the other contents are undefined. */
void param_alloc(Device *d, Param *p);
/* Checkpoint tensor `slice` as a tensor of its own: valid while the Param is.  Of t, and of low (no storage where there is
 * none). */
Tensor param_slice_view(const Param *p, int slice);
Tensor param_slice_low(const Param *p, int slice);
int64_t param_slice_numel(const Param *p, int slice);
/* The values of a slice, dense, as float on the host: read from the master copy, and written to it and the working copy.
 * Waits for the device. */
void param_read(Device *d, const Param *p, int slice, float *host);
void param_write(Device *d, Param *p, int slice, const float *host);
/* The Euclidean norms of a matrix's rows in the slice, on the host: by the device where it has the values, which are open. */
void param_row_norms(Device *d, const Param *p, int slice, float *norms);
/* Makes p a quantised matrix before it has a storage: q (borrowed, lives as long as p) has its parts, one a slice; they are
 * placed here.  From then on p->t has a shape and a pitch but no storage, and q->packed holds the values. */
void param_set_quant(Param *p, Quant *q);
/* Keeps p, which is frozen and has no storage yet, in the host's memory.  No op takes it then; a few of its rows go to the
 * device at a time (model/host_rows.h). */
void param_set_on_host(Param *p);
/* The values of a slice of one. */
void *param_host_slice(const Param *p, int slice);
/* Whether the values are in memory, as such, quantised or the host's. */
bool param_is_there(const Param *p);
/* Not for one on the host.  A dense tensor (rows, cols) or (rows) of the compute dtype to write a slice's values to: the slice itself, or for a
 * quantised one a scratch, which `end` encodes and frees.  What encoding loses is kept in the part's sums. */
Tensor param_slice_begin(Device *d, Param *p, int slice);
void param_slice_end(Device *d, Param *p, int slice, Tensor *values);
/* Sets trained and t.needs_grad. */
void param_set_trained(Param *p, bool trained);

void paramset_add(ParamSet *s, Param *p);
void paramset_clear(ParamSet *s);
/* The Param and slice of a checkpoint tensor's name; NULL when there is none. */
Param *paramset_find(const ParamSet *s, const char *slice_name, int *slice);
