/* Collectives of host memory by MPI.  Data go by alltoall and allgather and sums are made here, in the order of
 * ranks: MPI's own reductions may change theirs from run to run. */
#include "dist/comm_mpi.h"

#include "base/str.h"
#include "dist/comm_sum.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>

#define MPI_CHECK(call)                                                                            \
    do {                                                                                           \
        int mpi_error_ = (call);                                                                   \
        if (mpi_error_ != MPI_SUCCESS) {                                                           \
            char mpi_text_[MPI_MAX_ERROR_STRING] = "";                                             \
            int mpi_length_ = 0;                                                                   \
            MPI_Error_string(mpi_error_, mpi_text_, &mpi_length_);                                 \
            panic("MPI: %s: %s", #call, mpi_text_);                                                \
        }                                                                                          \
    } while (0)

/* MPI counts in int: larger pieces go as elements of 8 bytes, which shards are multiples of. */
static int count_of(size_t bytes, MPI_Datatype *type)
{
    if (bytes <= INT_MAX) {
        *type = MPI_BYTE;
        return (int)bytes;
    }
    ASSERT(bytes % 8 == 0 && bytes / 8 <= INT_MAX, "a piece of %zu bytes", bytes);
    *type = MPI_INT64_T;
    return (int)(bytes / 8);
}

static MPI_Comm mpi_of(const Comm *c)
{
    return *(const MPI_Comm *)c->impl;
}

static void gather_bytes(const Comm *c, void *all, const void *mine, size_t bytes)
{
    MPI_Datatype type;
    int n = count_of(bytes, &type);
    bool in_place = (char *)all + (size_t)c->rank * bytes == mine;
    MPI_CHECK(MPI_Allgather(in_place ? MPI_IN_PLACE : mine, n, type, all, n, type, mpi_of(c)));
}

static void mpi_all_gather(Comm *c, Device *d, Tensor *whole, const Tensor *part)
{
    gather_bytes(c, tensor_data(whole), tensor_data(part), tensor_bytes(part));
}

/* sum = the pieces of it that lie one after the other at `pieces`, one a rank. */
static void add_up(Comm *c, Device *d, Tensor *sum, const char *pieces)
{
    size_t bytes = tensor_bytes(sum);
    if (bytes == 0) return;
    d->backend->copy(d, tensor_data(sum), pieces, bytes, COPY_ON_DEVICE);
    for (int i = 1; i < c->size; i++)
        comm_sum_add(d, sum, pieces + (size_t)i * bytes);
}

/* Piece r of what lies at `from` goes to rank r. */
static void swap_pieces(const Comm *c, void *pieces, const void *from, size_t bytes)
{
    MPI_Datatype type;
    int n = count_of(bytes / (size_t)c->size, &type);
    MPI_CHECK(MPI_Alltoall(from, n, type, pieces, n, type, mpi_of(c)));
}

static void mpi_all_to_all(Comm *c, Device *d, Tensor *pieces, const Tensor *whole)
{
    swap_pieces(c, tensor_data(pieces), tensor_data(whole), tensor_bytes(whole));
}

static void mpi_reduce_scatter(Comm *c, Device *d, Tensor *part, const Tensor *whole)
{
    char *pieces = xmalloc(tensor_bytes(whole));
    swap_pieces(c, pieces, tensor_data(whole), tensor_bytes(whole));
    add_up(c, d, part, pieces);
    free(pieces);
}

/* Every rank adds up one piece of t, of about the same size, then all hand theirs around. */
static void mpi_all_reduce(Comm *c, Device *d, Tensor *t)
{
    int *sizes = xmalloc(4 * (size_t)c->size * sizeof *sizes);
    int *firsts = sizes + c->size, *mine_sizes = firsts + c->size,
        *mine_firsts = mine_sizes + c->size;
    size_t e = dtype_bytes(t->dtype);
    int64_t first;
    Tensor mine = comm_sum_piece(t, c->rank, c->size, &first);
    size_t bytes = tensor_bytes(&mine);
    ASSERT(tensor_bytes(t) <= INT_MAX, "an all-reduce of %zu bytes", tensor_bytes(t));
    for (int i = 0; i < c->size; i++) {
        Tensor piece = comm_sum_piece(t, i, c->size, &first);
        sizes[i] = (int)tensor_bytes(&piece);
        firsts[i] = (int)((size_t)first * e);
        mine_sizes[i] = (int)bytes;
        mine_firsts[i] = i * (int)bytes;
    }
    char *pieces = xmalloc(bytes * (size_t)c->size + 1);
    MPI_CHECK(MPI_Alltoallv(tensor_data(t), sizes, firsts, MPI_BYTE, pieces, mine_sizes,
                            mine_firsts, MPI_BYTE, mpi_of(c)));
    add_up(c, d, &mine, pieces);
    MPI_CHECK(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, tensor_data(t), sizes, firsts, MPI_BYTE,
                             mpi_of(c)));
    free(pieces);
    free(sizes);
}

static void mpi_broadcast(Comm *c, Device *d, Tensor *t, int root)
{
    MPI_Datatype type;
    int n = count_of(tensor_bytes(t), &type);
    MPI_CHECK(MPI_Bcast(tensor_data(t), n, type, root, mpi_of(c)));
}

static void mpi_exchange(Comm *c, void *all, const void *mine, size_t bytes)
{
    gather_bytes(c, all, mine, bytes);
}

static Status mpi_split(Comm *c, Comm *out, int color, Err *err)
{
    (void)err;
    MPI_Comm *part = xmalloc(sizeof *part);
    MPI_CHECK(MPI_Comm_split(mpi_of(c), color, out->rank, part));
    out->ops = c->ops;
    out->impl = part;
    return OK;
}

static void mpi_close(Comm *c)
{
    MPI_Comm *comm = c->impl;
    if (c->whole)
        MPI_Comm_free(comm);
    else
        MPI_Finalize();
    free(comm);
}

static const CommOps mpi_ops = {
    .name = "mpi",
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .broadcast = mpi_broadcast,
    .all_to_all = mpi_all_to_all,
    .exchange = mpi_exchange,
    .split = mpi_split,
    .close = mpi_close,
};

/* Other threads watch and move data, but none of them calls MPI. */
Status comm_mpi(Comm *out, Err *err)
{
    int level;
    *out = (Comm){.ops = &mpi_ops};
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS ||
        level < MPI_THREAD_FUNNELED)
        return err_set(err, E_FAILED, "MPI does not start here");
    MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &out->rank));
    MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &out->size));
    MPI_Comm node, *world = xmalloc(sizeof *world);
    *world = MPI_COMM_WORLD;
    out->impl = world;
    MPI_CHECK(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, out->rank, MPI_INFO_NULL, &node));
    MPI_CHECK(MPI_Comm_rank(node, &out->local_rank));
    MPI_CHECK(MPI_Comm_size(node, &out->local_size));
    MPI_CHECK(MPI_Comm_free(&node));
    return OK;
}

bool comm_mpi_built(void)
{
    return true;
}

void comm_mpi_abort(int code)
{
    MPI_Abort(MPI_COMM_WORLD, code);
    abort();
}
